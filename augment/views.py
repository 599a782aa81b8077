"""Views of an image in evaluation: the network sees each of them, and the task combines its outputs."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def view(images: Float[Array, "b h w c"], views: str, size: int) -> Float[Array, "v b h2 w2 c"]:
    """The views of a batch of images.

    Args:
      images: for "ten_crop", the central squares.
      views: "center", the images themselves; "flip", the images and their mirror images; or "ten_crop", crops of the
        four corners (upper left and right, lower left and right) and the centre, then the same of the mirror images.
      size: side of the crops in pixels.

    Source: Krizhevsky et al. 2012, section 4.1; torchvision.transforms.TenCrop.
    """
    mirrored = images[:, :, ::-1]
    if views == "center":
        return images[None]
    if views == "flip":
        return jnp.stack([images, mirrored])
    bottom, right = images.shape[1] - size, images.shape[2] - size
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (round(bottom / 2), round(right / 2))]
    return jnp.stack([each[:, y : y + size, x : x + size] for each in (images, mirrored) for y, x in corners])
