"""Masks as files: a class a pixel, as PNG with a palette."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import colorcet
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from morphism.errors import UserError
from morphism.labels import IGNORE


def palette() -> UInt8[np.ndarray, "256 3"]:
    """A colour for each class, as unlike those before it as can be: class 0 is black, and IGNORE is white.

    Source: Glasbey et al. 2007, "Colour displays for categorical images", as colorcet tabulates it.
    """
    colours = np.round(255 * np.array([(0, 0, 0), *colorcet.glasbey_bw_minc_20_minl_30[:255]])).astype(np.uint8)
    colours[IGNORE] = 255
    return colours


class MaskWriter:
    """Writes <folder>/<name of the picture>.png; its pixels are the numbers of the classes, in colours of `palette`.

    Raises UserError where two pictures have the same name, where a mask would replace an image, and where the folder
    cannot be written.
    """

    def __init__(self, folder: Path, files: Sequence[Path]):
        self._folder, self._files = folder, files
        twice = [name for name, count in Counter(file.stem for file in files).items() if count > 1]
        if twice:
            raise UserError(f"--masks: {twice[0]} is the name of two pictures; predict them one after the other")
        pictures = {file.resolve() for file in files}
        replaced = next((path for path in map(self._path, range(len(files))) if path.resolve() in pictures), None)
        if replaced:
            raise UserError(f"--masks {folder}: a mask would replace the image {replaced}; name another folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--masks {folder}: cannot be made ({error.strerror}); name another folder") from error

    def write(self, index: int, mask: UInt8[np.ndarray, "h w"]) -> None:
        image = Image.fromarray(np.ascontiguousarray(mask))
        image.putpalette(palette().tobytes())
        path = self._path(index)
        try:
            image.save(path)
        except OSError as error:
            raise UserError(f"--masks {path}: cannot be written ({error.strerror}); make room") from error

    def _path(self, index: int) -> Path:
        return self._folder / f"{self._files[index].stem}.png"
