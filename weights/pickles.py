"""Reads pickles without running them.

Python's own reader imports what a pickle names, calls it with arguments that the pickle chooses, and sets attributes
on the result. This reader is a stack machine over plain values, tuples, lists and dicts. Its user supplies three
functions: what a name stands for, what a call returns, and what a reference points to. The machine itself imports,
calls and changes nothing. It does not recurse, its work is linear in the bytes that it reads, and its memory has a
budget.

Opcodes are those of the binary protocols, 1 to 5. Source: CPython's Lib/pickle.py and Lib/pickletools.py.
"""

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Any

LONGEST_NAME = 1000  # bytes of a module's or class's name, characters of a dict's key
LONGEST_INT = 255  # bytes
PROTOCOL = 5  # the newest

STOP = b"."
CONSTANTS = {b"N": None, b"\x88": True, b"\x89": False, b")": ()}
NUMBERS = {b"J": "<i", b"K": "<B", b"M": "<H", b"G": ">d"}
TEXTS = {b"U": "<B", b"T": "<I", b"\x8c": "<B", b"X": "<I", b"\x8d": "<Q"}  # opcode -> struct format of its length
BYTES = {b"C": "<B", b"B": "<I", b"\x8e": "<Q", b"\x96": "<Q"}
LONGS = {b"\x8a": "<B", b"\x8b": "<I"}
PUTS = {b"q": "<B", b"r": "<I"}
GETS = {b"h": "<B", b"j": "<I"}
TUPLES = {b"\x85": 1, b"\x86": 2, b"\x87": 3}

# Upper bounds, in bytes, of the memory that a step takes on 64-bit CPython.
ANY_STEP, CONTAINER, ITEM, PAIR, REMEMBERED, CALL = 64, 64, 16, 100, 160, 200


@dataclass(frozen=True, slots=True)
class Inert:
    """Placeholder for a class that is not read, and for its objects; it drops whatever is put into it."""

    name: str


class Budget:
    """Counts memory: `left` bytes may still be used."""

    def __init__(self, left: int):
        self.left = left

    def spend(self, count: int) -> None:
        """Raises ValueError if fewer than `count` bytes are left."""
        self.left -= count
        if self.left < 0:
            raise ValueError("its objects would take much more memory than the file")


class Stream:
    """The next `length` bytes of `file`. Lengths are checked first, so that none in a file can allocate memory."""

    def __init__(self, file: BufferedIOBase, length: int):
        self._file, self._left = file, length

    def read(self, count: int) -> bytes:
        data = self._file.read(count) if count <= self._left else b""
        if len(data) < count:
            raise EOFError("it ends too early")
        self._left -= count
        return data

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.read(struct.calcsize(form)))[0]

    def line(self) -> str:
        data = self._file.readline(min(LONGEST_NAME, self._left))
        if not data.endswith(b"\n"):
            raise EOFError("a name without an end")
        self._left -= len(data)
        return data[:-1].decode()


class Machine:
    """Reads one pickle.

    Args:
      budget: limits the memory of the content, and so the work.
      name: (module, name) -> what stands for the class or function of that name.
      call: (what a name stands for, tuple of arguments) -> the object that the call returns.
      refer: persistent reference -> the object that it points to.

    The last three must return immutable objects: a pickle can put them anywhere, any number of times.
    """

    def __init__(
        self,
        stream: Stream,
        budget: Budget,
        name: Callable[[str, str], Any],
        call: Callable[[Any, tuple], Any],
        refer: Callable[[Any], Any],
    ):
        self._stream, self._spend = stream, budget.spend
        self._name, self._call, self._refer = name, call, refer
        self._stack: list[Any] = []
        self._marks: list[int] = []  # heights of the stack
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The pickle's content. Raises ValueError or EOFError if this is no pickle, and whatever the three raise."""
        while (opcode := self._stream.read(1)) != STOP:
            self._spend(ANY_STEP)
            self._step(opcode)
        return self._pop()

    def _step(self, opcode: bytes) -> None:
        stream, push = self._stream, self._stack.append
        if opcode in CONSTANTS:
            push(CONSTANTS[opcode])
        elif opcode in GETS:
            push(self._remembered(stream.number(GETS[opcode])))
        elif opcode in PUTS:
            self._remember(stream.number(PUTS[opcode]))
        elif opcode in NUMBERS:
            push(stream.number(NUMBERS[opcode]))
        elif opcode in TEXTS:
            push(self._text(stream.number(TEXTS[opcode])))
        elif opcode in BYTES:
            push(self._bytes(stream.number(BYTES[opcode])))
        elif opcode in LONGS:
            push(self._long(stream.number(LONGS[opcode])))
        elif opcode in TUPLES:
            push(self._tuple([self._pop() for _ in range(TUPLES[opcode])][::-1]))
        elif opcode in ACTIONS:
            ACTIONS[opcode](self)
        else:
            raise ValueError(f"it has an opcode {opcode!r}")

    def _pop(self) -> Any:
        self._top()
        return self._stack.pop()

    def _top(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise ValueError("it takes from an empty stack")
        return self._stack[-1]

    def _since_mark(self) -> list[Any]:
        if not self._marks:
            raise ValueError("it takes from before the beginning")
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _text(self, length: int) -> str:
        """Text, or the str of Python 2, which is bytes. Invalid UTF-8 is kept as surrogates."""
        data = self._bytes(length)
        self._spend(4 * length)
        return data.decode(errors="surrogateescape")

    def _bytes(self, length: int) -> bytes:
        self._spend(length)
        return self._stream.read(length)

    def _long(self, length: int) -> int:
        if length > LONGEST_INT:
            raise ValueError(f"it has a number of {length} bytes")
        return int.from_bytes(self._bytes(length), "little", signed=True)

    def _tuple(self, items: list[Any]) -> tuple:
        self._spend(CONTAINER + ITEM * len(items))
        return tuple(items)

    def _remember(self, index: int) -> None:
        self._spend(REMEMBERED)
        self._memo[index] = self._top()

    def _remembered(self, index: int) -> Any:
        if index not in self._memo:
            raise ValueError(f"it has no remembered object {index}")
        return self._memo[index]

    def _put(self, pairs: list[Any]) -> None:
        """Puts alternating keys and values into the dict on top of the stack, except those that `named` drops."""
        target = self._top()
        self._spend(PAIR * len(pairs))
        if len(pairs) % 2:
            raise ValueError("it has a key without a value")
        if type(target) is dict:
            target.update(named(zip(pairs[::2], pairs[1::2], strict=True)))
        elif type(target) is not Inert:
            raise ValueError(f"it puts pairs into a {type(target).__name__}")

    def _extend(self, items: list[Any]) -> None:
        target = self._top()
        self._spend(ITEM * len(items))
        if type(target) is list:
            target.extend(items)
        elif type(target) is not Inert:
            raise ValueError(f"it appends to a {type(target).__name__}")

    # The actions: one opcode each.

    def _mark(self) -> None:
        self._marks.append(len(self._stack))

    def _drop(self) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._pop()

    def _empty_dict(self) -> None:
        self._spend(CONTAINER)
        self._stack.append({})

    def _empty_list(self) -> None:
        self._spend(CONTAINER)
        self._stack.append([])

    def _marked_dict(self) -> None:
        pairs = self._since_mark()
        self._empty_dict()
        self._put(pairs)

    def _marked_list(self) -> None:
        items = self._since_mark()
        self._empty_list()
        self._extend(items)

    def _append(self) -> None:
        self._extend([self._pop()])

    def _set_item(self) -> None:
        value = self._pop()
        self._put([self._pop(), value])

    def _add_items(self) -> None:
        self._since_mark()
        if type(self._top()) is not Inert:
            raise ValueError(f"it adds to a {type(self._top()).__name__}")

    def _frozen_set(self) -> None:
        self._since_mark()
        self._stack.append(SET)

    def _protocol(self) -> None:
        version = self._stream.number("<B")
        if version > PROTOCOL:
            raise ValueError(f"it is a pickle of protocol {version}")

    def _global(self) -> None:
        self._spend(CALL)
        self._stack.append(self._name(self._stream.line(), self._stream.line()))

    def _stack_global(self) -> None:
        self._spend(CALL)
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str or max(len(name), len(module)) > LONGEST_NAME:
            raise ValueError("it has a name that is no text")
        self._stack.append(self._name(module, name))

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if type(arguments) is not tuple:
            raise ValueError(f"it calls with a {type(arguments).__name__}")
        self._spend(CALL + ITEM * len(arguments))
        self._spend(PAIR * sum(len(each) for each in arguments if type(each) in (tuple, list)))
        self._stack.append(self._call(function, arguments))

    def _build(self) -> None:
        """Drops an object's state. A state dict has one too: the version numbers of torch's modules."""
        self._pop()
        if type(self._top()) not in (dict, Inert):
            raise ValueError(f"it sets attributes of a {type(self._top()).__name__}")

    def _reference(self) -> None:
        self._spend(CALL)
        self._stack.append(self._refer(self._pop()))


SET = Inert("builtins.set")
ACTIONS: dict[bytes, Callable[[Machine], None]] = {
    b"(": Machine._mark,
    b"0": Machine._drop,
    b"1": lambda machine: machine._since_mark(),
    b"2": lambda machine: machine._stack.append(machine._top()),
    b"}": Machine._empty_dict,
    b"]": Machine._empty_list,
    b"d": Machine._marked_dict,
    b"l": Machine._marked_list,
    b"t": lambda machine: machine._stack.append(machine._tuple(machine._since_mark())),
    b"a": Machine._append,
    b"e": lambda machine: machine._extend(machine._since_mark()),
    b"s": Machine._set_item,
    b"u": lambda machine: machine._put(machine._since_mark()),
    b"\x8f": lambda machine: machine._stack.append(SET),
    b"\x90": Machine._add_items,
    b"\x91": Machine._frozen_set,
    b"\x94": lambda machine: machine._remember(len(machine._memo)),
    b"\x80": Machine._protocol,
    b"\x95": lambda machine: machine._stream.read(8),  # a frame's length, not needed
    b"c": Machine._global,
    b"\x93": Machine._stack_global,
    b"R": Machine._reduce,
    b"\x81": Machine._reduce,  # NEWOBJ: a class and the arguments of its __new__
    b"b": Machine._build,
    b"Q": Machine._reference,
}


def named(pairs: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    """The pairs whose key is a name. Others belong to optimisers, and hashing a nested tuple can take forever."""
    return {key: value for key, value in pairs if type(key) is str and len(key) <= LONGEST_NAME}
