"""Views of a picture in evaluation: the network sees each, and the task combines what it says."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def view(images: Float[Array, "b h w c"], views: str, size: int) -> Float[Array, "v b h2 w2 c"]:
    """center: the images themselves. flip: they and their mirror images. ten_crop: crops of size x size.

    Ten crops are the four corners (upper left and right, lower left and right), the centre, and the same five of the
    mirror image: torchvision.transforms.TenCrop; Krizhevsky et al. 2012, section 4.1, of the central square.
    """
    mirrored = images[:, :, ::-1]
    if views == "center":
        return images[None]
    if views == "flip":
        return jnp.stack([images, mirrored])
    bottom, right = images.shape[1] - size, images.shape[2] - size
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (round(bottom / 2), round(right / 2))]
    return jnp.stack([each[:, y : y + size, x : x + size] for each in (images, mirrored) for y, x in corners])
