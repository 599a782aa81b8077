"""HTML as functions: every text and attribute is escaped here, and nowhere else."""

import html
import json
from collections.abc import Iterable
from typing import Any

from morphism.errors import one_line

VOID = ("img", "meta", "input", "br")


class Html(str):
    """Text that is HTML already."""


Child = str | Html | int | None | Iterable[Any]


def tag(name: str, /, *children: Child, **attributes: str | int | bool | None) -> Html:
    """An element. An attribute that is None or False is left out; class_ is class, data_id is data-id.

    Control characters of texts, which names of files may have, are escaped as in errors.
    """
    written = "".join(
        _attribute(key, value) for key, value in attributes.items() if value is not None and value is not False
    )
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{joined(*children)}</{name}>")


def joined(*children: Child) -> Html:
    return Html("".join(map(_text, children)))


def script_data(value: Any) -> Html:
    """JSON that may stand in a <script>: it holds nothing that could end the element."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Html(text)


def _attribute(key: str, value: str | int | bool) -> str:
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(str(value), quote=True)}"'


def _text(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, str | int):
        return html.escape(plain(str(child)))
    return "".join(map(_text, child))


def plain(text: str) -> str:
    """Text without control characters; spaces at its ends stay."""
    return text if text.replace("\N{NO-BREAK SPACE}", " ").isprintable() else one_line(text)
