"""Maps of ids: which object, or region, each pixel of an image belongs to; as boxes, outlines and classes.

A map is read once, column by column, into runs of pixels that share an id. Boxes, areas, outlines and repainted maps
all come from the runs, so nothing as large as the image is made per object.
"""

import io
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from faster_coco_eval.core import mask as rle
from jaxtyping import Float, Int, Integer, UInt8
from PIL import Image

from morphism.data.masks import check_header
from morphism.data.outlines import Outlines
from morphism.errors import UserError


@dataclass(frozen=True)
class IdMap:
    """A map as runs of pixels, each within one column, sorted by id and then by position.

    size: height and width. starts, lengths: of each run, in pixels counted column by column.
    ids: those that occur, in rising order. The runs of ids[i] are firsts[i] to firsts[i + 1].
    """

    size: tuple[int, int]
    starts: Int[np.ndarray, "runs"]
    lengths: Int[np.ndarray, "runs"]
    ids: Int[np.ndarray, "ids"]
    firsts: Int[np.ndarray, "firsts"]

    @classmethod
    def of(cls, ids: Integer[np.ndarray, "h w"]) -> "IdMap":
        """Reads a map of at least one pixel; ids are whole numbers >= 0."""
        height, width = ids.shape
        columns = np.ascontiguousarray(ids.T)
        is_start = np.ones((width, height), bool)
        np.not_equal(columns[:, 1:], columns[:, :-1], out=is_start[:, 1:])
        starts = np.flatnonzero(is_start)
        values = columns.ravel()[starts].astype(np.int64)
        order = np.argsort(values, kind="stable")
        lengths, values = np.diff(starts, append=ids.size)[order], values[order]
        firsts = np.flatnonzero(np.diff(values, prepend=-1))
        return cls((height, width), starts[order], lengths, values[firsts], np.append(firsts, len(values)))

    @cached_property
    def areas(self) -> Int[np.ndarray, "ids"]:
        """Pixels of each id."""
        return np.add.reduceat(self.lengths, self.firsts[:-1])

    @cached_property
    def boxes(self) -> Float[np.ndarray, "ids 4"]:
        """The tight box around each id: x0, y0, x1, y1 in pixels, float64."""
        x, y = np.divmod(self.starts, self.size[0])
        low = [np.minimum.reduceat(each, self.firsts[:-1]) for each in (x, y)]
        high = [np.maximum.reduceat(each, self.firsts[:-1]) for each in (x + 1, y + self.lengths)]
        return np.stack([*low, *high], axis=1).astype(np.float64)

    def rows(self, ids: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """The position in `self.ids` of each of `ids`; -1 for one that does not occur."""
        found = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[found] == ids, found, -1)

    def outlines(self, rows: Int[np.ndarray, "n"]) -> Outlines:
        """The outlines of the ids in these rows; an empty one where the row is -1."""
        return Outlines.of(self._outline(row) if row >= 0 else None for row in rows.tolist())

    def repaint(self, classes: UInt8[np.ndarray, "ids"]) -> UInt8[np.ndarray, "h w"]:
        """The map with each id, in the order of `ids`, replaced by its class."""
        order = np.argsort(self.starts)
        values = np.repeat(classes, np.diff(self.firsts))[order]
        return np.ascontiguousarray(np.repeat(values, self.lengths[order]).reshape(self.size[::-1]).T)

    def _outline(self, row: int) -> bytes:
        """Compressed run lengths. Runs that meet at the end of a column are joined, as in pycocotools."""
        part = slice(*self.firsts[row : row + 2])
        starts, ends = self.starts[part], self.starts[part] + self.lengths[part]
        apart = starts[1:] != ends[:-1]
        starts, ends = starts[np.append(True, apart)], ends[np.append(apart, True)]
        edges = np.concatenate([[0], np.stack([starts, ends], axis=1).ravel(), [self.size[0] * self.size[1]]])
        counts = np.diff(edges)
        counts = counts if counts[-1] else counts[:-1]
        return rle.frPyObjects({"size": list(self.size), "counts": counts.tolist()}, *self.size)["counts"]


def outlines_of(ids: Integer[np.ndarray, "h w"], wanted: Int[np.ndarray, "n"]) -> Outlines:
    """The outlines of the regions of a map with these ids; that of an id that does not occur is empty, or unknown."""
    found = IdMap.of(ids)
    return found.outlines(found.rows(wanted))


def read_ids(encoded: bytes, name: str, colours: bool = False) -> Integer[np.ndarray, "h w"]:
    """Decodes a map of ids: grey of up to 16 bits or palette indices, or with `colours` R + 256 G + 65536 B.

    Raises UserError, naming the file, if it has other pixels, and as `stored_pixels` does.
    """
    mode, pixels = stored_pixels(encoded, name)
    if colours and mode in ("RGB", "RGBA"):
        red, green, blue = (pixels[..., channel].astype(np.int32) for channel in range(3))
        return red | green << 8 | blue << 16
    if colours or pixels.ndim != 2 or mode == "1":
        wanted = "colours, R + 256 G + 65536 B" if colours else "grey of 8 or 16 bits, or a palette"
        raise UserError(f"{name}: a map of ids must be stored as {wanted}, not as {mode}; export it again")
    if pixels.min() < 0:
        raise UserError(f"{name}: holds {pixels.min()}, ids are at least 0; mend it")
    return pixels


def stored_pixels(encoded: bytes, name: str) -> tuple[str, np.ndarray]:
    """Pillow's mode of a mask, and its pixels as they are stored: [h,w], or [h,w,bands].

    Raises UserError, naming the file, if it cannot be decoded or is stored with loss.
    """
    try:
        with Image.open(file := io.BytesIO(encoded)) as opened:
            check_header(opened, file, name)
            return opened.mode, np.asarray(opened)
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever broken bytes lead them to
        reason = str(error).split(" <")[0].rstrip(".")
        raise UserError(f"{name}: cannot be decoded ({reason}); replace or remove it") from error
