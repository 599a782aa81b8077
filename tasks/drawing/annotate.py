"""Annotated images: layers of predictions or truth, drawn over an image in its own pixels.

The rules:

- An image whose longer side has fewer than SMALL pixels is enlarged by a whole factor, for labels that can be read.
- Lines and letters grow with the image.
- Objects: boxes in the colours of their classes; masks are tinted within a line, without a box. Objects that are
  ignored (crowds, difficult ones) are dashed. If there is only one class, masks have a colour per object instead.
- Labels: class and score; the score alone if there is only one class. The best object's is placed first: above its box,
  inside it, below it or beside it, where it is in the image, overlaps no other label, and covers little of any box. If
  there is no such place, the score alone is tried, then the label is left out. With more than CROWD objects labels are
  scores alone.
- Regions: tinted in the colours of their classes within a line; the class "background" is not tinted, and what is void
  is darkened.
- A legend in the least busy corner names the classes that occur: of regions always, of objects if one of their labels
  had no room for its class.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped, UInt8
from PIL import Image, ImageDraw

from morphism.data import marks, outlines
from morphism.data.marks import BACKGROUND, Colour
from morphism.tasks.drawing.legend import draw_legend
from morphism.tasks.drawing.lettering import extent, fitting, height, on, tidy, write
from morphism.tasks.layers import VOID, Layer, Objects, Regions, Tag

SMALL, ENLARGED = 200, 256  # pixels of the longer side
LINE, LETTERS = 0.0045, 0.024  # sizes, as a share of the geometric mean of the image's sides
LEAST, TALLEST = 10, 0.08  # letters: fewest pixels; largest share of the shorter side
TINT, DARK = 0.45, 0.35  # opacity of a tint; what is left of the brightness of what is void
CROWD = 20  # more objects than this are labelled with their scores alone
COVERED, COVERED_OWN = 0.2, 0.4  # of another object's box, and of its own, that a label may cover
GREY: Colour = (60, 60, 60)

Pixels = UInt8[np.ndarray, "_ _ 3"]
Box = tuple[float, float, float, float]  # x0, y0, x1, y1


class Style(NamedTuple):
    """Sizes in pixels, and the colours of all classes."""

    line: int
    letters: int
    colours: dict[str, Colour]


def annotate(pixels: Pixels, layers: Sequence[Layer]) -> Pixels:
    """A copy of the image with `layers` drawn over it; larger by a whole factor if the image is small."""
    factor = enlargement(pixels.shape[:2])
    image = np.repeat(np.repeat(pixels, factor, axis=0), factor, axis=1)
    style = _style(image.shape[:2], marks.colours([layer.classes for layer in layers]))
    busy = np.zeros(image.shape[:2], bool)  # where the legend had better not lie
    named: dict[str, None] = {}  # the classes of the legend
    for layer in layers:
        if isinstance(layer, Regions):
            image = _with_regions(image, layer, factor, style, busy)
            named |= dict.fromkeys(_occurring(layer))
    every = [_scaled(layer, factor) for layer in layers if isinstance(layer, Objects)]
    for layer in every:
        image = _with_masks(image, layer, pixels.shape[:2], factor, style)
    drawn = Image.fromarray(image)
    pen = ImageDraw.Draw(drawn)
    labels = Labels(pen, drawn.size, style)
    labels.tag([layer for layer in layers if isinstance(layer, Tag)])
    for layer in every:
        _frame(pen, layer, style, busy)
    for layer in every:
        named |= dict.fromkeys(labels.label(layer))
    for x0, y0, x1, y1 in labels.taken:
        busy[int(y0) : int(y1) + 1, int(x0) : int(x1) + 1] = True
    return np.asarray(draw_legend(drawn, {name: style.colours[name] for name in named}, style.letters, busy))


def enlargement(size: tuple[int, int]) -> int:
    """The factor by which an image of `size` is enlarged."""
    return 1 if max(size) >= SMALL else -(-ENLARGED // max(size))


def _style(size: tuple[int, int], colours: dict[str, Colour]) -> Style:
    mean = (size[0] * size[1]) ** 0.5
    letters = max(LEAST, round(min(LETTERS * mean, TALLEST * min(size))))
    return Style(max(1, round(LINE * mean)), letters, colours)


def _scaled(layer: Objects, factor: int) -> Objects:
    objects = [each._replace(box=[factor * side for side in each.box]) for each in layer.objects]
    return layer._replace(objects=objects)


# Regions and masks


def _with_regions(image: Pixels, layer: Regions, factor: int, style: Style, busy: Bool[np.ndarray, "h w"]) -> Pixels:
    """The image with tinted regions. Marks their borders in `busy`."""
    kinds = layer.kinds[layer.map]
    painted = np.array([style.colours[name] for name in layer.classes] + [(0, 0, 0)], np.float32)
    tint = np.array([0 if name == BACKGROUND else TINT for name in layer.classes] + [1 - DARK], np.float32)
    segments, kinds = (np.repeat(np.repeat(each, factor, axis=0), factor, axis=1) for each in (layer.map, kinds))
    share = tint[kinds][..., None]
    border = _borders(segments, style.line)
    busy |= border
    share = np.where(border[..., None] & (share > 0) & (kinds != VOID)[..., None], 1, share)
    return np.rint(image * (1 - share) + painted[kinds] * share).astype(np.uint8)


def _occurring(layer: Regions) -> Iterator[str]:
    numbers = np.unique(layer.kinds[np.unique(layer.map)])
    return (layer.classes[number] for number in numbers if number != VOID and layer.classes[number] != BACKGROUND)


def _borders(segments: Shaped[np.ndarray, "h w"], line: int) -> Bool[np.ndarray, "h w"]:
    """Pixels within `line` / 2 of another segment; of both segments, so that a line is about `line` wide."""
    border = np.zeros(segments.shape, bool)
    for step in range(1, max(1, round(line / 2)) + 1):
        for axis in (0, 1):
            first, second = (np.moveaxis(each, axis, 0) for each in (segments, border))
            differs = first[step:] != first[:-step]
            second[step:] |= differs
            second[:-step] |= differs
    return border


def _with_masks(image: Pixels, layer: Objects, size: tuple[int, int], factor: int, style: Style) -> Pixels:
    """The image with tinted masks, the best on top; `size` is that of the masks."""
    for rank in reversed(range(len(layer.objects))):
        outline = layer.objects[rank].outline
        if outline is None:
            continue
        x0, y0, x1, y1 = outlines.box(outline, size)
        inside = outlines.mask(outline, size)[int(y0) : int(y1), int(x0) : int(x1)] > 0
        inside = np.pad(np.repeat(np.repeat(inside, factor, axis=0), factor, axis=1), style.line)
        edge = (inside & _borders(inside, 2 * style.line))[style.line : -style.line, style.line : -style.line]
        inside = inside[style.line : -style.line, style.line : -style.line]
        share = np.where(edge, 1, np.where(inside, TINT, 0))[..., None]
        part = image[factor * int(y0) : factor * int(y1), factor * int(x0) : factor * int(x1)]
        part[:] = np.rint(part * (1 - share) + np.array(_colour(layer, rank, style)) * share)
    return image


def _colour(layer: Objects, rank: int, style: Style) -> Colour:
    """The colour of the object of this rank."""
    each = layer.objects[rank]
    if len(layer.classes) == 1 and each.outline is not None:
        return marks.nth(rank)
    return style.colours[layer.classes[each.number]]


# Boxes


def _frame(pen: ImageDraw.ImageDraw, layer: Objects, style: Style, busy: Bool[np.ndarray, "h w"]) -> None:
    """Draws the boxes, the best on top. Marks what they hold in `busy`."""
    for rank in reversed(range(len(layer.objects))):
        each = layer.objects[rank]
        x0, y0, x1, y1 = each.box
        busy[max(0, int(y0)) : max(0, int(y1) + 1), max(0, int(x0)) : max(0, int(x1) + 1)] = True
        if each.framed:
            # A box from x0 to x1 holds the pixels x0 to x1 - 1; Pillow draws lines inwards.
            corners = (x0, y0, max(x0, x1 - 1), max(y0, y1 - 1))
            colour = _colour(layer, rank, style)
            (_dashed if each.ignored else pen.rectangle)(*_arguments(pen, corners, colour, style.line, each.ignored))


def _arguments(pen: ImageDraw.ImageDraw, box: Box, colour: Colour, line: int, dashed: bool) -> tuple:
    return (pen, box, colour, line) if dashed else (box, None, colour, line)


def _dashed(pen: ImageDraw.ImageDraw, box: Box, colour: Colour, line: int) -> None:
    x0, y0, x1, y1 = box
    dash = 4 * line
    for start in np.arange(x0, x1, 2 * dash).tolist():
        for y in (y0, max(y0, y1 - line + 1)):
            pen.rectangle((start, y, min(start + dash, x1), min(y + line - 1, y1)), fill=colour)
    for start in np.arange(y0, y1, 2 * dash).tolist():
        for x in (x0, max(x0, x1 - line + 1)):
            pen.rectangle((x, start, min(x + line - 1, x1), min(start + dash, y1)), fill=colour)


# Labels


class Labels:
    """Writes labels where there is room; `taken` are their boxes."""

    def __init__(self, pen: ImageDraw.ImageDraw, size: tuple[int, int], style: Style):
        self._pen, self._size, self._style = pen, size, style
        self.taken: list[Box] = []

    def tag(self, tags: Sequence[Tag]) -> None:
        """Writes the classes of the whole image, line by line, at its top left."""
        top = 0.0
        for layer in tags:
            for rank, (name, score) in enumerate(layer.lines):
                text = " ".join(filter(None, (f"{layer.of}:" if layer.of else "", tidy(name), _shown(score))))
                ground = self._style.colours.get(name, GREY) if rank == 0 else GREY
                top += self._write(text, (0, top), ground)

    def label(self, layer: Objects) -> list[str]:
        """Labels the objects. Returns the classes of objects whose label has no class for want of room."""
        objects, single = layer.objects, len(layer.classes) == 1
        brief = single or len(objects) > CROWD
        boxes = np.array([each.box for each in objects], float).reshape(-1, 4)
        unnamed = []
        for rank, each in enumerate(objects):
            name, score = layer.classes[each.number], _shown(each.score)
            texts = [score] if brief else [f"{tidy(name)} {score}".rstrip(), score]
            placed = next((text for text in filter(None, texts) if self._place(text, layer, rank, boxes)), "")
            if not single and (not placed or placed == score):
                unnamed.append(name)
        return unnamed

    def _place(self, text: str, layer: Objects, rank: int, boxes: np.ndarray) -> bool:
        """Writes a label at the first place where there is room; False if there is none."""
        text = self._fitting(text)
        if not text:
            return False
        width, tall = self._extent(text)
        for x, y in _places(boxes[rank].tolist(), width, tall, self._size):
            box = (x, y, x + width, y + tall)
            if self._is_free(box, rank, boxes):
                self._write(text, (x, y), _colour(layer, rank, self._style))
                return True
        return False

    def _is_free(self, box: Box, rank: int, boxes: np.ndarray) -> bool:
        """Whether a label at `box` is in the image, overlaps no other label, and covers little of any object's box."""
        (width, tall), (x0, y0, x1, y1) = self._size, box
        if x0 < 0 or y0 < 0 or x1 > width or y1 > tall:
            return False
        if self.taken and (_shared(box, np.array(self.taken)) > 0).any():
            return False
        areas = np.maximum(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), 1)
        limits = np.where(np.arange(len(boxes)) == rank, COVERED_OWN, COVERED)
        return bool((_shared(box, boxes) <= limits * areas).all())

    def _fitting(self, text: str) -> str:
        return fitting(text, self._style.letters, self._size[0] - 2 * self._pad)

    def _extent(self, text: str) -> tuple[int, int]:
        return int(np.ceil(extent(text, self._style.letters))) + 2 * self._pad, height(self._style.letters)

    @property
    def _pad(self) -> int:
        """Pixels at the left and right of a text."""
        return max(2, self._style.letters // 5)

    def _write(self, text: str, corner: tuple[float, float], ground: Colour) -> int:
        """Writes `text`, cut to the image, on its ground; returns the height of the line, 0 if nothing fits."""
        text = self._fitting(text)
        (x, y), (width, tall) = corner, self._extent(text)
        if not text or y + tall > self._size[1]:
            return 0
        self._pen.rectangle((x, y, x + width - 1, y + tall - 1), fill=ground)
        write(self._pen, text, (x + self._pad, y), self._style.letters, on(ground))
        self.taken.append((x, y, x + width, y + tall))
        return tall


def _places(box: Sequence[float], width: int, tall: int, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """The top left corners where the label of a box may stand, best first, within the image's width."""
    x0, y0, x1, y1 = (round(side) for side in box)
    left, right = (max(0, min(x, size[0] - width)) for x in (x0, x1 - width))
    for y in (y0 - tall, max(y0, 0), y1, min(y1, size[1]) - tall):
        yield left, y
        yield right, y
    yield x1, max(y0, 0)
    yield x0 - width, max(y0, 0)


def _shared(box: Box, boxes: np.ndarray) -> np.ndarray:
    """The area that `box` shares with each of `boxes` [n,4]."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    return np.prod(np.maximum(high - low, 0), axis=1)


def _shown(score: float | None) -> str:
    return "" if score is None else f"{score:.2f}"
