"""Reads and writes Darknet's files of weights for YOLOv3.

A file is a header and float32 values, all little-endian. The header holds the format's major, minor and revision
number, int32, and the number of images seen in training, int64 since version 0.2, int32 before. The values are those
of each convolution in the order of the cfg: the batch norm's shift, scale, running mean and variance, or without a
batch norm the bias; then the kernel [out,in,h,w]. Layers have no names, and their number is not stored.
Source: darknet's src/parser.c, load_weights_upto.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from morphism.errors import UserError
from morphism.models.yolov3 import PER_CELL, Convolution, backbone, convolutions

SUFFIXES = (".weights", ".74")  # darknet53.conv.74 holds the backbone alone
VERSION = (0, 2, 0)


def read(path: Path) -> dict[str, np.ndarray]:
    """Name in models/yolov3.py -> array in torch's layout; the number of classes follows from the file's length.

    Raises UserError unless the length is that of YOLOv3, with any number of classes, or of its backbone.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(content) < 20:
        raise UserError(f"{path}: {len(content)} bytes, less than darknet's header; fetch it again")
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
    """Writes a file for `read`; `seen`: the number of images seen in training.

    Raises UserError if an array is missing or of another shape.
    """
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
    """Names and shapes of a layer's arrays, in the file's order."""
    name, shape = f"layers.{layer.number}", (layer.outputs,)
    kernel = (f"{name}.conv.weight", (layer.outputs, layer.inputs, layer.kernel, layer.kernel))
    if not layer.normalised:
        return [(f"{name}.conv.bias", shape), kernel]
    return [*((f"{name}.bn.{part}", shape) for part in ("bias", "weight", "running_mean", "running_var")), kernel]


def _count(layers: Iterable[Convolution]) -> int:
    return sum(int(np.prod(shape)) for layer in layers for _, shape in _arrays(layer))


def _layers(numbers: int) -> list[Convolution] | None:
    """The layers of a file that holds `numbers` values; None if it is not YOLOv3's."""
    if numbers == _count(list(backbone())):
        return list(backbone())
    without, each = _count(convolutions(0)), _count(convolutions(1)) - _count(convolutions(0))
    classes, spare = divmod(numbers - without, each)
    return convolutions(classes) if classes > 0 and not spare else None
