"""Writes a trained model for other programs, in the format that the suffix of --output names.

    morphism export --workdir runs/r50 --output r50.safetensors
    morphism export --workdir runs/scenes --output scenes.onnx [--size 96x128] [--batch 1]
    morphism export --config experiments/coco_yolox.py:s --config.data.source=coco:/data/coco \\
        --weights yolox_s.safetensors --output yolox_s.stablehlo

.safetensors: the weights under torch's names and layouts. If the architecture is one of torchvision's, torch loads the
file with model.load_state_dict(safetensors.torch.load_file("r50.safetensors"), strict=True). `morphism eval`, `morphism
predict` and config.init_from read it too: its header holds the names of the classes, the model's options, and the sizes
and normalisation of images.
.stablehlo: the whole program, which JAX runs on CPU, GPU or TPU without this project.
.onnx: the whole program, for ONNX Runtime and others; needs the package onnx.
Programs take pixels, uint8 RGB [B,H,W,3], normalise them, and return probabilities, detections or maps of classes.
Where the run kept moving averages, they are written. docs/export.md says what is in each file and how to use it.
"""

import re
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from morphism.commands import cli
from morphism.errors import UserError

if TYPE_CHECKING:
    from morphism.evaluation.run import Run

FORMATS = ("safetensors", "stablehlo", "onnx")

COMMAND = cli.Command(config="flag", trained=True)
_OUTPUT = COMMAND.string("output", None, "The file to write.")
_FORMAT = COMMAND.string("format", "", "safetensors, stablehlo or onnx; that of --output's suffix unless given.")
_SIZE = COMMAND.string("size", "", "Programs: 640, or 375x500 for height and width of the input; the config's.")
_BATCH = COMMAND.string("batch", "any", "Programs: images per call, a number or any.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}")
    if not _OUTPUT.value:
        raise UserError("--output is missing; see morphism export --help")
    path = Path(_OUTPUT.value)
    kind, size, batch = format_of(path, _FORMAT.value), size_of(_SIZE.value), batch_of(_BATCH.value)
    if kind == "safetensors" and (size or _BATCH.value != "any"):
        raise UserError(f"--{'size' if size else 'batch'}: .safetensors holds weights for any; leave it out")
    if not path.parent.is_dir():
        raise UserError(f"{path}: cannot be written (no folder {path.parent}); name another file as --output")
    from morphism.runtime.startup import start_jax

    start_jax()
    run = COMMAND.open_trained(partial(print, file=sys.stderr, flush=True))
    if kind == "safetensors":
        print(_weights(path, run))
    else:
        print(_program(path, run, kind, size, batch))


def format_of(path: Path, given: str) -> str:
    """One of FORMATS: `given`, or that of the path's suffix. Raises UserError for another, and where both differ."""
    suffix = path.suffix.removeprefix(".")
    kind = given or suffix
    if kind not in FORMATS:
        named = f"--format is {given!r}" if given else f"{path}: its suffix says no format"
        raise UserError(f"{named}; it must be {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if suffix != kind:
        raise UserError(f"{path}: --format={kind} is written as .{kind}; name the file so")
    return kind


def size_of(text: str) -> tuple[int, int] | None:
    """Height and width in pixels; None if none are given."""
    found = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if text and not found:
        raise UserError(f"--size is {text!r}; write 640, or 375x500 for height and width")
    return (int(found[1]), int(found[2] or found[1])) if found else None


def batch_of(text: str) -> int:
    """Images per call; 0 for any number."""
    if not re.fullmatch(r"any|[1-9]\d*", text):
        raise UserError(f"--batch is {text!r}; write a number, or any")
    return 0 if text == "any" else int(text)


def _weights(path: Path, run: "Run") -> str:
    from morphism.weights import files
    from morphism.weights.convert import to_torch
    from morphism.weights.opening import trained_fields

    tensors = to_torch(run.variables)
    files.write(path, tensors, {"classes": run.classes, **trained_fields(run.config)})
    values = sum(tensor.size for tensor in tensors.values())
    return f"{run.name}: {len(tensors)} arrays, {values:,} values, in {path}; SHA-256 {files.sha256(path)}"


def _program(path: Path, run: "Run", kind: str, size: tuple[int, int] | None, batch: int) -> str:
    from morphism.evaluation import exported, stablehlo
    from morphism.evaluation.onnx import file as onnx
    from morphism.weights.files import sha256

    start = time.monotonic()
    if kind == "onnx":
        onnx.check_installed()
    found = exported.export(run, size, batch)
    {"stablehlo": stablehlo, "onnx": onnx}[kind].write(path, found)
    height, width = found.canvas
    outputs = ", ".join(found.facts["outputs"])
    return (
        f"{run.name}: {outputs} of images of {height}x{width} (height x width), {batch or 'any number'} per call, in "
        f"{path}, {path.stat().st_size / 1e6:.1f} MB, {time.monotonic() - start:.1f} s; SHA-256 {sha256(path)}"
    )
