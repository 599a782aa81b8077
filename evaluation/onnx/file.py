"""The .onnx file of an exported model: its graph, checked, with what is to be known of the model in its metadata."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import jax.export

from morphism.errors import UserError
from morphism.evaluation.exported import Exported
from morphism.ops.platform import as_accelerator
from morphism.runtime.paths import write_bytes

SUFFIX = ".onnx"
LARGEST = 2**31 - 1  # bytes of one protocol buffer


def check_installed() -> None:
    """Raises UserError if the package `onnx` is missing."""
    if importlib.util.find_spec("onnx") is None:
        raise UserError("--format=onnx needs the package onnx; pip install 'morphism[onnx]'")


def write(path: Path, exported: Exported) -> None:
    """Writes the file atomically. Raises UserError for an operation that ONNX lacks, and if the disk refuses."""
    check_installed()
    import onnx

    from morphism.evaluation.onnx.convert import BATCH, OPSET, convert

    batch: Any = exported.batch or jax.export.symbolic_shape(BATCH)[0]
    try:
        with as_accelerator():
            model = convert(
                lambda *given: exported.program(*given),  # another function: JAX remembers what it traced
                exported.weights,
                exported.inputs(batch),
                exported.facts["model"],
            )
    except NotImplementedError as error:
        raise UserError(
            f"{exported.facts['model']}: ONNX export has no rule for {error}; write --format=stablehlo instead"
        ) from error
    for key, value in (exported.facts | {"format": "morphism.onnx/1", "opset": OPSET}).items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)
        model.metadata_props.add(key=key, value=text)
    if model.ByteSize() > LARGEST:
        raise UserError(f"{exported.facts['model']}: larger than the 2 GiB of an ONNX file; write --format=stablehlo")
    onnx.checker.check_model(model)
    write_bytes(path, model.SerializeToString(), "name a file that can be written as --output")
