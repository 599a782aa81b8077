"""Images of mosaics: each pixel is interpolated once, where mosaic_plan.py says that it comes from."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Real
from ml_collections import ConfigDict

from morphism.augment.geometric import bilinear, bilinear_by_products, rectangle
from morphism.augment.mosaic_plan import GROUP, Plan, partner_at, reach, source_at, unmapped
from morphism.ops.platform import on_tpu
from morphism.ops.resize import interpolate_grid


def render(
    plans: Plan, images: Real[Array, "g 4 h w 3"], sizes: Float[Array, "g 4 2"], config: ConfigDict
) -> Float[Array, "g p h w 3"]:
    """The images of each group's plans, interpolated bilinearly.

    Where no image lies, a mosaic has the value config.fill; next to a scaled partner 0 is mixed in. `config` is
    config.augment, by whose ranges the plans were drawn.
    """
    fill = max(config.fill, 0)
    if on_tpu():
        is_straight = config.degrees == 0 and config.shear == 0
        return _by_products(plans, images, sizes, fill, reach(config), is_straight)
    return _gathered(plans, images, sizes, fill)


def _gathered(
    plans: Plan, images: Real[Array, "g 4 h w 3"], sizes: Float[Array, "g 4 2"], fill: float
) -> Float[Array, "g p h w 3"]:
    """Looks up the four neighbours of each pixel, without making the mosaic's canvas."""
    count, _, height, width = images.shape[:4]
    canvas = jnp.array([width, height], jnp.float32)
    filling = jnp.full((1, 3), fill, images.dtype)
    pixels = jnp.concatenate([images.reshape(-1, 3), filling])  # one lookup serves all groups

    def look_up(image: Array, x: Array, y: Array, known: Array) -> Array:
        """Pixels of images in whole columns x and rows y, clipped to the canvas; the filling where not `known`."""
        x, y = jnp.clip(x, 0, width - 1).astype(jnp.int32), jnp.clip(y, 0, height - 1).astype(jnp.int32)
        return pixels[jnp.where(known, (image * height + y) * width + x, len(pixels) - 1)]

    def one_image(plan: Plan, sizes: Float[Array, "4 2"], first: Int[Array, ""]) -> Float[Array, "h w 3"]:
        def of_mosaic(x: Array, y: Array) -> Array:
            source, local_x, local_y, known = source_at(plan, sizes, x, y)
            known &= (x >= 0) & (x < 2 * width) & (y >= 0) & (y < 2 * height)
            return look_up(first + source, local_x, local_y, known)

        def of_partner(x: Array, y: Array) -> Array:
            x, y = jnp.clip(x, 0, width - 1), jnp.clip(y, 0, height - 1)
            known = (x < sizes[plan.partner, 0]) & (y < sizes[plan.partner, 1])
            return look_up(first + plan.partner, x, y, known)

        x, y = jnp.meshgrid(jnp.arange(width) + 0.5, jnp.arange(height) + 0.5)
        x = jnp.where(plan.flip, plan.shown[0] - x, x)
        result = bilinear(of_mosaic, *unmapped(plan.forward, x, y))

        x, y, covered = partner_at(plan, canvas, x, y)
        mixed = jnp.where(covered[..., None], bilinear(of_partner, x, y), 0)
        return (1 - plan.partner_weight) * result + plan.partner_weight * mixed

    return jax.vmap(jax.vmap(one_image, (0, None, None)))(plans, sizes, GROUP * jnp.arange(count))


def _by_products(
    plans: Plan,
    images: Real[Array, "g 4 h w 3"],
    sizes: Float[Array, "g 4 2"],
    fill: float,
    reach: float,
    is_straight: bool,
) -> Float[Array, "g p h w 3"]:
    """One image at a time, by matrix products.

    A map that only scales and shifts, and a partner, need one product per axis. Any other map needs windows of the
    mosaic's canvas (`bilinear_by_products`).
    """
    height, width = images.shape[2:4]
    canvas = jnp.array([width, height], jnp.float32)

    def one_image(plan: Plan, images: Real[Array, "4 h w 3"], sizes: Float[Array, "4 2"]) -> Float[Array, "h w 3"]:
        x, y = jnp.meshgrid(jnp.arange(width) + 0.5, jnp.arange(height) + 0.5)
        x = jnp.where(plan.flip, plan.shown[0] - x, x)

        # Beyond its edge the canvas is filled as well.
        mosaic = jnp.pad(_canvas(plan, images, sizes, fill), ((1, 1), (1, 1), (0, 0)), constant_values=fill)
        from_x, from_y = (at + 1 for at in unmapped(plan.forward, x, y))
        if is_straight:
            result = _on_grid(mosaic, from_x, from_y)
        else:
            result = bilinear_by_products(mosaic, from_x, from_y, reach)

        x, y, covered = partner_at(plan, canvas, x, y)
        known = _within(jnp.zeros(2), sizes[plan.partner], height, width)
        mixed = _on_grid(jnp.where(known, images[plan.partner], fill), x, y)
        mixed = jnp.where(covered[..., None], mixed, 0)
        return (1 - plan.partner_weight) * result + plan.partner_weight * mixed

    def one_group(group: tuple) -> Float[Array, "p h w 3"]:
        plans, images, sizes = group
        return jax.lax.map(lambda plan: one_image(plan, images, sizes), plans)

    return jax.lax.map(one_group, (plans, images, sizes))


def _canvas(
    plan: Plan, images: Real[Array, "4 h w 3"], sizes: Float[Array, "4 2"], fill: float
) -> Real[Array, "h2 w2 3"]:
    """The mosaic before its affine map, twice as wide and high as an image; all shifts are whole pixels."""
    height, width = images.shape[1:3]
    canvas = jnp.full((2 * height, 2 * width, 3), fill, images.dtype)
    right, below = plan.center[0], plan.center[1]
    columns, rows = jnp.arange(2 * width), jnp.arange(2 * height)
    for corner, (source, offset) in enumerate(zip(plan.sources, plan.offsets, strict=True)):
        own = ((rows >= below) == (corner >= 2))[:, None] & ((columns >= right) == (corner % 2 == 1))
        own = own[..., None] & _within(offset, sizes[source], 2 * height, 2 * width)
        image = jnp.pad(images[source], ((0, height), (0, width), (0, 0)))
        canvas = jnp.where(own, jnp.roll(image, offset[::-1].astype(jnp.int32), axis=(0, 1)), canvas)
    return canvas


def _within(corner: Float[Array, "2"], size: Float[Array, "2"], height: int, width: int) -> Bool[Array, "h w 1"]:
    """Which pixels of height x width lie in the rectangle of this upper left corner and size, as x and y."""
    (left, top), (right, bottom) = corner, corner + size
    return rectangle((top, bottom), (left, right), height, width)[..., None]


def _on_grid(image: Real[Array, "h w 3"], x: Float[Array, "m n"], y: Float[Array, "m n"]) -> Float[Array, "m n 3"]:
    """The image interpolated where x is the same in every row and y in every column; beyond, its border is repeated."""
    rows, columns = (
        jnp.clip(at - 0.5, 0, length - 1) for at, length in zip((y[:, 0], x[0]), image.shape[:2], strict=True)
    )
    return interpolate_grid(image.astype(x.dtype), rows, columns)
