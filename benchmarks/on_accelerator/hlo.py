"""Reads the text of a compiled program: which kernels it runs, and what they read from memory and write to it.

`traffic(text)` is a pure function of what jax.stages.Compiled.as_text() returns. A kernel is an instruction of the
entry computation, or of the body of a loop or branch (counted once). Instructions inside a fusion exchange their
values in registers.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

LARGE = 2**20  # bytes: activations are larger, parameters of channels are not
BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}  # of the types whose name does not say it
FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id")
INTO = ("body", "to_apply", "branch_computations", "true_computation", "false_computation", "called_computations")
MOVES = ("transpose", "copy", "copy-start")
PARTLY = ("slice", "dynamic-slice", "gather")  # they read of their operand what they return
ALIKE = ("convert", "bitcast", "copy", "reshape", "transpose")  # they read what their users do
KINDS = (  # the first whose operation a kernel has, alone or fused with others, is the kernel's
    ("convolution", ("convolution",)),
    ("product", ("dot", "ragged-dot")),
    ("scatter", ("scatter", "select-and-scatter")),
    ("sort", ("sort", "topk")),
    ("reduction", ("reduce", "reduce-window")),
    ("gather", ("gather",)),
)


class Array(NamedTuple):
    type: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        digits = re.search(r"\d+", self.type)
        bits = BITS.get(self.type) or (int(digits[0]) if digits else 8)
        return bits * prod(self.shape) // 8


class Instruction(NamedTuple):
    """`results` are the arrays that it makes, `operands` the names of what it reads, `rest` its attributes.

    The operand of a parameter is its position.
    """

    name: str
    results: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    rest: str
    root: bool


class Read(NamedTuple):
    """An operand of a kernel: its bytes, and the share of them that the kernel reads."""

    whole: int
    share: float

    @property
    def bytes(self) -> int:
        return int(self.whole * self.share)


_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$|^(ENTRY )?%?([\w.\-]+) \{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\]")


def computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """The instructions of each computation by its name, and the name of the entry."""
    found: dict[str, list[Instruction]] = {}
    entry = current = ""
    for line in text.splitlines():
        if line and not line[0].isspace() and (header := _HEADER.match(line)):
            current = header[2] or header[4]
            found[current] = []
            entry = current if header[1] or header[3] else entry
        elif current and (match := _LINE.match(line)):
            found[current].append(_instruction(*match.groups()))
    return found, entry


def _instruction(root: str | None, name: str, text: str) -> Instruction:
    """`text` is all behind the equals sign: the type of the result, the operation, its operands and attributes."""
    end = _closing(text) + 1 if text.startswith("(") else text.index(" ")
    arrays = tuple(_array(*each) for each in _ARRAY.findall(text[:end]))
    text = text[end:].lstrip()
    opcode, _, behind = text.partition("(")
    close = _closing("(" + behind)
    inside, rest = behind[: close - 1], behind[close:]
    if opcode == "parameter":
        return Instruction(name, arrays, opcode, (inside,), rest, root is not None)
    operands = tuple(re.findall(r"%([\w.\-]+)", inside)) or tuple(re.findall(r"([A-Za-z_][\w.\-]*)", inside))
    return Instruction(name, arrays, opcode, operands, rest, root is not None)


def _closing(text: str) -> int:
    """The position of the bracket that closes the first one."""
    depth = 0
    for position, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return position
    return len(text) - 1


def _array(type_: str, shape: str) -> Array:
    return Array(type_, tuple(int(side.strip("<=")) for side in shape.split(",") if side))


def kernels(text: str) -> Iterator[tuple[Instruction, list[Read], list[Instruction]]]:
    """Each kernel, what it reads of each operand, and the instructions fused into it (itself if none are)."""
    found, entry = computations(text)
    waiting, seen = [entry], set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in found:
            continue
        seen.add(name)
        arrays = {each.name: each.results for each in found[name]}
        for each in found[name]:
            calls = _called(each.rest, ("calls",))
            if each.opcode in ("while", "conditional", "call", "async-start"):
                waiting += _called(each.rest, (*INTO, "calls"))
                continue
            if each.opcode not in FREE and not each.opcode.endswith("-done"):
                shares = _shares(found[calls[0]]) if each.opcode == "fusion" and calls else {}
                sizes = (sum(array.bytes for array in arrays.get(operand, ())) for operand in each.operands)
                reads = [Read(size, shares.get(position, 1.0)) for position, size in enumerate(sizes)]
                yield each, reads, [part for call in calls for part in _whole(found, call)] or [each]


def _shares(fused: list[Instruction]) -> dict[int, float]:
    """The share of each operand that a fused computation reads: less than 1 where it only slices it or looks it up."""
    users: dict[str, list[Instruction]] = defaultdict(list)
    for each in fused:
        for operand in () if each.opcode == "parameter" else each.operands:
            users[operand].append(each)

    def elements(each: Instruction) -> int:
        whole = sum(prod(array.shape) for array in each.results)
        if each.root or not users[each.name]:
            return whole
        read = (
            prod(user.results[0].shape)
            if user.opcode in PARTLY and user.operands[0] == each.name
            else elements(user)
            if user.opcode in ALIKE
            else whole
            for user in users[each.name]
        )
        return min(sum(read), whole)

    parameters = (each for each in fused if each.opcode == "parameter")
    return {
        int(each.operands[0]): elements(each) / max(sum(prod(array.shape) for array in each.results), 1)
        for each in parameters
    }


def _called(rest: str, attributes: Sequence[str]) -> list[str]:
    names = []
    for attribute in attributes:
        for braces, one in re.findall(rf"\b{attribute}=(?:\{{([^}}]*)\}}|%?([\w.\-]+))", rest):
            names += re.findall(r"[\w.\-]+", braces) if braces else [one]
    return names


def _whole(found: dict[str, list[Instruction]], name: str) -> list[Instruction]:
    """The instructions of a fused computation and of those that it calls in turn."""
    own = found.get(name, [])
    return own + [part for each in own for call in _called(each.rest, ("calls",)) for part in _whole(found, call)]


def kind(kernel: Instruction, parts: Sequence[Instruction]) -> str:
    """One of KINDS, or "move" (a copy or a transposition), "elementwise", or the name of a library's operation."""
    if kernel.opcode == "custom-call":
        target = re.search(r'custom_call_target="([^"]*)"', kernel.rest)
        name = target[1] if target else "custom-call"
        return (
            "convolution" if "conv" in name.lower() else "product" if "gemm" in name.lower() or "dot" in name else name
        )
    has = {part.opcode for part in parts}
    for name, opcodes in KINDS:
        if has & set(opcodes):
            return name
    if any(part.root and part.opcode in MOVES for part in parts) or kernel.opcode in MOVES:
        return "move"
    return "elementwise"


def traffic(text: str, large: int = LARGE) -> dict[str, Any]:
    """What a program's kernels read and write, in bytes.

    Returns:
      kinds: kind -> {"kernels", "read", "written"}.
      written: type -> bytes of arrays of at least `large` bytes.
      float32: the largest float32 arrays that are written, as "count x float32[shape]", most bytes first.
      moves: the same of copies and transpositions of at least `large` bytes.
      passes: kernels that read at least `large` bytes of whole arrays to reduce them to less than an eighth: batch norm
        has two per layer and step if its moments take one pass (the other is its gradient), three if they take two.
    """
    kinds: dict[str, dict[str, int]] = defaultdict(lambda: {"kernels": 0, "read": 0, "written": 0})
    written: dict[str, int] = defaultdict(int)
    float32: dict[Array, int] = defaultdict(int)
    moves: dict[Array, int] = defaultdict(int)
    passes = 0
    for kernel, reads, parts in kernels(text):
        name = kind(kernel, parts)
        read, wrote = (sum(each.bytes for each in arrays) for arrays in (reads, kernel.results))
        row = kinds[name]
        row["kernels"] += 1
        row["read"] += read
        row["written"] += wrote
        whole = sum(each.whole for each in reads if each.share == 1)
        passes += name == "reduction" and whole >= large and wrote < whole / 8
        for array in kernel.results:
            if array.bytes >= large:
                written[array.type] += array.bytes
                float32[array] += array.type == "f32"
                moves[array] += name == "move"
    return {
        "kinds": dict(kinds),
        "written": dict(written),
        "float32": _largest(float32),
        "moves": _largest(moves),
        "passes": passes,
    }


def _largest(counts: dict[Array, int], most: int = 8) -> list[str]:
    ordered = sorted((each for each in counts if counts[each]), key=lambda each: -each.bytes * counts[each])
    return [f"{counts[each]} x {each.type}[{','.join(map(str, each.shape))}]" for each in ordered[:most]]


def facts(text: str) -> dict[str, Any]:
    """`traffic` in a few numbers, gigabytes and counts, and the whole of it as "hlo"."""
    found = traffic(text)
    written, kinds = found["written"], found["kinds"]
    return {
        "gb_read": sum(row["read"] for row in kinds.values()) / 1e9,
        "gb_written": sum(row["written"] for row in kinds.values()) / 1e9,
        "gb_float32": written.get("f32", 0) / 1e9,
        "gb_moved": kinds.get("move", {"written": 0})["written"] / 1e9,
        "passes": found["passes"],
        "hlo": found,
    }
