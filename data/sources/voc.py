"""`voc:<path>`: boxes in the format of Pascal VOC (Everingham et al. 2010); <path> is a VOCdevkit/VOC2007, for example.

    <path>/ImageSets/Main/{train,val,trainval,test}.txt     a name a line
    <path>/Annotations/<name>.xml
    <path>/JPEGImages/<name>.jpg                            or another picture format

The format's coordinates are indices of pixels, from 1, of which the last belongs to the box. They become continuous by
detectron2's rule: xmin - 1, ymin - 1, xmax, ymax. Data that counts from 0 is read by the same rule, and clipped.
The classes are VOC's twenty, in its order, where no other names occur; else the sorted names of all splits. Splits that
are not opened may lack annotations, as VOC's test set does. A picture's size is what its annotation says, or its own
header where that is silent. An object's parts are left out. <difficult> is 0 where it is missing or empty, and a whole
number above 0 is 1. Each <bndbox> of an <object> is an object.
"""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from morphism.data.annotations import named_pictures, pack, packed_names, picture_size, stated_size
from morphism.data.boxed_files import BoxedFiles
from morphism.data.files import read_bytes, read_names, read_text
from morphism.data.sources.folder import root_folder
from morphism.errors import UserError, skippable

SPLITS = ("train", "val", "trainval", "test")
CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
CORNERS = ("xmin", "ymin", "xmax", "ymax")
# Below <annotation>, the elements that, elsewhere or otherwise spelt, would be an image's objects lost in silence.
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
        raise UserError(f"{lists}: no list of pictures; expected one of {', '.join(f'{s}.txt' for s in SPLITS)}")
    return held


def load(argument: str, split: str, data_dir: str) -> BoxedFiles:
    root = root_folder(argument, "voc")
    pictures = named_pictures(root / "JPEGImages")
    paths = {each: root / "ImageSets" / "Main" / f"{each}.txt" for each in splits(argument, data_dir)}
    lists = {
        each: read_names(path, pictures) for each, path in paths.items() if each == split or read_text(path).strip()
    }
    parsed, own = {}, set(lists[split])
    for name in dict.fromkeys(itertools.chain(*lists.values())):
        if name in own or _xml(root, name).exists():
            with skippable():
                parsed[name] = _parse(_xml(root, name))
    classes = _classes(parsed)
    names = []
    for name in filter(parsed.__contains__, lists[split]):
        with skippable():
            if name not in pictures:
                raise UserError(
                    f"{_xml(root, name)}: no picture {root / 'JPEGImages' / name}.jpg; add it, or mend the list"
                )
            names.append(name)
    files = [f"JPEGImages/{pictures[name]}" for name in names]
    found = [parsed[name] for name in names]
    sizes = [each.size or picture_size(root / file) for each, file in zip(found, files, strict=True)]
    store = pack(
        owner=np.repeat(np.arange(len(names)), [len(each.names) for each in found]),
        boxes=np.array([box for each in found for box in each.boxes]).reshape(-1, 4) - (1, 1, 0, 0),
        classes=np.array([classes.index(name) for each in found for name in each.names], np.int32),
        difficult=np.array([value for each in found for value in each.difficult], bool),
        sizes=np.array(sizes, np.int32),
        name=lambda index: str(_xml(root, names[index])),
        where=str(root / "ImageSets" / "Main" / f"{split}.txt"),
        notes=_second_boxes({_xml(root, name): parsed[name].second for name in names}),
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
    """The document's root, <annotation>. Raises UserError for elements of the format that are not where it has them."""
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
