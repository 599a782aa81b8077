"""`voc:<path>`: boxes in the format of Pascal VOC (Everingham et al. 2010); <path> is a VOCdevkit/VOC2007, for example.

    <path>/ImageSets/Main/{train,val,trainval,test}.txt     one name per line
    <path>/Annotations/<name>.xml
    <path>/JPEGImages/<name>.jpg                            or another image format

The format's coordinates are pixel indices that count from 1 and include the last pixel. They become continuous by
detectron2's rule: xmin - 1, ymin - 1, xmax, ymax. Data that counts from 0 is read by the same rule, and clipped.
The classes are VOC's twenty, in its order, if no other names occur; else the sorted names of all splits. Splits that
are not opened may lack annotations, as VOC's test set does. The size of an image is the one that its annotation states,
or without one that of its header. Parts of objects are left out. <difficult> is 0 where it is missing or empty; any
whole number above 0 means 1. Each <bndbox> of an <object> is an object.

Masks of objects, if they are wanted, are in

    <path>/SegmentationObject/<name>.png                    palette indices: 0 background, 1, 2, ... objects, 255 void

Object k of the file is the k-th of the annotation if their boxes fit, for all objects of the file; else objects are
matched by their boxes. Two boxes fit if their IoU is LEAST_IOU or more: void along the edge of a small object makes its
mask smaller. What finds no match is counted, and so are images without a file: their masks are unknown.
"""

import itertools
import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from morphism.data.annotations import check_size, image_size, named_images, pack, packed_names, stated_size
from morphism.data.file_source import BoxedFiles
from morphism.data.files import read_bytes, read_names, read_text
from morphism.data.id_maps import IdMap, read_ids
from morphism.data.outlines import Outlines
from morphism.data.sources.folder import root_folder
from morphism.errors import UserError, skippable

MASKS = True
SPLITS = ("train", "val", "trainval", "test")
LEAST_IOU = 0.25  # of the box of an object's mask and its annotated box
NOT_OBJECTS = (0, 255)  # in SegmentationObject
CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
CORNERS = ("xmin", "ymin", "xmax", "ymax")
# Where these elements belong, below <annotation>. Elsewhere, or spelt otherwise, they would be silently ignored.
PLACES = {
    "object": ("object",),
    "bndbox": ("object/bndbox", "object/part/bndbox"),
    "difficult": ("object/difficult", "object/part/difficult"),
}


@dataclass(frozen=True)
class _Parsed:
    size: tuple[int, int] | None  # height, width
    names: list[str]
    boxes: list[list[float]]
    difficult: list[bool]
    second: int  # boxes beyond the first of their object


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    lists = root_folder(argument, "voc") / "ImageSets" / "Main"
    held = tuple(split for split in SPLITS if (lists / f"{split}.txt").is_file())
    if not held:
        raise UserError(f"{lists}: no list of images; expected one of {', '.join(f'{s}.txt' for s in SPLITS)}")
    return held


def load(argument: str, split: str, data_dir: str, masks: bool = False) -> BoxedFiles:
    root = root_folder(argument, "voc")
    images = named_images(root / "JPEGImages")
    paths = {each: root / "ImageSets" / "Main" / f"{each}.txt" for each in splits(argument, data_dir)}
    lists = {each: read_names(path, images) for each, path in paths.items() if each == split or read_text(path).strip()}
    parsed, own = {}, set(lists[split])
    for name in dict.fromkeys(itertools.chain(*lists.values())):
        if name in own or _xml(root, name).exists():
            with skippable():
                parsed[name] = _parse(_xml(root, name))
    classes, names = _classes(parsed), _with_images(root, filter(parsed.__contains__, lists[split]), images)
    files = [f"JPEGImages/{images[name]}" for name in names]
    found = [parsed[name] for name in names]
    sizes = [each.size or image_size(root / file) for each, file in zip(found, files, strict=True)]
    boxes = [np.array(each.boxes, np.float64).reshape(-1, 4) - (1, 1, 0, 0) for each in found]
    outlines, odd_masks = _outlines(root, names, boxes, sizes) if masks else (None, [])
    store = pack(
        owner=np.repeat(np.arange(len(names)), [len(each.names) for each in found]),
        boxes=np.concatenate(boxes),
        classes=np.array([classes.index(name) for each in found for name in each.names], np.int32),
        difficult=np.array([value for each in found for value in each.difficult], bool),
        sizes=np.array(sizes, np.int32),
        name=lambda index: str(_xml(root, names[index])),
        where=str(root / "ImageSets" / "Main" / f"{split}.txt"),
        outlines=outlines,
        notes=_second_boxes({_xml(root, name): parsed[name].second for name in names}) + odd_masks,
    )
    return BoxedFiles(
        root=root,
        files=packed_names(files),
        classes=classes,
        category_ids=range(1, len(classes) + 1),
        image_ids=np.array(names),
        sizes=np.array(sizes, np.int32),
        store=store,
    )


def _outlines(
    root: Path, names: Sequence[str], boxes: Sequence[Float[np.ndarray, "_ 4"]], sizes: Sequence[tuple[int, int]]
) -> tuple[Outlines, list[str]]:
    """The outlines of all objects, image by image, and what was odd about the files of masks."""
    folder = root / "SegmentationObject"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, so there are no masks; add it, or use an experiment without masks")
    outlines: list[bytes | None] = []
    without: list[Path] = []  # images that have no file
    objects: list[Path] = []  # the file of each object that has no match, and of each mask
    masks: list[Path] = []
    for name, each, size in zip(names, boxes, sizes, strict=True):
        path = folder / f"{name}.png"
        rows = np.full(len(each), -1)
        if path.is_file():
            with skippable():
                ids = read_ids(read_bytes(path), str(path))
                check_size(str(path), ids.shape, size)
                found = IdMap.of(ids)
                rows, left = _matched(found, each)
                objects += [path] * int((rows < 0).sum())
                masks += [path] * left
                outlines += found.outlines(rows)
                continue
        without += [path]
        outlines += [None] * len(each)
    rules = {
        "images have no file of masks (these are unknown), first": without,
        "objects have no mask (it is unknown), first in": objects,
        "masks have no object (dropped), first in": masks,
    }
    return Outlines.of(outlines), [f"{len(paths):,} {rule} {paths[0]}" for rule, paths in rules.items() if paths]


def _matched(found: IdMap, boxes: Float[np.ndarray, "n 4"]) -> tuple[Int[np.ndarray, "n"], int]:
    """For each box the row of its mask in `found`, -1 without one; and the number of masks that have no box."""
    masks = np.flatnonzero(~np.isin(found.ids, NOT_OBJECTS))
    around = found.boxes[masks]
    low = np.maximum(boxes[:, None, :2], around[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], around[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=-1)
    iou = shared / (_areas(boxes)[:, None] + _areas(around)[None] - shared)
    fits = iou >= LEAST_IOU
    own = np.arange(1, len(boxes) + 1)[:, None] == found.ids[masks][None]
    numbered = (fits & own).any(axis=0).all()  # every mask fits the object that has its number
    score = np.where(fits, own if numbered else iou, 0)
    objects, chosen = linear_sum_assignment(score, maximize=True)
    rows = np.full(len(boxes), -1)
    kept = score[objects, chosen] > 0
    rows[objects[kept]] = masks[chosen[kept]]
    return rows, len(masks) - int(kept.sum())


def _areas(boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n"]:
    return np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)


def _with_images(root: Path, names: Iterable[str], images: Container[str]) -> list[str]:
    """The names. Raises UserError for one without an image."""
    found = []
    for name in names:
        with skippable():
            if name not in images:
                raise UserError(
                    f"{_xml(root, name)}: no image {root / 'JPEGImages' / name}.jpg; add it, or mend the list"
                )
            found.append(name)
    return found


def _xml(root: Path, name: str) -> Path:
    return root / "Annotations" / f"{name}.xml"


def _classes(parsed: dict[str, _Parsed]) -> tuple[str, ...]:
    found = {name for each in parsed.values() for name in each.names}
    return CLASSES if found <= set(CLASSES) else tuple(sorted(found))


def _parse(path: Path) -> _Parsed:
    tree = _tree(path)
    boxes = [(each, box) for each in tree.findall("object") for box in _boxes(each, path)]
    return _Parsed(
        size=_size(tree, path),
        names=[_text(each, "name", path) for each, _ in boxes],
        boxes=[[_number(box, corner, path) for corner in CORNERS] for _, box in boxes],
        difficult=[_difficult(each, path) for each, _ in boxes],
        second=len(boxes) - len(tree.findall("object")),
    )


def _tree(path: Path) -> ElementTree.Element:
    """The document's root, <annotation>. Raises UserError for elements of the format in the wrong place."""
    try:
        content = read_bytes(path, "add it, or mend the list")
        if b"<!ENTITY" in content.replace(b"\0", b""):  # in UTF-16 too
            raise UserError(f"{path}: declares entities, which annotations do not need; remove its <!DOCTYPE ...>")
        tree = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise UserError(f"{path}: not XML ({error}); mend or remove it") from error
    if tree.tag != "annotation":
        raise UserError(f"{path}: its outermost element is <{tree.tag}>, not <annotation>; export it as Pascal VOC")
    known = {id(each) for places in PLACES.values() for place in places for each in tree.findall(place)}
    for each in tree.iter():
        name = each.tag.rpartition("}")[2].lower()  # a namespace is in braces
        if name in PLACES and id(each) not in known:
            raise UserError(
                f"{path}: <{each.tag}> is not where Pascal VOC has its <{name}>, in small letters and without a "
                f"namespace: <annotation>{''.join(f'<{tag}>' for tag in PLACES[name][0].split('/'))}; mend it"
            )
    return tree


def _boxes(element: ElementTree.Element, path: Path) -> list[ElementTree.Element]:
    found = element.findall("bndbox")
    if not found:
        raise UserError(f"{path}: an <object> lacks <bndbox>; add it")
    return found


def _difficult(element: ElementTree.Element, path: Path) -> bool:
    text = (element.findtext("difficult") or "").strip()
    if not text:
        return False
    number = _number(element, "difficult", path)
    if number < 0 or number % 1:
        raise UserError(f"{path}: <difficult> is {text!r:.60}, neither 0 nor 1; mend it")
    return number > 0


def _size(tree: ElementTree.Element, path: Path) -> tuple[int, int] | None:
    if tree.find("size") is None:
        return None
    return stated_size(*(_number(tree, f"size/{side}", path) for side in ("height", "width")))


def _second_boxes(counts: dict[Path, int]) -> list[str]:
    odd = [path for path, count in counts.items() if count]
    total = sum(counts.values())
    return [f"{total:,} beyond the first of their <object> (taken as objects), first in {odd[0]}"] if odd else []


def _text(element: ElementTree.Element, field: str, path: Path) -> str:
    text = (element.findtext(field) or "").strip()
    if not text:
        holder = {"object": "an <object> ", "bndbox": "a <bndbox> "}.get(element.tag, "")
        raise UserError(f"{path}: {holder}lacks <{field.replace('/', '><')}>; add it")
    return text


def _number(element: ElementTree.Element, field: str, path: Path) -> float:
    text = _text(element, field, path)
    try:
        if math.isfinite(number := float(text)):
            return number
        raise ValueError(text)
    except ValueError as error:
        raise UserError(f"{path}: <{field.replace('/', '><')}> is {text!r:.60}, no finite number; mend it") from error
