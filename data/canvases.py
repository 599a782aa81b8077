"""The canvases of batches: their shapes, the canvas of each record, and the size of its image there.

config.data.window_rule says how the window of an example is drawn (data/examples.py), and so which canvases there are:

    square    one, of config.data.image_size; in evaluation of eval_size
    canvas    the smallest of config.data.canvases that holds the resized image, or one shape for all
    crop      in training config.data.crop, in evaluation by config.data.exact

One program is compiled per canvas. Where a recipe lists the training canvases, an image that fits none is an error;
where it lists none, the images decide. Evaluation and prediction add canvases for images that fit none of those listed,
which changes nothing for the other images.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from morphism.data import targets
from morphism.data.records import Record, Source, name_of
from morphism.data.windows import Size, fit, shorter
from morphism.errors import UserError

# Height and width of a canvas. In evaluation, where a target is OF_IMAGE_SIZE, those of its largest image follow.
Shape = tuple[int, int] | tuple[int, int, int, int]
Groups = Int[np.ndarray, "records"]  # the position of each record's canvas

STEP = 32  # pixels: sides of added canvases are multiples, as the networks' strides require
FEW = 8  # up to this many image sizes, evaluation compiles a program per size, unless config.data.exact says otherwise
LEAST = 32  # pixels per side that the deepest network needs
SCALE_EVERY = 10  # training steps
SCALING = 10  # tells this use of the seed from those of examples and epochs


def canvases(source: Source, data: ConfigDict, training: bool) -> tuple[list[Shape], Groups]:
    """The shapes of batches, and the position of each record's among them.

    Raises UserError for a training image that fits none of the canvases listed.
    """
    if getattr(source, "apart", False):
        return _apart(source, data)
    shapes, groups = _RULES[data.window_rule](source, data, training)
    if training or not any(targets.get(name).OF_IMAGE_SIZE for name in data.targets):
        return shapes, groups
    stored = _sizes(source)
    largest = [tuple(stored[groups == group].max(axis=0, initial=1).tolist()) for group in range(len(shapes))]
    return [(*shape, *each) for shape, each in zip(shapes, largest, strict=True)], groups


def on_one(records: int) -> Groups:
    """All records on the first canvas; takes no memory."""
    return np.broadcast_to(np.int32(0), records)


def _apart(source: Source, data: ConfigDict) -> tuple[list[Shape], Groups]:
    """For evaluation: the canvas that each image would have if it were the only one.

    Sizes of decoded images, which follow, are rounded up, so that images of about the same size share programs; that
    changes no result.
    """
    if data.window_rule == "square":
        return _RULES["square"](source, data, False)
    sizes, first, which = np.unique(_sizes(source), axis=0, return_index=True, return_inverse=True)
    found: dict[Shape, int] = {}
    groups = np.zeros(len(sizes), np.int32)
    for position in np.argsort(first).tolist():  # so that batches follow the order of the images where they can
        size = sizes[position]
        shapes, (group,) = _RULES[data.window_rule](_Single(size[None]), data, False)
        shape = shapes[group]
        if any(targets.get(name).OF_IMAGE_SIZE for name in data.targets):
            shape = (*shape, *map(_rounded, size.tolist()))
        groups[position] = found.setdefault(shape, len(found))
    return list(found), groups[which.ravel()]


@dataclass(frozen=True)
class _Single:
    """A source of one image, of which only the size is known."""

    sizes: Int[np.ndarray, "1 2"]
    classes: ClassVar = ()
    targets: ClassVar = {}

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Record:
        raise IndexError(index)


def _rounded(side: int) -> int:
    """`side` rounded up to 1, 1.25, 1.5 or 1.75 times a power of two; sides below LEAST become LEAST."""
    step = 1 << max(0, max(side, LEAST).bit_length() - 3)
    return -(-max(side, LEAST) // step) * step


def canvas_at(canvas: Shape, step: int, config: ConfigDict) -> Shape:
    """The canvas of training batch `step`: `canvas`, or with config.data.multi_scale a square of one of these sides.

    The side is drawn every ten steps, from the seed and the step alone. Source: yolox/core/trainer.py, after_iter.
    """
    if config.data.window_rule != "canvas" or not config.data.multi_scale:
        return canvas
    rng = np.random.default_rng((config.seed, SCALING, step // SCALE_EVERY))
    return (int(rng.choice(config.data.multi_scale)),) * 2


def smallest_canvas(source: Source, data: ConfigDict) -> Shape:
    """The smallest canvas of training."""
    return min(_of_training(source, data), key=math.prod)


def largest_canvas(source: Source, data: ConfigDict) -> Shape:
    """The largest canvas of training."""
    return max(_of_training(source, data), key=math.prod)


def _of_training(source: Source, data: ConfigDict) -> list[Shape]:
    squares = [(side, side) for side in data.multi_scale] if data.window_rule == "canvas" else []
    return squares or canvases(source, data, training=True)[0]


def presumed(data: ConfigDict, training: bool) -> Shape:
    """The largest canvas that is to be expected without looking at the data.

    Where none is listed and images keep their aspect, it is as wide as config.data.max_size lets an image become; where
    they are not resized, it is that of training.
    """
    if data.window_rule == "square":
        shape = (data.eval_size if data.eval_size and not training else data.image_size,) * 2
    elif data.window_rule == "crop" and (training or data.resize == "none"):
        shape = tuple(data.crop)
    elif training and data.multi_scale:
        shape = (max(data.multi_scale),) * 2
    elif data.canvases or data.resize != "shorter":
        shape = listed(data)[-1]
    else:
        shortest = max((data.image_size, *(data.train_sizes if training else ())))
        shape = tuple(-(-side // STEP) * STEP for side in (shortest, max(shortest, data.max_size)))
    return shape if training else of_masks(shape, data)


def of_masks(shape: Shape, data: ConfigDict) -> Shape:
    """The canvas of an evaluation of images of `shape`, with the size of their masks where a target needs it."""
    return (*shape, *shape) if any(targets.get(name).OF_IMAGE_SIZE for name in data.targets) else shape


def resized(size: Size, canvas: Size, data: ConfigDict, shortest: int = 0, scale: float = 1.0) -> Size:
    """The size that config.data.resize, and then `scale`, give to an image of `size`.

    shorter: the shorter side becomes `shortest`, or config.data.image_size if that is 0. none: the size stays.
    stretch: the canvas. fit: the largest size of the same aspect ratio within the canvas.
    """
    if data.resize == "none":
        return tuple(max(1, round(side * scale)) for side in size)
    if data.resize == "shorter":
        sides = shortest or data.image_size, data.max_size
        return shorter(size, *(max(1, round(side * scale)) for side in sides))
    return canvas if data.resize == "stretch" else fit(size, canvas)


def eval_note(source: Source, data: ConfigDict) -> str:
    """A remark on how evaluation resizes or pads the images of `source`, "" if there is nothing to say."""
    if data.window_rule == "square" or data.resize in ("stretch", "fit"):
        return ""
    sizes = np.unique(_sizes(source), axis=0)
    if getattr(source, "apart", False):
        return _apart_note(len(np.unique([shape[:2] for shape in _apart(source, data)[0]], axis=0)), data)
    if data.window_rule == "canvas":
        return others_note(listed(data), _all_resized(sizes, data))
    if _exact(len(sizes), data) or (len(sizes) == 1 and not data.canvases):
        return ""
    others = others_note(listed(data), _all_resized(sizes, data)) if data.canvases else ""
    return "; ".join(
        [
            f"images of {len(sizes):,} sizes share {max(1, len(data.canvases))} canvas(es), which changes what is "
            "found near their borders; --config.data.exact=always evaluates each at its own size, as publications do, "
            "with a program compiled for each size",
            *([others] if others else []),
        ]
    )


def _apart_note(count: int, data: ConfigDict) -> str:
    """A remark on images that have `count` canvases, of which each needs a program."""
    if count <= FEW:
        return ""
    remedy = "--config.data.canvases='((480, 640), ...)' lists sizes (height, width) to share"
    if data.window_rule == "crop" and data.exact != "never":
        remedy += ", with --config.data.exact=never"
    return f"images on {count:,} canvases, and a program is compiled for each; {remedy}"


def _sizes(source: Source) -> Int[np.ndarray, "records 2"]:
    """Of all images. Raises UserError for a source that does not know them, such as one of labels."""
    known = getattr(source, "sizes", None)
    if known is None:
        raise UserError(
            "config.data.source: this kind does not know the sizes of its images; put mix: before it, which reads them"
        )
    return np.asarray(known)


def _square(source: Source, data: ConfigDict, training: bool) -> tuple[list[Shape], Groups]:
    side = data.image_size if training else data.eval_size or data.image_size
    return [(side, side)], on_one(len(source))


def _canvas(source: Source, data: ConfigDict, training: bool) -> tuple[list[Shape], Groups]:
    """The smallest canvas that holds each resized image; with resize=stretch or fit the only one."""
    shapes = listed(data)
    if data.resize != "shorter":
        return shapes, on_one(len(source))
    largest = max((data.image_size, *(data.train_sizes if training else ())))
    sizes, first, which = np.unique(_sizes(source), axis=0, return_index=True, return_inverse=True)
    needed = _all_resized(sizes, data, largest)
    if training and data.canvases:
        check_held(shapes, sizes, needed, lambda position: name_of(source, int(first[position])))
    else:
        shapes = with_others(shapes, needed)
    return shapes, smallest(shapes, needed)[which.ravel()].astype(np.int32)


def _crop(source: Source, data: ConfigDict, training: bool) -> tuple[list[Shape], Groups]:
    """In training the crop. In evaluation with config.data.exact one canvas per image size, as torchvision and
    mmsegmentation evaluate, with sides of at least LEAST or the training crop's, whichever is less. Else the smallest
    of config.data.canvases that holds the resized image, or without any listed one canvas for all.
    """
    if training:
        return [tuple(data.crop)], on_one(len(source))
    sizes, which = np.unique(_sizes(source), axis=0, return_inverse=True)
    needed = _all_resized(sizes, data)
    if _exact(len(sizes), data):
        own = np.maximum(needed, np.minimum(LEAST, data.crop))
        return list(map(tuple, own.tolist())), which.ravel().astype(np.int32)
    shapes = with_others(listed(data), needed) if data.canvases else [tuple(needed.max(axis=0).tolist())]
    return shapes, smallest(shapes, needed)[which.ravel()].astype(np.int32)


_RULES = {"square": _square, "canvas": _canvas, "crop": _crop}


def _exact(sizes: int, data: ConfigDict) -> bool:
    """Whether images of this many sizes are evaluated each at its own size."""
    return data.exact == "always" or (data.exact == "auto" and sizes <= FEW)


def _all_resized(sizes: Int[np.ndarray, "n 2"], data: ConfigDict, shortest: int = 0) -> Int[np.ndarray, "n 2"]:
    """`resized` for each of `sizes`; config.data.resize must be shorter or none, which need no canvas."""
    return np.array([resized(tuple(size), (0, 0), data, shortest) for size in sizes.tolist()]).reshape(-1, 2)


def listed(data: ConfigDict) -> list[Shape]:
    """config.data.canvases, smallest first; without any, the square of config.data.image_size."""
    shapes = data.canvases or ((data.image_size, data.image_size),)
    return sorted(map(tuple, shapes), key=lambda shape: shape[0] * shape[1])


def smallest(shapes: list[Shape], sizes: Int[np.ndarray, "n 2"]) -> Int[np.ndarray, "n"]:
    """For each of `sizes` the position of the first of `shapes` that holds it, -1 where none does."""
    holds = (sizes[:, None] <= np.array(shapes)[None]).all(axis=-1)
    return np.where(holds.any(axis=1), holds.argmax(axis=1), -1)


def with_others(shapes: list[Shape], sizes: Int[np.ndarray, "n 2"]) -> list[Shape]:
    """`shapes`, followed by canvases for those of `sizes` that fit none.

    A size gets one of `shapes` turned by 90 degrees if that holds it. Of the sizes left, all landscapes share one
    canvas, and all portraits another.
    """
    shapes = list(shapes)
    turned = [(width, height) for height, width in shapes if (width, height) not in shapes]
    left = sizes[smallest(shapes, sizes) < 0]
    if turned and len(left):
        held = smallest(turned, left)
        shapes += [turned[position] for position in np.unique(held[held >= 0])]
        left = left[held < 0]
    portrait = left[:, 0] > left[:, 1]
    for each in (left[~portrait], left[portrait]):
        if len(each):
            height, width = (-(-each.max(axis=0) // STEP) * STEP).tolist()
            shapes.append((height, width))
    return shapes


def check_held(
    shapes: list[Shape], stored: Int[np.ndarray, "n 2"], resized: Int[np.ndarray, "n 2"], name: Callable[[int], str]
) -> None:
    """Raises UserError for an image that fits none of `shapes`; name(k) is its name. Sizes are height, width."""
    unheld = np.flatnonzero(smallest(shapes, resized) < 0)
    if not len(unheld):
        return
    height, width = stored[unheld[0]].tolist()
    needed = [tuple(map(int, shape)) for shape in with_others(shapes, resized)]
    raise UserError(
        f"{name(int(unheld[0]))}: {height} x {width} (height x width), becomes "
        f"{resized[unheld[0]][0]} x {resized[unheld[0]][1]}, which no canvas of config.data.canvases holds: {shapes}; "
        f"set config.data.canvases='{tuple(needed)}', or resize=fit"
    )


def others_note(shapes: list[Shape], sizes: Int[np.ndarray, "n 2"]) -> str:
    """A remark on canvases added to `shapes`, "" if none were."""
    added = with_others(shapes, sizes)[len(shapes) :]
    if not added:
        return ""
    count, names = int((smallest(shapes, sizes) < 0).sum()), ", ".join(f"{h} x {w}" for h, w in added)
    these = f"images of {count:,} size{'s' * (count > 1)}"
    return f"{these} are larger than the canvases and get others: {names} (height x width)"
