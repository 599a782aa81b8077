"""The canvases of batches: their shapes, which of them each record is put on, and how large its image is there.

config.data.window_rule says how an example's window is drawn (data/examples.py), and so what canvases there are:

    square    one, of config.data.image_size, in evaluation of eval_size
    canvas    the smallest of config.data.canvases that holds the image resized, or all have one shape
    crop      in training config.data.crop, in evaluation by config.data.exact

Each canvas is a program to compile. Where a recipe lists those to train on, an image that none of them holds is an
error; where it lists none, the images decide. Evaluation and prediction take images as they come: what no canvas holds
gets another, which changes nothing for the others.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from morphism.data import targets
from morphism.data.records import Source, name_of
from morphism.data.windows import Size, fit, shorter
from morphism.errors import UserError

# Height and width of a canvas; in evaluation followed by those of the largest image on it, where a target has its size.
Shape = tuple[int, int] | tuple[int, int, int, int]
Groups = Int[np.ndarray, "records"]  # the position of each record's canvas

STEP = 32  # pixels: the sides of canvases that are added are multiples, as the networks' strides want them
FEW = 8  # sizes of images for which evaluation has a program each, unless config.data.exact says otherwise
LEAST = 32  # pixels a side that the deepest of the networks needs
SCALE_EVERY = 10  # training steps
SCALING = 10  # in the seed, beside those of examples and epochs


def canvases(source: Source, data: ConfigDict, training: bool) -> tuple[list[Shape], Groups]:
    """The shapes of batches, and which of them each record is put into.

    Raises UserError where training is given its canvases and an image fits none.
    """
    shapes, groups = _RULES[data.window_rule](source, data, training)
    if training or not any(targets.get(name).OF_IMAGE_SIZE for name in data.targets):
        return shapes, groups
    stored = np.asarray(source.sizes)
    largest = [tuple(stored[groups == group].max(axis=0, initial=1).tolist()) for group in range(len(shapes))]
    return [(*shape, *each) for shape, each in zip(shapes, largest, strict=True)], groups


def canvas_at(canvas: Shape, step: int, config: ConfigDict) -> Shape:
    """That of training batch `step`: `canvas`, or with config.data.multi_scale a square of one of these sides.

    It is drawn anew every ten steps, from the seed and the step alone. Source: yolox/core/trainer.py, after_iter.
    """
    if config.data.window_rule != "canvas" or not config.data.multi_scale:
        return canvas
    rng = np.random.default_rng((config.seed, SCALING, step // SCALE_EVERY))
    return (int(rng.choice(config.data.multi_scale)),) * 2


def smallest_canvas(source: Source, data: ConfigDict) -> Shape:
    """Of training."""
    squares = [(side, side) for side in data.multi_scale] if data.window_rule == "canvas" else []
    return min(squares or canvases(source, data, training=True)[0], key=lambda shape: shape[0] * shape[1])


def resized(size: Size, canvas: Size, data: ConfigDict, shortest: int = 0, scale: float = 1.0) -> Size:
    """What an image of `size` is resized to by config.data.resize, and then by `scale`.

    shorter: the shorter side becomes `shortest`, or config.data.image_size. none: it stays. stretch, fit: to `canvas`.
    """
    if data.resize == "none":
        return tuple(max(1, round(side * scale)) for side in size)
    if data.resize == "shorter":
        sides = shortest or data.image_size, data.max_size
        return shorter(size, *(max(1, round(side * scale)) for side in sides))
    return canvas if data.resize == "stretch" else fit(size, canvas)


def eval_note(source: Source, data: ConfigDict) -> str:
    """What a person must know of how evaluation sees the images of `source`, or ""."""
    if data.window_rule == "square" or data.resize in ("stretch", "fit"):
        return ""
    sizes = np.unique(np.asarray(source.sizes), axis=0)
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


def _square(source: Source, data: ConfigDict, training: bool) -> tuple[list[Shape], Groups]:
    side = data.image_size if training else data.eval_size or data.image_size
    return [(side, side)], np.zeros(len(source), np.int32)


def _canvas(source: Source, data: ConfigDict, training: bool) -> tuple[list[Shape], Groups]:
    """The smallest that holds each image resized; with resize=stretch or fit all are as large as theirs, or within."""
    shapes = listed(data)
    if data.resize != "shorter":
        return shapes, np.zeros(len(source), np.int32)
    largest = max((data.image_size, *(data.train_sizes if training else ())))
    sizes, first, which = np.unique(source.sizes, axis=0, return_index=True, return_inverse=True)
    needed = _all_resized(sizes, data, largest)
    if training and data.canvases:
        check_held(shapes, sizes, needed, lambda position: name_of(source, int(first[position])))
    else:
        shapes = with_others(shapes, needed)
    return shapes, smallest(shapes, needed)[which.ravel()].astype(np.int32)


def _crop(source: Source, data: ConfigDict, training: bool) -> tuple[list[Shape], Groups]:
    """In training the crop. In evaluation by config.data.exact: each image at its own size, as torchvision and
    mmsegmentation evaluate, which is a shape for every size of image, and at least LEAST a side unless training crops
    are smaller. Or the smallest of config.data.canvases that holds the image resized, or without them one for all.
    """
    if training:
        return [tuple(data.crop)], np.zeros(len(source), np.int32)
    sizes, which = np.unique(np.asarray(source.sizes), axis=0, return_inverse=True)
    needed = _all_resized(sizes, data)
    if _exact(len(sizes), data):
        own = np.maximum(needed, np.minimum(LEAST, data.crop))
        return list(map(tuple, own.tolist())), which.ravel().astype(np.int32)
    shapes = with_others(listed(data), needed) if data.canvases else [tuple(needed.max(axis=0).tolist())]
    return shapes, smallest(shapes, needed)[which.ravel()].astype(np.int32)


_RULES = {"square": _square, "canvas": _canvas, "crop": _crop}


def _exact(sizes: int, data: ConfigDict) -> bool:
    """Whether images of so many sizes are evaluated each at its own."""
    return data.exact == "always" or (data.exact == "auto" and sizes <= FEW)


def _all_resized(sizes: Int[np.ndarray, "n 2"], data: ConfigDict, shortest: int = 0) -> Int[np.ndarray, "n 2"]:
    """With config.data.resize shorter or none, which need no canvas."""
    return np.array([resized(tuple(size), (0, 0), data, shortest) for size in sizes.tolist()]).reshape(-1, 2)


def listed(data: ConfigDict) -> list[Shape]:
    """config.data.canvases, smallest first; without any the square of config.data.image_size."""
    shapes = data.canvases or ((data.image_size, data.image_size),)
    return sorted(map(tuple, shapes), key=lambda shape: shape[0] * shape[1])


def smallest(shapes: list[Shape], sizes: Int[np.ndarray, "n 2"]) -> Int[np.ndarray, "n"]:
    """The position of the first of `shapes` that holds each of `sizes`, -1 where none does."""
    holds = (sizes[:, None] <= np.array(shapes)[None]).all(axis=-1)
    return np.where(holds.any(axis=1), holds.argmax(axis=1), -1)


def with_others(shapes: list[Shape], sizes: Int[np.ndarray, "n 2"]) -> list[Shape]:
    """`shapes`, and behind them what `sizes` that none of them holds need.

    That is a canvas of `shapes` turned by a quarter, where it holds the size, else one as large as the largest of the
    landscapes left, and one for the portraits.
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
    """Raises UserError where none of `shapes` holds an image; name(k) is what it is called. Sizes are height, width."""
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
    """Tells of canvases beyond `shapes`; "" where there are none."""
    added = with_others(shapes, sizes)[len(shapes) :]
    if not added:
        return ""
    count, names = int((smallest(shapes, sizes) < 0).sum()), ", ".join(f"{h} x {w}" for h, w in added)
    these = f"images of {count:,} size{'s' * (count > 1)}"
    return f"{these} are larger than the canvases and get others: {names} (height x width)"
