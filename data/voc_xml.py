"""Pascal VOC's XML: the objects of one image, checked."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from morphism.data.annotations import stated_size
from morphism.data.files import read_bytes
from morphism.errors import UserError, skippable

CORNERS = ("xmin", "ymin", "xmax", "ymax")
# Where these elements belong, below <annotation>. Elsewhere, or spelt otherwise, they would be silently ignored.
PLACES = {
    "object": ("object",),
    "bndbox": ("object/bndbox", "object/part/bndbox"),
    "difficult": ("object/difficult", "object/part/difficult"),
}


@dataclass(frozen=True)
class Parsed:
    """The objects in an XML."""

    size: tuple[int, int] | None  # height, width
    names: list[str]
    boxes: list[list[float]]
    difficult: list[bool]
    second: int  # boxes beyond the first of their object


class _Object(NamedTuple):
    name: str
    boxes: list[list[float]]
    difficult: bool


def parse(path: Path) -> Parsed:
    """Raises UserError for what cannot be read; inside errors.noting a broken object is noted, and left out."""
    tree = parsed_xml(path)
    objects: list[_Object] = []
    for each in tree.findall("object"):
        with skippable():
            boxes = [[_number(box, corner, path) for corner in CORNERS] for box in _boxes(each, path)]
            objects.append(_Object(_text(each, "name", path), boxes, _difficult(each, path)))
    return Parsed(
        size=_size(tree, path),
        names=[each.name for each in objects for _ in each.boxes],
        boxes=[box for each in objects for box in each.boxes],
        difficult=[each.difficult for each in objects for _ in each.boxes],
        second=sum(len(each.boxes) - 1 for each in objects),
    )


def parsed_xml(path: Path) -> ElementTree.Element:
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
