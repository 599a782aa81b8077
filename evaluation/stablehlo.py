"""A model as StableHLO in one file, which JAX runs without this project.

The file is a zip that numpy.load opens:

    about.json               what is to be known of the model (evaluation/exported.py); `programs`: JAX's backend ->
                             name of its program; `weights`: the names of the weights
    cpu.stablehlo            the programs, serialised by jax.export: (weights, images (, sizes)) -> {name: array}
    accelerator.stablehlo    for CUDA and TPU
    params/..., batch_stats/...    the weights, as .npy

There are two programs because some operations take other forms on CPU (ops/platform.py); both share the weights.
"""

import io
import json
import zipfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np

from morphism.errors import UserError, one_line
from morphism.evaluation.exported import Exported
from morphism.ops.platform import as_accelerator, as_cpu
from morphism.runtime.paths import write_bytes

SUFFIX = ".stablehlo"
PROGRAMS = {"cpu": (as_cpu, ("cpu",)), "accelerator": (as_accelerator, ("cuda", "tpu"))}
BACKENDS = {"cpu": "cpu", "gpu": "accelerator", "tpu": "accelerator"}


def write(path: Path, exported: Exported) -> None:
    """Writes the file atomically. Raises UserError if the disk refuses, or if a batch of any size is impossible."""
    batch = exported.batch or jax.export.symbolic_shape("batch")[0]
    content = {f"{name}{SUFFIX}": _serialised(exported, batch, *how) for name, how in PROGRAMS.items()}
    about = exported.facts | {
        "format": "morphism.stablehlo/1",
        "jax": jax.__version__,
        "programs": {backend: f"{name}{SUFFIX}" for backend, name in BACKENDS.items()},
        "weights": sorted(exported.weights),
    }
    content = {"about.json": json.dumps(about, indent=2, ensure_ascii=False, allow_nan=False).encode()} | content
    write_bytes(path, _zipped(content, exported.weights), "name a file that can be written as --output")


def _serialised(
    exported: Exported, batch: Any, form: type[AbstractContextManager] | Any, platforms: tuple[str, ...]
) -> bytes:
    def program(*inputs: Any) -> dict[str, jax.Array]:  # another function for each form: JAX remembers what it traced
        return exported.program(*inputs)

    weights = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in exported.weights.items()}
    with form():
        try:
            found = jax.export.export(jax.jit(program), platforms=platforms)(weights, *exported.inputs(batch).values())
        except (TypeError, ValueError, NotImplementedError) as error:
            if exported.batch:
                raise
            raise UserError(
                f"--batch=any: the model needs to know the size of a batch ({one_line(error):.200}); give --batch 1"
            ) from error
    return bytes(found.serialize())


def _zipped(files: dict[str, bytes], arrays: dict[str, Any]) -> bytes:
    """A zip of files, and of arrays as .npy. The same content gives the same bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as into:
        for name, each in files.items():
            into.writestr(zipfile.ZipInfo(name), each)
        for name, array in sorted(arrays.items()):
            encoded = io.BytesIO()
            np.lib.format.write_array(encoded, np.asarray(array, order="C"), allow_pickle=False)
            into.writestr(zipfile.ZipInfo(f"{name}.npy"), encoded.getvalue())
    return content.getvalue()
