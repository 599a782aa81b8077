"""RandAugment and TrivialAugment of pixels of 0..255.

Both of torchvision's definitions: that for uint8 images, whose pixels stay whole numbers (`whole`), and that for float
images, which high-bit files give. There are four kinds of operation, and each kind costs one pass over the image:

    geometric   resampling by a matrix, bilinear, black outside
    enhancing   a blend with black, the grey image, the mean grey or the blurred image
    tonal       a table of 256 levels per channel; for float images a formula, and a table for Equalize only
    Identity

An operation's matrix or amount depends only on its sign and the bin of its magnitude, so all are tabulated beforehand
in float64, as torchvision computes them. Interpolation is bilinear, as in torchvision's references; the default of its
transforms is the nearest pixel.

Source: Cubuk et al. 2019, "RandAugment"; Müller and Hutter 2021, "TrivialAugment" (its Wide space);
torchvision.transforms.v2.RandAugment and TrivialAugmentWide.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from morphism.augment.colour import Image, grey
from morphism.augment.geometric import bilinear, bilinear_by_products
from morphism.ops.lookup import histograms, look_up
from morphism.ops.platform import choose, on_tpu, per_example

GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
ENHANCING = ("Brightness", "Color", "Contrast", "Sharpness")
TONAL = ("Posterize", "Solarize", "AutoContrast", "Equalize")
OPERATIONS = ("Identity", *GEOMETRIC, *ENHANCING, *TONAL)
SIGNED = (*GEOMETRIC, *ENHANCING)
BINS = 31  # of magnitude, from 0 to the largest of the space
REACH = 2.0  # of `bilinear_by_products`: shears are below 1, and rotations reach the square root of 2

# AutoContrast's levels by [highest - lowest, level - lowest], rounded on every device as torch rounds in float32.
with np.errstate(divide="ignore", invalid="ignore"):
    STRETCHED = np.arange(256, dtype=np.float32) / (np.arange(256, dtype=np.float32) * np.float32(1 / 255))[:, None]
    STRETCHED = np.floor(np.clip(np.nan_to_num(STRETCHED), 0, 255))


Numbers = Array | np.ndarray


class Space(NamedTuple):
    """The largest magnitude of each operation. Solarize's is the same in both spaces; the others have no magnitude."""

    shear: float  # pixels per pixel
    translate: Callable[[int], float]  # side of the image in pixels -> pixels
    rotate: float  # degrees
    enhance: float  # distance of the blend's factor from 1
    posterize: float  # bits lost


SPACES = {
    "randaugment": Space(0.3, lambda side: 150 / 331 * side, 30, 0.9, 4),
    "trivialaugment": Space(0.99, lambda side: 32, 135, 0.99, 6),
}


class Operation(NamedTuple):
    """One operation with its magnitude; or, with leading axes, a table of them.

    index: in OPERATIONS.
    amount: factor of the blend, bits that are kept (Posterize), or threshold (Solarize).
    rest: 1 - amount, computed before amount was rounded to float32.
    matrix: maps x, y, 1 of an output pixel to x, y of the input, in pixels from the centre.
    """

    index: Int[Numbers, "*table"]
    amount: Float[Numbers, "*table"]
    rest: Float[Numbers, "*table"]
    matrix: Float[Numbers, "*table 2 3"]


def rand_augment(
    keys: Key[Array, "b"], images: Float[Array, "b h w 3"], operations: int, magnitude: int, whole: bool = True
) -> Array:
    """Applies `operations` random ones of the 14 in turn, all of the bin `magnitude` (0..30), with random signs.

    `whole`: pixels are whole numbers and stay so.
    """
    draw = partial(draw_operation, table=tabulate("randaugment", *images.shape[1:3]), magnitude=magnitude)
    for each in range(operations):
        drawn = jax.vmap(lambda key: draw(jax.random.fold_in(key, each)))(keys)  # noqa: B023
        images = per_example(partial(apply, whole=whole))(images, drawn)
    return images


def trivial_augment(keys: Key[Array, "b"], images: Float[Array, "b h w 3"], whole: bool = True) -> Array:
    """Applies a random one of the 14 operations, with a random bin and sign. `whole` as in `rand_augment`."""
    draw = partial(draw_operation, table=tabulate("trivialaugment", *images.shape[1:3]), magnitude=None)
    return per_example(partial(apply, whole=whole))(images, jax.vmap(draw)(keys))


def draw_operation(key: Key[Array, ""], table: Operation, magnitude: int | None) -> Operation:
    """Draws an operation from `table`, of the bin `magnitude` or, if that is None, of a random bin."""
    index_key, sign_key, bin_key = jax.random.split(key, 3)
    index = jax.random.randint(index_key, (), 0, len(OPERATIONS))
    sign = jax.random.bernoulli(sign_key).astype(int)
    bin_ = jax.random.randint(bin_key, (), 0, BINS) if magnitude is None else magnitude
    return jax.tree.map(lambda values: jnp.asarray(values)[index, bin_, sign], table)


def tabulate(space: str, height: int, width: int) -> Operation:
    """All operations of a space, for images of this size: arrays [operation, bin, sign, ...], where sign 1 is minus."""
    magnitudes = bins(space, height, width)
    index, amount, matrix = [], [], []
    for number, name in enumerate(OPERATIONS):
        for magnitude in magnitudes[name]:
            for signed in (magnitude, -magnitude if name in SIGNED else magnitude):
                index.append(number)
                amount.append(_amount(name, signed))
                matrix.append(_matrix(name, signed, height, width))
    shape = (len(OPERATIONS), BINS, 2)
    return Operation(
        np.array(index, np.int32).reshape(shape),
        np.array(amount, np.float32).reshape(shape),
        (1 - np.array(amount)).astype(np.float32).reshape(shape),
        np.array(matrix, np.float32).reshape(*shape, 2, 3),
    )


def bins(space: str, height: int, width: int) -> dict[str, list[float]]:
    """The magnitudes of each operation, without their signs."""
    largest = SPACES[space]
    return {
        "Identity": [0.0] * BINS,
        "ShearX": _evenly(0, largest.shear),
        "ShearY": _evenly(0, largest.shear),
        "TranslateX": _evenly(0, largest.translate(width)),
        "TranslateY": _evenly(0, largest.translate(height)),
        "Rotate": _evenly(0, largest.rotate),
        **{name: _evenly(0, largest.enhance) for name in ENHANCING},
        "Posterize": [float(round(8 - number * largest.posterize / (BINS - 1))) for number in range(BINS)],
        "Solarize": _evenly(1, 0),
        "AutoContrast": [0.0] * BINS,
        "Equalize": [0.0] * BINS,
    }


def _evenly(first: float, last: float) -> list[float]:
    """BINS numbers in float32, without the rounding of torch.linspace, which depends on the processor.

    The difference matters for one operation: TrivialAugment's translation by 16 pixels, which is 15 on some processors.
    """
    return np.linspace(first, last, BINS).astype(np.float32).tolist()


def _amount(name: str, magnitude: float) -> float:
    if name in ENHANCING:
        return 1 + magnitude
    return 255 * magnitude if name == "Solarize" else magnitude


def _matrix(name: str, magnitude: float, height: int, width: int) -> list[list[float]]:
    """The matrix of an operation. Shears keep the upper left corner fixed; rotations, counter-clockwise, the centre."""
    turn = math.radians(magnitude)
    return {
        "ShearX": [[1, magnitude, magnitude * height / 2], [0, 1, 0]],
        "ShearY": [[1, 0, 0], [magnitude, 1, magnitude * width / 2]],
        "TranslateX": [[1, 0, -int(magnitude)], [0, 1, 0]],
        "TranslateY": [[1, 0, 0], [0, 1, -int(magnitude)]],
        "Rotate": [[math.cos(turn), -math.sin(turn), 0], [math.sin(turn), math.cos(turn), 0]],
    }.get(name, [[1, 0, 0], [0, 1, 0]])


def apply(image: Image, operation: Operation, whole: bool = True) -> Image:
    """Applies one operation to pixels of 0..255, which are whole numbers, before and after, if `whole`."""
    resample, enhance = partial(_resample, whole=whole), partial(_enhance, whole=whole)
    kinds = (lambda image, _: image, resample, enhance, _retone if whole else _retone_floats)
    starts = np.cumsum([1, len(GEOMETRIC), len(ENHANCING)])
    return choose(jnp.searchsorted(starts, operation.index, side="right"), kinds, image, operation)


def _resample(image: Image, operation: Operation, whole: bool) -> Image:
    """Interpolates each pixel at the position that the matrix maps it to; beyond the image pixels are black."""
    height, width = image.shape[:2]
    y, x = jnp.arange(height)[:, None] - (height - 1) / 2, jnp.arange(width)[None, :] - (width - 1) / 2
    (xx, xy, dx), (yx, yy, dy) = operation.matrix
    x, y = xx * x + xy * y + dx + width / 2, yx * x + yy * y + dy + height / 2
    if on_tpu():
        framed = jnp.pad(image.astype(jnp.uint8) if whole else image, ((1, 1), (1, 1), (0, 0)))
        resampled = bilinear_by_products(framed, x + 1, y + 1, REACH)
        return jnp.round(resampled) if whole else resampled
    pixels = image.reshape(-1, image.shape[-1])

    def look_up(x: Array, y: Array) -> Array:
        column, row = x.astype(int), y.astype(int)
        is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        return jnp.where(is_inside[..., None], pixels[jnp.where(is_inside, row * width + column, 0)], 0)

    resampled = bilinear(look_up, x, y)
    return jnp.round(resampled) if whole else resampled


def _enhance(image: Image, operation: Operation, whole: bool) -> Image:
    greys = jnp.floor(grey(image)) if whole else grey(image)
    others = (
        lambda: jnp.zeros_like(image),
        lambda: jnp.broadcast_to(greys, image.shape),
        lambda: jnp.broadcast_to(jnp.mean(greys), image.shape),
        lambda: _blurred(image, whole),
    )
    other = choose(operation.index - OPERATIONS.index(ENHANCING[0]), others)
    # torchvision has two formulas for the same blend, which round differently.
    blended = jnp.where(
        operation.index == OPERATIONS.index("Sharpness"),
        image + operation.rest * (other - image),
        operation.amount * image + operation.rest * other,
    )
    blended = jnp.clip(blended, 0, 255)
    return jnp.floor(blended) if whole else blended


def _blurred(image: Image, whole: bool) -> Image:
    """The mean of 3x3 pixels with weight 5 at the centre, rounded if `whole`. The border keeps its values."""
    height, width = image.shape[:2]
    if min(height, width) < 3:
        return image
    total = 4 * image[1:-1, 1:-1]
    for y in range(3):
        for x in range(3):
            total += image[y : y + height - 2, x : x + width - 2]
    mean = total / 13
    return image.at[1:-1, 1:-1].set(jnp.round(mean) if whole else mean)


def _retone(image: Image, operation: Operation) -> Image:
    """A tonal operation on pixels that are whole numbers."""
    levels = jnp.arange(256.0)
    pixels = image.reshape(-1, 3).astype(int)
    counts = histograms(pixels, 256)
    lost = jnp.exp2(8 - operation.amount)
    tables = (
        lambda: jnp.tile(jnp.floor(levels / lost) * lost, (3, 1)),
        lambda: jnp.tile(jnp.where(levels >= operation.amount, 255 - levels, levels), (3, 1)),
        lambda: jax.vmap(stretching_table)(counts),
        lambda: jax.vmap(equalising_table)(counts),
    )
    table = choose(operation.index - OPERATIONS.index(TONAL[0]), tables)
    return look_up(table, pixels).reshape(image.shape)


def _retone_floats(image: Image, operation: Operation) -> Image:
    """A tonal operation on pixels that need not be whole. Only Equalize uses 256 levels, as in torchvision."""
    lowest, highest = jnp.min(image, axis=(0, 1)), jnp.max(image, axis=(0, 1))
    is_flat = lowest == highest
    stretched = 255 * (image - jnp.where(is_flat, 0, lowest)) / jnp.where(is_flat, 255, highest - lowest)
    kept = jnp.exp2(operation.amount)  # levels
    levels = jnp.floor(image * (255.999 / 255)).reshape(-1, 3).astype(int)
    tables = jax.vmap(equalising_table)(histograms(levels, 256))
    equalised = look_up(tables, levels).reshape(image.shape)
    results = (
        jnp.clip(jnp.floor(image / 255 * kept), 0, kept - 1) * 255 / kept,
        jnp.where(image >= operation.amount, 255 - image, image),
        stretched,
        equalised,
    )
    return jnp.stack(results)[jnp.clip(operation.index - OPERATIONS.index(TONAL[0]), 0, len(TONAL) - 1)]


def stretching_table(counts: Int[Array, "256"]) -> Float[Array, "256"]:
    """Maps levels linearly so that the lowest in use becomes 0 and the highest 255; a single level stays as it is."""
    lowest, highest = jnp.argmax(counts > 0), 255 - jnp.argmax(counts[::-1] > 0)
    levels = jnp.arange(256)
    stretched = jnp.asarray(STRETCHED)[highest - lowest, jnp.clip(levels - lowest, 0, 255)]
    return jnp.where(highest > lowest, stretched, levels.astype(jnp.float32))


def equalising_table(counts: Int[Array, "256"]) -> Float[Array, "256"]:
    """Maps levels so that all become about equally frequent: Pillow's ImageOps.equalize.

    A level becomes the number of steps below it. A step is 1/255 of the pixels that are not of the highest level; if
    there are fewer than 255 of them, the levels stay as they are.
    """
    highest = 255 - jnp.argmax(counts[::-1] > 0)
    step = (jnp.sum(counts) - counts[highest]) // 255
    below = jnp.concatenate([jnp.zeros(1, counts.dtype), jnp.cumsum(counts)[:-1]])
    equalised = jnp.clip((below + step // 2) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step > 0, equalised, jnp.arange(256)).astype(jnp.float32)
