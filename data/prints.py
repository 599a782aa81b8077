"""Prints of images, by which copies of an image are recognised: of its exact pixels, and of how it looks.

How it looks is a perceptual hash of 64 bits: which of the 64 lowest frequencies (the discrete cosine transform of the
image in grey, shrunk to 32 x 32, without the mean) lie above their median. It hardly changes when an image is
compressed again, resized, made brighter or turned to grey. Source: Zauner 2010, section 3.2.1 (pHash), as in the
package imagehash.
"""

import hashlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy.fft import dct

from morphism.data import image

SHRUNK, THUMB = 32, 16  # pixels per side: what the frequencies are of, and what is kept
LEAST_CONTRAST = 1.0  # standard deviation of grey levels; below, an image is of one colour and looks like no other


def _lowest(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the `count` lowest frequencies in two dimensions, without the mean."""
    rows, columns = np.divmod(np.arange(SHRUNK**2), SHRUNK)
    order = np.lexsort((columns, np.maximum(rows, columns), rows + columns))
    return rows[order[1 : count + 1]], columns[order[1 : count + 1]]


ROWS, COLUMNS = _lowest(64)
WAVES = dct(np.eye(SHRUNK), axis=0, norm="ortho")[: ROWS.max() + 1].astype(np.float32)


class Print(NamedTuple):
    """exact: 16 bytes, equal for equal pixels of equal shape and type only. look: the hash; a whole number of 64 bits.

    thumb: the image in grey, THUMB x THUMB, by which equal hashes are verified. plain: whether it is of one colour.
    """

    exact: bytes
    look: int
    thumb: UInt8[np.ndarray, "16 16"]
    plain: bool


def print_of(pixels: image.Pixels) -> Print:
    """The print of a decoded image; mirrored, turned and cropped copies have others."""
    digest = hashlib.blake2b(f"{pixels.shape} {pixels.dtype}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels))
    small = shrunk(pixels)
    found = (WAVES @ small @ WAVES.T)[ROWS, COLUMNS]
    bits = np.packbits(found >= np.sort(found)[len(found) // 2])
    thumb = small.reshape(THUMB, SHRUNK // THUMB, THUMB, SHRUNK // THUMB).mean(axis=(1, 3))
    plain = bool(small.std() < LEAST_CONTRAST)
    return Print(digest.digest(), int.from_bytes(bits.tobytes(), "big"), np.rint(thumb).astype(np.uint8), plain)


def shrunk(pixels: image.Pixels) -> Float[np.ndarray, "32 32"]:
    """The image in grey, stretched to SHRUNK x SHRUNK."""
    grey = Image.fromarray(np.ascontiguousarray(image.to_8_bits(pixels))).convert("L")
    small = grey.resize((SHRUNK, SHRUNK), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(small, np.float32)
