"""The legend of an annotated image: the names and colours of classes, in its least busy corner."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw

from morphism.data.marks import Colour
from morphism.tasks.drawing.lettering import extent, fitting, height, tidy, write

SHARE = 1 / 3  # of the image's height, at most
GROUND = (0, 0, 0, 170)
WHITE = (255, 255, 255)


def draw_legend(
    image: Image.Image, colours: Mapping[str, Colour], letters: int, busy: Bool[np.ndarray, "h w"]
) -> Image.Image:
    """The image with the legend where it covers fewest `busy` pixels; the same image if there are no classes.

    Names that have no room are counted: "+3".
    """
    width, tall = image.size
    line, pad = height(letters), max(2, letters // 3)
    rows = _rows(colours, letters, width - 2 * pad, max(1, int(SHARE * tall) // line))
    if not rows or line + 2 * pad > tall:
        return image
    columns = _columns(rows, letters)
    size = min(width, sum(columns) + 2 * pad), line * len(rows) + 2 * pad
    x, y = min(
        _corners(image.size, size), key=lambda at: np.count_nonzero(busy[at[1] :, at[0] :][: size[1], : size[0]])
    )
    ground = Image.new("RGBA", size, GROUND)
    drawn = image.convert("RGBA")
    drawn.alpha_composite(ground, (x, y))
    pen = ImageDraw.Draw(drawn)
    for row, entries in enumerate(rows):
        for column, (name, colour) in enumerate(entries):
            left, top = x + pad + sum(columns[:column]), y + pad + row * line
            if colour:
                inset = max(1, line // 6)
                pen.rectangle((left, top + inset, left + line - 2 * inset, top + line - inset - 1), colour, WHITE)
            write(pen, name, (left + (line if colour else 0), top), letters, WHITE)
    return drawn.convert("RGB")


Entry = tuple[str, Colour | None]  # without a colour: the count of what is left out


def _rows(colours: Mapping[str, Colour], letters: int, width: int, most: int) -> list[list[Entry]]:
    """The names in at most `most` rows of columns that fit into `width` pixels, read row by row."""
    line, gap = height(letters), letters
    entries: list[Entry] = []
    for name, colour in colours.items():
        text = fitting(tidy(name), letters, width - line - gap)
        entries += [(text, colour)] if text else []
    for across in range(_most_across(len(entries), most), 0, -1):
        kept = entries
        if len(entries) > across * most:
            kept = [*entries[: across * most - 1], (f"+{len(entries) - across * most + 1}", None)]
        rows = [kept[start : start + across] for start in range(0, len(kept), across)]
        if sum(_columns(rows, letters)) <= width:
            return rows
    return []


def _most_across(count: int, most: int) -> int:
    """How many columns to try first: few columns for few names, all that are needed for many."""
    return max(1, count if most == 1 else -(-count // min(most, max(2, round((count / 2) ** 0.5)))))


def _columns(rows: list[list[Entry]], letters: int) -> list[int]:
    """The width of each column, with its colour and the gap behind it."""
    line, gap = height(letters), letters
    across = max(map(len, rows), default=0)
    return [
        max(int(extent(row[k][0], letters)) + (line if row[k][1] else 0) + gap for row in rows if k < len(row))
        for k in range(across)
    ]


def _corners(image: tuple[int, int], size: tuple[int, int]) -> list[tuple[int, int]]:
    """The upper left pixels of something of `size` in each corner; the one at the lower left first."""
    right, bottom = image[0] - size[0], image[1] - size[1]
    return [(0, bottom), (right, bottom), (right, 0), (0, 0)]
