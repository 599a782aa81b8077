"""Darknet's files of weights for YOLOv3, read and written.

A file is a header (int32 major, minor and revision of its format, then how many pictures were seen in training, int64
from version 0.2 on, int32 before) and float32 numbers, all little-endian: of each convolution in the order of the cfg
the batch norm's shift, scale, running mean and variance, or without batch norm the bias, then the kernel [out,in,h,w].
Nothing in it names a layer or says how many there are. Source: darknet's src/parser.c, load_weights_upto.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from morphism.errors import UserError
from morphism.models.yolov3 import PER_CELL, Convolution, backbone, convolutions

SUFFIXES = (".weights", ".74")  # darknet53.conv.74 holds the backbone alone
VERSION = (0, 2, 0)


def read(path: Path) -> dict[str, np.ndarray]:
    """Name -> array in torch's layout, of models/yolov3.py; the number of classes is told by the file's length.

    Raises UserError for a file of any length but that of YOLOv3, of some number of classes, or of its backbone.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(content) < 20:
        raise UserError(f"{path}: {len(content)} bytes, less than a header of darknet's; fetch it again")
    major, minor = np.frombuffer(content, "<i4", 2)
    header = 20 if major * 10 + minor >= 2 else 16
    numbers, spare = divmod(len(content) - header, 4)
    layers = None if spare else _layers(numbers)
    if layers is None:
        without, each = _count(convolutions(0)), _count(convolutions(1)) - _count(convolutions(0))
        raise UserError(
            f"{path}: {len(content) - header} bytes of weights; YOLOv3 of K classes has {4 * without} + K x {4 * each} "
            f"and its backbone {4 * _count(backbone())}; is it cut off, or of another network? Fetch it again"
        )
    values, found, at = np.frombuffer(content, "<f4", offset=header), {}, 0
    for layer in layers:
        for name, shape in _arrays(layer):
            size = int(np.prod(shape))
            found[name] = values[at : at + size].reshape(shape)
            at += size
    return found


def write(path: Path, tensors: Mapping[str, np.ndarray], seen: int = 0) -> None:
    """Writes what `read` reads. Raises UserError where `tensors` lack an array or have one of another shape."""
    last = tensors.get("layers.81.conv.bias", np.zeros(0))
    layers = convolutions(len(last) // PER_CELL - 5) if len(last) else list(backbone())
    parts = [np.array(VERSION, "<i4").tobytes(), np.array(seen, "<i8").tobytes()]
    for layer in layers:
        for name, shape in _arrays(layer):
            if name not in tensors or tensors[name].shape != shape:
                had = list(tensors[name].shape) if name in tensors else "missing"
                raise UserError(f"{path}: {name} is {had}, where YOLOv3 has {list(shape)}")
            parts.append(np.asarray(tensors[name], "<f4").tobytes())
    path.write_bytes(b"".join(parts))


def _arrays(layer: Convolution) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes, in the file's order."""
    name, shape = f"layers.{layer.number}", (layer.outputs,)
    kernel = (f"{name}.conv.weight", (layer.outputs, layer.inputs, layer.kernel, layer.kernel))
    if not layer.normalised:
        return [(f"{name}.conv.bias", shape), kernel]
    return [*((f"{name}.bn.{part}", shape) for part in ("bias", "weight", "running_mean", "running_var")), kernel]


def _count(layers: Sequence[Convolution]) -> int:
    return sum(int(np.prod(shape)) for layer in layers for _, shape in _arrays(layer))


def _layers(numbers: int) -> list[Convolution] | None:
    """Those of a file of so many numbers."""
    if numbers == _count(list(backbone())):
        return list(backbone())
    without, each = _count(convolutions(0)), _count(convolutions(1)) - _count(convolutions(0))
    classes, spare = divmod(numbers - without, each)
    return convolutions(classes) if classes > 0 and not spare else None
