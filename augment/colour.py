"""Colour changes of one image of float pixels of 0..255; vmap them over a batch.

The definitions are those of torchvision for float images. A factor of 1 or a hue shift of 0 changes nothing.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from morphism.augment.geometric import Scalar
from morphism.ops.platform import choose

Image = Float[Array, "h w 3"]
Flag = Bool[Array, ""]

# Principal components of ImageNet's pixels in 0..1, as fb.resnet.torch publishes them; eigenvectors are columns.
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


def blend(image: Image, other: Array, factor: Scalar) -> Image:
    """factor image + (1 - factor) other, clipped to 0..255; other factors than 0..1 extrapolate."""
    return jnp.clip(factor * image + (1 - factor) * other, 0, 255)


def grey(image: Image) -> Float[Array, "h w 1"]:
    """The luma of ITU-R 601-2."""
    red, green, blue = jnp.split(image, 3, axis=-1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def adjust_brightness(image: Image, factor: Scalar) -> Image:
    """Blends with black."""
    return blend(image, jnp.zeros(()), factor)


def adjust_contrast(image: Image, factor: Scalar, inside: Bool[Array, "h w"] | None = None) -> Image:
    """Blends with the mean grey of all pixels, or of those `inside`."""
    if inside is None:
        return blend(image, jnp.mean(grey(image)), factor)
    total = jnp.sum(jnp.where(inside, grey(image)[..., 0], 0))
    return blend(image, total / jnp.maximum(jnp.sum(inside), 1), factor)


def adjust_saturation(image: Image, factor: Scalar) -> Image:
    """Blends with the grey image."""
    return blend(image, grey(image), factor)


def adjust_hue(image: Image, shift: Scalar) -> Image:
    """Turns the hue, in HSV, by `shift` of the whole circle, -0.5..0.5."""
    hue, saturation, value = _to_hsv(image / 255)
    return 255 * _to_rgb((hue + shift) % 1, saturation, value)


ADJUSTMENTS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


def colour_jitter(key: Key[Array, ""], image: Image, strengths: tuple[float, float, float, float]) -> Image:
    """Changes brightness, contrast, saturation and hue, those whose strength is above 0, in random order.

    A factor is uniform in max(0, 1 - strength)..1 + strength, the shift of the hue in -strength..strength.

    Source: torchvision.transforms.v2.ColorJitter.
    """
    used = [index for index, strength in enumerate(strengths) if strength > 0]
    order_key, factor_key = jax.random.split(key)
    centers = jnp.array([1.0, 1.0, 1.0, 0.0])
    low = jnp.maximum(centers - jnp.array(strengths), jnp.array([0.0, 0.0, 0.0, -0.5]))
    factors = jax.random.uniform(factor_key, (4,), minval=low, maxval=centers + jnp.array(strengths))
    order = jax.random.permutation(order_key, len(used))
    return adjust_in_order(image, [ADJUSTMENTS[index] for index in used], factors[jnp.array(used)], order)


def adjust_in_order(
    image: Image, adjustments: Sequence[Callable], factors: Float[Array, "n"], order: Int[Array, "m"]
) -> Image:
    """Applies adjustments[i] with factors[i] for each i in `order`."""
    for index in order:
        image = choose(index, adjustments, image, factors[index])
    return image


def photometric_distortion(key: Key[Array, ""], image: Image, inside: Bool[Array, "h w"] | None = None) -> Image:
    """SSD's distortion: changes brightness, contrast, saturation, hue and channel order, each with probability 0.5.

    Contrast comes before saturation and hue or after them, at random. `inside` marks the image on its canvas: only its
    pixels change, and contrast is relative to their mean.

    Source: Liu et al. 2016, section 3.6; torchvision.transforms.v2.RandomPhotometricDistort.
    """
    return distort(image, *draw_distortion(key), inside)


def draw_distortion(key: Key[Array, ""]) -> tuple[Float[Array, "4"], Flag, Int[Array, "3"]]:
    """Draws the arguments of `distort`: factors, whether contrast comes first, and the order of the channels."""
    uses_key, factor_key, order_key = jax.random.split(key, 3)
    uses = jax.random.bernoulli(uses_key, shape=(6,))
    low, high = jnp.array([0.875, 0.5, 0.5, -0.05]), jnp.array([1.125, 1.5, 1.5, 0.05])
    drawn = jax.random.uniform(factor_key, (4,), minval=low, maxval=high)
    factors = jnp.where(uses[:4], drawn, jnp.array([1.0, 1.0, 1.0, 0.0]))
    return factors, uses[4], jnp.where(uses[5], jax.random.permutation(order_key, 3), jnp.arange(3))


def distort(
    image: Image,
    factors: Float[Array, "4"],
    contrast_first: Flag,
    channels: Int[Array, "3"],
    inside: Bool[Array, "h w"] | None = None,
) -> Image:
    """`photometric_distortion` with given factors of brightness, contrast and saturation, and shift of the hue."""
    brightness, contrast, saturation, hue = factors
    changed = adjust_brightness(image, brightness)
    changed = adjust_contrast(changed, jnp.where(contrast_first, contrast, 1.0), inside)
    changed = adjust_hue(adjust_saturation(changed, saturation), hue)
    changed = adjust_contrast(changed, jnp.where(contrast_first, 1.0, contrast), inside)[..., channels]
    return changed if inside is None else jnp.where(inside[..., None], changed, image)


def additive_distortion(key: Key[Array, ""], image: Image) -> Image:
    """mmsegmentation's distortion: changes brightness, contrast, saturation and hue, each with probability 0.5.

    Brightness adds -32..32; contrast multiplies the pixels, and saturation the saturation of HSV, by 0.5..1.5; the hue
    is shifted by -18..17 of 180. Contrast comes before saturation and hue or after them, at random.

    Source: mmseg/datasets/transforms/transforms.py, PhotoMetricDistortion, which also rounds to whole levels.
    """
    use_key, draw_key, hue_key = jax.random.split(key, 3)
    uses = jax.random.bernoulli(use_key, shape=(5,))
    low, high = jnp.array([-32.0, 0.5, 0.5]), jnp.array([32.0, 1.5, 1.5])
    drawn = jnp.where(uses[:3], jax.random.uniform(draw_key, (3,), minval=low, maxval=high), jnp.array([0.0, 1, 1]))
    shift = jnp.where(uses[3], jax.random.randint(hue_key, (), -18, 18), 0)
    return distort_additively(image, *drawn, shift, uses[4])


def distort_additively(
    image: Image, brightness: Scalar, contrast: Scalar, saturation: Scalar, shift: Scalar, contrast_first: Flag
) -> Image:
    """`additive_distortion` with given values."""
    image = jnp.clip(image + brightness, 0, 255)
    image = jnp.clip(image * jnp.where(contrast_first, contrast, 1.0), 0, 255)
    hue, colour, value = _to_hsv(image / 255)
    image = 255 * _to_rgb((hue + shift / 180) % 1, jnp.clip(colour * saturation, 0, 1), value)
    return jnp.clip(image * jnp.where(contrast_first, 1.0, contrast), 0, 255)


def lighting(key: Key[Array, ""], image: Image, std: float) -> Image:
    """Adds one colour to all pixels: ImageNet's principal components, weighted by eigenvalue and draws from N(0, std).

    The result is not clipped.

    Source: Krizhevsky et al. 2012, section 4.1.
    """
    return add_components(image, std * jax.random.normal(key, (3,)))


def add_components(image: Image, weights: Float[Array, "3"]) -> Image:
    """The image plus the sum of weight x eigenvalue x eigenvector, which is in units of pixels of 0..1."""
    return image + 255 * jnp.sum(jnp.array(EIGENVECTORS) * weights * jnp.array(EIGENVALUES), axis=1)


def hsv_jitter(key: Key[Array, ""], image: Image, gains: tuple[float, float, float]) -> Image:
    """YOLOX's distortion: shifts hue, saturation and value, each with probability 0.5, by -gain..gain.

    Shifts are whole numbers in OpenCV's units: the circle of hues has 180, saturation and value have 255.

    Source: yolox/data/data_augment.py, augment_hsv, which also rounds the image to those units.
    """
    size_key, use_key = jax.random.split(key)
    shifts = jnp.trunc(jax.random.uniform(size_key, (3,), minval=-1) * jnp.array(gains))
    return shift_hsv(image, jnp.where(jax.random.bernoulli(use_key, shape=(3,)), shifts, 0))


def shift_hsv(image: Image, shifts: Float[Array, "3"]) -> Image:
    """`hsv_jitter` with given shifts."""
    hue, saturation, value = _to_hsv(image / 255)
    saturation, value = jnp.clip(saturation + shifts[1] / 255, 0, 1), jnp.clip(value + shifts[2] / 255, 0, 1)
    return 255 * _to_rgb((hue + shifts[0] / 180) % 1, saturation, value)


def _to_hsv(image: Image) -> tuple[Array, Array, Array]:
    """Pixels of 0..1 -> hue in 0..1 (0 for greys), saturation, value."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value, low = jnp.max(image, axis=-1), jnp.min(image, axis=-1)
    spread = value - low
    is_grey = spread == 0
    from_red, from_green, from_blue = ((value - each) / jnp.where(is_grey, 1, spread) for each in (red, green, blue))
    # The channels are compared with each other, not with `value`, which a compiler may round differently.
    sixths = jnp.where(
        red >= jnp.maximum(green, blue),
        from_blue - from_green,
        jnp.where(green >= blue, 2 + from_red - from_blue, 4 + from_green - from_red),
    )
    return jnp.where(is_grey, 0, (sixths / 6) % 1), spread / jnp.where(is_grey, 1, value), value


def _to_rgb(hue: Array, saturation: Array, value: Array) -> Image:
    """The inverse of `_to_hsv`.

    A channel equals `value` within a third of the circle around its own hue and falls off linearly beyond.
    """
    distance = jnp.abs((6 * hue[..., None] - jnp.array([0.0, 2.0, 4.0]) + 3) % 6 - 3)  # from red, green, blue
    return value[..., None] * (1 - saturation[..., None] * jnp.clip(distance - 1, 0, 1))
