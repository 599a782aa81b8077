"""Text on images: fonts for any alphabet, names that fit, and letters that stand out of their ground.

Letters come from DejaVu Sans, which matplotlib brings along: Latin, Greek, Cyrillic, Arabic, Hebrew and more. A text
with other letters is written in the first font of the system that has all of them; without one these letters are boxes.
"""

from functools import cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import ImageDraw, ImageFont

from morphism.data.marks import Colour

LONGEST = 24  # letters of a class's name
CUT = "…"


def tidy(name: str) -> str:
    """A class's name in one line of at most LONGEST letters."""
    words = " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())
    return words if len(words) <= LONGEST else f"{words[: LONGEST - 1].rstrip()}{CUT}"


def fitting(text: str, letters: int, width: float) -> str:
    """`text`, cut to `width` pixels; "" if not even one letter has room."""
    if extent(text, letters) <= width:
        return text
    kept = next((count for count in range(len(text), 0, -1) if extent(text[:count] + CUT, letters) <= width), 0)
    return f"{text[:kept].rstrip()}{CUT}" if kept else ""


def extent(text: str, letters: int) -> float:
    """The width of `text` in letters of this size, in pixels."""
    return font(text, letters).getlength(text)


def height(letters: int) -> int:
    """The height of a line, from the top of the highest letter to the bottom of the lowest one."""
    return sum(_opened(_DEFAULT, letters).getmetrics())


def write(pen: ImageDraw.ImageDraw, text: str, corner: tuple[float, float], letters: int, colour: Colour) -> None:
    """Writes `text` with the top left of its line at `corner`."""
    x, y = corner
    pen.text((x, y + _opened(_DEFAULT, letters).getmetrics()[0]), text, colour, font(text, letters), anchor="ls")


def on(ground: Colour) -> Colour:
    """Black or white: what has the higher contrast with `ground`, by WCAG 2.1's relative luminance."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (c / 255 for c in ground)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 1.05 * 0.05 else (255, 255, 255)


def font(text: str, letters: int) -> ImageFont.FreeTypeFont:
    return _opened(_covering(frozenset(text)), letters)


_DEFAULT = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


@cache
def _opened(path: str, letters: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, letters)


@cache
def _covering(letters: frozenset[str]) -> str:
    """The font for a text: DejaVu Sans, or the first of the system's with all its letters."""
    wanted = {ord(letter) for letter in letters if not letter.isspace()}
    others = (path for path in _of_system() if wanted <= _known(path))
    return _DEFAULT if wanted <= _known(_DEFAULT) else next(others, _DEFAULT)


@cache
def _of_system() -> tuple[str, ...]:
    return tuple(sorted(font_manager.findSystemFonts()))


@cache
def _known(path: str) -> frozenset[int]:
    """The letters of a font; none of a font of bitmaps, which has no size of its own choosing, or a broken one."""
    try:
        opened = FT2Font(path)
        return frozenset(opened.get_charmap()) if opened.scalable else frozenset()
    except (OSError, RuntimeError):
        return frozenset()
