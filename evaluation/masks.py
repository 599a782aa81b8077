"""Predicted masks as files: the class of every pixel, as PNG with a palette."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from morphism.data.palette import palette
from morphism.errors import UserError


class MaskWriter:
    """Writes <folder>/<name of the image>.png: pixels are the numbers of classes, shown in the colours of `palette`.

    If an image has several masks, named in `masks`, the files are <name of the image>_<mask>.png.
    Raises UserError if two files would have the same name, if one would replace an image, and if the folder cannot be
    written.
    """

    def __init__(self, folder: Path, files: Sequence[Path], masks: Sequence[str] = ("",)):
        self._folder, self._files = folder, files
        paths = [self._path(index, mask) for index in range(len(files)) for mask in masks]
        twice = [path for path, count in Counter(paths).items() if count > 1]
        if twice:
            raise UserError(f"--masks: {twice[0].stem} is the name of two images; predict them one after the other")
        images = {file.resolve() for file in files}
        replaced = next((path for path in paths if path.resolve() in images), None)
        if replaced:
            raise UserError(f"--masks {folder}: a mask would replace the image {replaced}; name another folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--masks {folder}: cannot be made ({error.strerror}); name another folder") from error

    def write(self, index: int, mask: UInt8[np.ndarray, "h w"], name: str = "") -> None:
        image = Image.fromarray(np.ascontiguousarray(mask))
        image.putpalette(palette().tobytes())
        path = self._path(index, name)
        try:
            image.save(path)
        except OSError as error:
            raise UserError(f"--masks {path}: cannot be written ({error.strerror}); make room") from error

    def _path(self, index: int, mask: str) -> Path:
        parts = (self._files[index].stem, *mask.split("/"))
        return self._folder / f"{'_'.join(filter(None, parts))}.png"
