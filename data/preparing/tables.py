"""Tables of truths: one column per kind of truth, in files that are mapped into memory, so that opening reads nothing.

Columns of n records with m objects, of which a split has those of its targets:

    sizes           int32 [n,2]     height and width of the stored image
    names           bytes [n]       what a record is called, whatever other records there are (records.names)
    image_ids       int64, bytes    the dataset's own ids, where it has any
    odd             int32 [n]       odd.Odd: what was odd about the original
    has_<target>    bool [n]        whether the record carries that truth
    label           int32 [n]       -1 without one
    object_ends     int64 [n+1]     0, then where the objects of each record end
    boxes           float32 [m,4]   annotations.Annotations, column by column
    classes         int32 [m]
    crowd           bool [m]
    difficult       bool [m]
    area            float64 [m]
    outline_ends    int64 [m+1]     0, then where the run lengths of each object end
    outlines        uint8           compressed run lengths, one object after another

A shard holds the columns of its own records in one .npz file; `merge` joins them, a file per column.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from morphism.data.annotations import NO_OBJECTS
from morphism.data.outlines import Outlines
from morphism.data.targets import label

Columns = dict[str, np.ndarray]

ENDS = {"object_ends": "boxes", "outline_ends": "outlines"}  # column -> the one that it counts the rows of
FACTS = "facts"  # of the shard itself (shards.py)
SMALL = 4096  # bytes: an array without rows cannot be mapped


def columns(records: Sequence[Mapping], targets: Mapping[str, str]) -> Columns:
    """The columns of the truths of `records`. targets: the targets of their source, each with its key in a record."""
    found = {f"has_{name}": np.array([key in each for each in records], bool) for name, key in targets.items()}
    if "label" in targets:
        found["label"] = np.array([each.get("label", label.UNKNOWN) for each in records], np.int32)
    if "boxes" in targets:
        objects = [each.get("annotations", NO_OBJECTS) for each in records]
        found["object_ends"] = _ends([len(each) for each in objects])
        for name in ("boxes", "classes", "crowd", "difficult", "area"):
            kind = getattr(NO_OBJECTS, name)
            found[name] = np.concatenate([kind, *(getattr(each, name) for each in objects)]).astype(kind.dtype)
    if "masks" in targets:
        unknown = [Outlines.of([None] * len(each)) for each in objects]
        masks = [each.get("masks", without) for each, without in zip(records, unknown, strict=True)]
        found["outline_ends"] = _ends([length for each in masks for length in np.diff(each.ends).tolist()])
        found["outlines"] = np.frombuffer(b"".join(bytes(each.counts) for each in masks), np.uint8)
    return found


def _ends(lengths: Sequence[int]) -> np.ndarray:
    return np.cumsum([0, *lengths], dtype=np.int64)


def packed(ids: Sequence | np.ndarray | None) -> np.ndarray | None:
    """Ids as int64, or as UTF-8 where they are not all whole numbers; None without any."""
    if ids is None:
        return None
    found = np.asarray(ids)
    if found.dtype.kind in "iu":
        return found.astype(np.int64)
    return np.array([str(each).encode(errors="surrogatepass") for each in found.tolist()])


def encoded(table: Columns) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **table)
    return buffer.getvalue()


def merge(shards: Sequence[Path], folder: Path) -> None:
    """Joins the .npz files of a split's shards into one .npy file per column, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces: dict[str, list[tuple[tuple[int, ...], np.dtype]]] = {}
    for path in shards:
        for name, rows in _rows(path).items():
            pieces.setdefault(name, []).append((rows.shape, rows.dtype))
    merged = {}
    for name, each in pieces.items():
        shape = (sum(shape[0] for shape, _ in each) + (name in ENDS), *each[0][0][1:])
        kind = np.result_type(*(dtype for _, dtype in each))
        if np.prod(shape):
            merged[name] = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, shape)
        else:  # nothing to map
            np.save(folder / f"{name}.npy", np.zeros(shape, kind))
    filled = dict.fromkeys(pieces, 0)
    for path in shards:
        before = filled.copy()
        for name, rows in _rows(path).items():
            first = before[name] + (name in ENDS)
            if len(rows):
                merged[name][first : first + len(rows)] = rows + before[ENDS[name]] if name in ENDS else rows
            filled[name] += len(rows)
    for each in merged.values():
        each.flush()


def _rows(path: Path) -> Columns:
    """The columns of a shard, without the leading 0 of ends."""
    with np.load(path) as table:
        return {name: table[name][1:] if name in ENDS else table[name] for name in table.files if name != FACTS}


def opened(folder: Path, name: str) -> np.ndarray | None:
    """A column, mapped into memory unless it is small; None if there is none."""
    path = folder / f"{name}.npy"
    if not path.exists():
        return None
    return np.load(path, mmap_mode="r" if path.stat().st_size > SMALL else None)
