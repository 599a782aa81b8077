"""Training examples that can be kept: which are the same each time that their record is drawn.

An example depends on its draw through its window alone. With these recipes the window is fixed, or only moves what has
been rendered, which a device can do too, to the bit (`moves`):

    square    config.data.train_crop=center
    canvas    one canvas; none of zoom_out, iou_crop, scale_jitter, several train_sizes, multi_scale; no flips, except
              those of mosaics, which happen on the device
    crop      a fixed scale; neither elastic nor cat_max_ratio; images of one size, or all no larger than the crop

With `crop` the part that is shown, and whether it is flipped, may be drawn if all targets are class maps or labels, and
if the images are not resized or fit the crop: a crop of a resized image need not equal the resized crop to the bit.
"""

import shlex
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from morphism.data import examples, pipeline
from morphism.data.canvases import Shape, canvases, resized
from morphism.data.pipeline import Batch, TrainBatch
from morphism.data.records import Source
from morphism.data.sampling import Draw
from morphism.data.windows import Size
from morphism.errors import UserError

MOVED = ("image", "segmentation", "weight")  # keys of a batch that follow the window
STILL_TARGETS = {"label", "segmentation"}  # whose keys are among MOVED, or do not depend on the window
ROWS = 64  # records that are loaded at once


def refusal(source: Source, config: ConfigDict) -> str:
    """Why training examples of `source` cannot be kept, with a remedy; "" if they can."""
    data, augment = config.data, config.augment
    if data.window_rule == "square":
        if data.train_crop == "center":
            return ""
        remedy = "set it to center (config.augment.crop_padding crops on the device)"
        return f"config.data.train_crop={data.train_crop!r} draws crops on the host; {remedy}"
    shapes, groups = canvases(source, data, training=True)
    if groups.any():
        return f"its images are on {len(shapes)} canvases; set config.data.canvases to one, or config.data.resize=fit"
    return (_of_canvas if data.window_rule == "canvas" else _of_crop)(source, data, augment)


def _of_canvas(source: Source, data: ConfigDict, augment: ConfigDict) -> str:
    drawn = {
        "data.multi_scale": (data.multi_scale, ()),
        "data.train_sizes": (data.train_sizes if len(data.train_sizes) > 1 else (), ()),
        "augment.zoom_out": (augment.zoom_out, 0.0),
        "augment.iou_crop": (augment.iou_crop, False),
        "augment.scale_jitter": (augment.scale_jitter, ()),
        "augment.flip_probability": (augment.flip_probability if augment.mosaic == 0 else 0.0, 0.0),
    }
    return _drawn(drawn)


def _of_crop(source: Source, data: ConfigDict, augment: ConfigDict) -> str:
    scaled = data.scale[0] < data.scale[1]
    drawn = {
        "data.scale": (data.scale if scaled else (1.0, 1.0), (1.0, 1.0)),
        "data.cat_max_ratio": (data.cat_max_ratio, 1.0),
        "augment.elastic": (augment.elastic, 0.0),
    }
    sizes = np.unique(np.asarray(source.sizes), axis=0)
    scale = 1.0 if scaled else data.scale[0]  # to which the remedy sets it
    shown = np.array([resized(tuple(size), tuple(data.crop), data, scale=scale) for size in sizes.tolist()])
    shifts, flips = bool((shown > data.crop).any()), augment.flip_probability > 0
    if (shifts or flips) and len(sizes) > 1:
        return f"its images have {len(sizes):,} sizes; set config.data.on_device to False"
    reasons = [_drawn(drawn)]
    if (shifts or flips) and not set(data.targets) <= STILL_TARGETS:
        least = tuple(shown.max(axis=0).tolist())
        reasons.append(
            f"config.data.targets={tuple(data.targets)} would have to move with crops and flips; set "
            f"config.augment.flip_probability=0.0, and config.data.crop='{least}' or larger"
        )
    elif shifts and (shown != sizes).any():
        reasons.append(
            "images are resized before they are cropped at random; set config.data.resize=none and "
            "config.data.scale='(1.0, 1.0)'"
        )
    return "; ".join(filter(None, reasons))


def _drawn(drawn: dict[str, tuple]) -> str:
    """Names the fields whose value is not the one that draws nothing."""
    moving = {f"config.{name}": (value, still) for name, (value, still) in drawn.items() if value != still}
    if not moving:
        return ""
    found = " and ".join(f"{name}={value!r}" for name, (value, _) in moving.items())
    remedy = " and ".join(f"{name}={shlex.quote(repr(still))}" for name, (_, still) in moving.items())
    return f"{found} {'draws' if len(moving) == 1 else 'draw'} on the host; set {remedy}"


def _resized(size: Size, data: ConfigDict) -> Size:
    return resized(size, tuple(data.crop), data, scale=data.scale[0])


@dataclass(frozen=True)
class Kept:
    """The examples of a split, and how an example of a step is made of them. `refusal` must be ""; pixels settled."""

    source: Source
    config: ConfigDict
    load: TrainBatch

    @classmethod
    def of(cls, source: Source, config: ConfigDict, process_index: int = 0, processes: int = 1) -> "Kept":
        shard = pipeline.Shard(config.batch_size, process_index, processes)
        return cls(source, config, TrainBatch.of(source, config, shard))

    @property
    def moves(self) -> bool:
        """Whether examples are parts of what is kept, or flipped."""
        if self.config.data.window_rule != "crop":
            return False
        return self.config.augment.flip_probability > 0 or self.kept_shape != self.shape

    @property
    def shape(self) -> Shape:
        """Of the canvas of batches."""
        return self.load.shapes[0]

    @property
    def kept_shape(self) -> Shape:
        """Of the canvas on which examples are kept: it holds the whole image."""
        if self.config.data.window_rule != "crop":
            return self.shape
        return tuple(np.maximum(self._sizes.max(axis=0), self.shape).tolist())

    @property
    def shown(self) -> Size:
        """Of the part of the canvas of a batch that is image, where all are alike."""
        height, width = np.minimum(self._sizes[0], self.shape).tolist()
        return height, width

    @property
    def _sizes(self) -> Int[np.ndarray, "n 2"]:
        """All sizes that images have after resizing."""
        sizes = np.unique(np.asarray(self.source.sizes), axis=0)
        return np.array([_resized(tuple(size), self.config.data) for size in sizes.tolist()])

    def bytes(self) -> int:
        """Of all examples."""
        one = pipeline.blank_batch(1, self.kept_shape, self.config, training=True)
        return len(self.source) * sum(value.nbytes for value in one.values())

    def examples(self) -> Batch:
        """All examples, in the order of the records, as one batch. Raises UserError as training does.

        With config.data.broken=skip, `unread` is the record itself where the example is that of the next one.
        """
        blank = pipeline.blank_batch(0, self.kept_shape, self.config, training=True)
        found = {key: np.empty((len(self.source), *each.shape[1:]), each.dtype) for key, each in blank.items()}
        chunks = -(-len(self.source) // ROWS)
        load = _Chunk(replace(self.load, config=self._still()), self.kept_shape)
        for number, chunk in enumerate(pipeline.iterate(load, 0, chunks, self.config.data)):
            for key, value in chunk.items():
                found[key][number * ROWS : number * ROWS + len(value)] = value
        return found

    def _still(self) -> ConfigDict:
        """The configuration that shows the whole image."""
        config = self.config.copy_and_resolve_references()
        with config.unlocked():
            if config.data.window_rule == "crop":
                config.data.crop = self.kept_shape
                config.augment.flip_probability = 0.0
        return config

    def draws(self, step: int) -> tuple[Int[np.ndarray, "b"], Int[np.ndarray, "b"]]:
        """The records of this process's rows of the batch of `step`, and how often each was drawn before."""
        drawn = np.array(self.load.plan(step, self.load.shard.rows)[1], np.int32)
        return drawn[:, 0], drawn[:, 1]

    def windows(self, ids: Int[np.ndarray, "b"], draws: Int[np.ndarray, "b"]) -> Batch:
        """corner int32 [b,2], top left of the part that each example shows, and flip bool [b]."""
        found = []
        size = tuple(np.asarray(self.source.sizes[0]).tolist())
        for index, draw in zip(ids.tolist(), draws.tolist(), strict=True):
            rng = np.random.default_rng((self.config.seed, draw, index))
            found.append(examples.train_window(size, self.config, self.shape, rng))
        corners = np.array([(-window.offset[0], -window.offset[1]) for window in found], np.int32)
        return {"corner": corners.reshape(-1, 2), "flip": np.array([window.flip for window in found], bool)}


@dataclass(frozen=True)
class _Chunk:
    """number -> ROWS examples, from record number * ROWS on."""

    load: TrainBatch
    shape: Shape

    def __call__(self, number: int) -> Batch:
        records = range(number * ROWS, min(len(self.load.source), (number + 1) * ROWS))
        return self.load.batch_of([Draw(index, 0) for index in records], 0, self.shape)


def check(source: Source, config: ConfigDict) -> None:
    """Raises UserError if config.data.on_device asks for what cannot be."""
    if config.data.on_device and (reason := refusal(source, config)):
        raise UserError(f"config.data.on_device: {reason}")
