"""Fuzzes the reader of torch files: with programs of pickle opcodes, and with real files whose bytes are altered.

    python benchmarks/torch_file_fuzz.py [--files 10000] [--seed 0] [--folder DIR]

Each file must either be read into arrays that lie within their storages, or be refused with a UserError of one line.
Time and memory are limited (SECONDS, MEMORY, PER_BYTE), and real files must read the same afterwards. A file that
fails stays in --folder as file.pth, even if it crashes the process.
"""

import argparse
import collections
import contextlib
import io
import pickle
import re
import resource
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import ml_dtypes
import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st

from morphism.errors import UserError
from morphism.weights import torch_file
from morphism.weights.torch_objects import KNOWN

REAL = Path(__file__).parent.parent / "tests" / "goldens" / "torch_files"
SECONDS = 10  # of CPU time per file
MEMORY, PER_BYTE = 40 << 20, 10  # bytes of additional memory: for any file, plus for each of its bytes
SPACE = 4 << 30  # bytes of address space, so that greed ends this process and not the machine
LONGEST = 1_000_000  # bytes of a program
STORED = {"0": np.arange(16, dtype="<f4").tobytes(), "1": bytes(range(64)), "2": b""}

# Pieces of programs, from what torch writes and from what it never would.
TEXTS = ("storage", "0", "1", "2", "cpu", "weight", "bias", "model", "state_dict", "model_ema", "__defaults__")
HOSTILE = (
    *(("posix", "system"), ("builtins", "eval"), ("builtins", "exec"), ("builtins", "__import__"), ("os", "abort")),
    *(("weights.torch_file", "read"), ("weights.torch_objects", "_tensor"), ("ml_dtypes", "bfloat16")),
    *(("numpy", "frombuffer"), ("numpy.lib.stride_tricks", "as_strided"), ("ctypes", "string_at")),
)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def named(name: tuple[str, str]) -> bytes:
    return b"c" + "\n".join((*name, "")).encode()


def storage(kind: str, key: str, count: bytes) -> bytes:
    return b"(" + text("storage") + named(("torch", kind)) + text(key) + text("cpu") + count + b"tQ"


def tensor(function: str, source: bytes, offset: bytes, shape: list[bytes], strides: list[bytes]) -> bytes:
    sizes = b"(" + b"".join(shape) + b"t(" + b"".join(strides) + b"t"
    hooks = b"\x89" + named(("collections", "OrderedDict")) + b")R"
    return named(("torch._utils", function)) + b"(" + source + offset + sizes + hooks + b"tR"


INTEGERS = st.one_of(
    st.integers(0, 20), st.sampled_from((-1, 2**31 - 1, 2**31, 2**62, 2**63, 2**64, -(2**63), 2**200)), st.integers()
)
NUMBERS = st.one_of(INTEGERS.map(number), st.sampled_from((b"\x88", b"\x89", b"N", b")", b"}", b"]")))
STORAGES = st.builds(
    storage,
    st.sampled_from(("FloatStorage", "ByteStorage", "BFloat16Storage", "float32", "DoubleStorage")),
    st.sampled_from(("0", "1", "2", "3", "../0")),
    st.one_of(st.just(number(16)), st.just(number(64)), NUMBERS),
)
GOOD_TENSORS = st.builds(
    lambda rows, columns, offset: tensor(
        "_rebuild_tensor_v2",
        storage("FloatStorage", "0", number(16)),
        number(offset),
        [number(rows), number(columns)],
        [number(columns), number(1)],
    ),
    *(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)),
)
TENSORS = st.builds(
    tensor,
    st.sampled_from(("_rebuild_tensor_v2", "_rebuild_tensor", "_rebuild_tensor_v3", "_rebuild_parameter")),
    st.one_of(STORAGES, GOOD_TENSORS),
    NUMBERS,
    st.lists(NUMBERS, max_size=3),
    st.lists(NUMBERS, max_size=3),
)
LIES = st.builds(  # lengths of texts, bytes and numbers beyond the file, and references to missing objects
    lambda opcode, length: opcode + struct.pack("<I", length) + b"abc",
    st.sampled_from((b"X", b"T", b"B", b"\x8b", b"r", b"j", b"J")),
    st.sampled_from((4, 255, 2**24, 2**31 - 1, 2**32 - 1)),
)
OPCODES = st.sampled_from(
    [bytes([each]) for each in b"N\x88\x89})](.0012tdlsuae\x85\x86\x87\x8f\x90\x91\x93\x94RRb\x81\x92QPioIVF"]
    + [b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"r\x02\x00\x00\x00", b"\x95" + b"\xff" * 8, b"\x80\x04", b"\x82\x01"]
)
PIECES = st.one_of(
    OPCODES,
    OPCODES,
    NUMBERS,
    st.sampled_from(TEXTS).map(text),
    st.sampled_from([*KNOWN, *HOSTILE]).map(named),
    STORAGES,
    GOOD_TENSORS,
    TENSORS,
    LIES,
    st.binary(max_size=6),
)
GROWING = (  # pieces that pile up, nest or double when repeated
    *(b"}", b"]", b"(", b"N", b"2", b"2\x86", b"(22l", b"2\x85", b"}\x94", b"]2a", b"(22\x91", b"}N2s", b"K\xff"),
    *(
        named(("collections", "OrderedDict")) + b")R",
        named(("builtins", "set")),
        text("weight"),
        b"\x8a\x08" + bytes(8),
    ),
)
BOMBS = st.builds(
    lambda pieces, times: b"N" + (b"".join(pieces) * times)[:LONGEST],
    st.lists(st.one_of(st.sampled_from(GROWING), GOOD_TENSORS), min_size=1, max_size=2),
    st.sampled_from((40, 2000, LONGEST)),
)
ENTRIES = st.builds(lambda key, value: text(key) + value + b"s", st.sampled_from(TEXTS), st.one_of(TENSORS, PIECES))
GOOD_ENTRIES = st.builds(  # a lone piece is usually dropped again
    lambda key, value, piece: text(key) + value + b"s" + piece,
    *(st.sampled_from(TEXTS), GOOD_TENSORS, st.one_of(*(st.just(b"") for _ in range(6)), PIECES)),
)
PROGRAMS = st.one_of(
    st.lists(PIECES, max_size=25).map(b"".join),
    st.lists(ENTRIES, max_size=6).map(lambda entries: b"}" + b"".join(entries)),
    st.lists(GOOD_ENTRIES, min_size=1, max_size=6).map(lambda entries: b"}" + b"".join(entries)),
    st.builds(lambda bomb, after: bomb + after, BOMBS, PIECES),
).map(lambda program: b"\x80\x02" + program + b".")


def zipped(program: bytes, odd: str) -> bytes:
    """torch's archive of the program and STORED, or one with the oddity `odd`."""
    members = [("a/data.pkl", program), ("a/byteorder", b"little"), *((f"a/data/{k}", x) for k, x in STORED.items())]
    if odd == "twice":
        members += members[-2:]
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w", zipfile.ZIP_DEFLATED if odd == "deflated" else zipfile.ZIP_STORED) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, archive.compression)
    found = bytearray(into.getvalue())
    if odd == "overlapping":  # every entry of the directory points to the first member
        for match in re.finditer(b"PK\x01\x02", bytes(found)):
            found[match.start() + 42 : match.start() + 46] = bytes(4)
    return bytes(found)


def old(program: bytes, odd: str) -> bytes:
    """The older format, with the storages that the program names; its references to storages have one more item."""
    keys = [key for key in STORED if text(key) + text("cpu") in program] * (2 if odd == "twice" else 1)
    program = program.replace(b"tQ", b"NtQ")
    parts = [pickle.dumps(each, 2) for each in (torch_file.MAGIC, torch_file.PROTOCOL, {"little_endian": True})]
    behind = [struct.pack("<q", len(STORED[key])) + STORED[key] for key in keys]
    return b"".join([*parts, program, pickle.dumps(keys, 2), *behind])


ODD = st.sampled_from((*("",) * 9, "twice", "deflated", "overlapping"))
PROGRAM_FILES = st.builds(lambda form, program, odd: form(program, odd), st.sampled_from((zipped, old)), PROGRAMS, ODD)


CONTENTS = [path.read_bytes() for path in sorted(REAL.glob("*.pth"))]


@st.composite
def altered(draw: st.DrawFn, content: bytes) -> bytes:
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        at, length = draw(st.integers(0, len(found))), draw(st.integers(0, 12))
        change = draw(st.sampled_from(("flip", "flip", "flip", "put", "remove", "double", "cut")))
        if change == "flip" and at < len(found):
            found[at] ^= draw(st.integers(1, 255))
        elif change == "put":
            found[at:at] = draw(st.binary(max_size=12))
        elif change == "remove":
            del found[at : at + length]
        elif change == "double":
            found[at:at] = found[at : at + length]
        elif change == "cut" and draw(st.integers(0, 9)) == 0:
            del found[at:]
    return bytes(found)


@st.composite
def altered_files(draw: st.DrawFn) -> bytes:
    """A real file with altered bytes: anywhere, or in an archive in its pickle, with a matching checksum."""
    content = draw(st.sampled_from(CONTENTS))
    if not content.startswith(b"PK") or draw(st.booleans()):
        return draw(altered(content))
    into = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(into, "w") as after:
        for name in before.namelist():
            member = before.read(name)
            after.writestr(zipfile.ZipInfo(name), draw(altered(member)) if name.endswith("data.pkl") else member)
    return into.getvalue()


def lies_within(array: np.ndarray) -> bool:
    """Whether all of `array` lies in the memory of the bytes from which it was made."""
    root = array
    while getattr(root, "base", None) is not None:
        root = root.base
    root = np.frombuffer(root, np.uint8) if isinstance(root, bytes) else root
    low, high = np.lib.array_utils.byte_bounds(array)
    start, end = np.lib.array_utils.byte_bounds(root)
    return array.size == 0 or start <= low <= high <= end


def forget_peak() -> int:
    """Starts to measure memory, if the system can reset a process's peak (Linux); returns the bytes in use."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """The process's peak memory since `forget_peak`, in bytes."""
    with contextlib.suppress(OSError):
        return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def unchanged() -> bool:
    """Whether real files still read correctly."""
    expected = np.load(REAL / "expected.npz")
    found = [torch_file.read(REAL / name) for name in ("zip.pth", "old.pth")]
    same = all(np.array_equal(x[name].astype(expected[name].dtype), expected[name]) for x in found for name in expected)
    return same and np.dtype(ml_dtypes.bfloat16).itemsize == 2


@dataclass
class Check:
    """Reads each content given to it from a file at `path`, and counts what came of it."""

    path: Path
    outcomes: collections.Counter = field(default_factory=collections.Counter)
    arrays: int = 0
    grown: int = 0  # bytes
    longest: float = 0.0  # seconds

    def __call__(self, content: bytes) -> None:
        self.path.write_bytes(content)
        before, started = forget_peak(), time.process_time()
        try:
            found = torch_file.read(self.path)
        except UserError as error:
            message = str(error)
            assert len(message.splitlines()) == 1, message
            assert message.startswith(str(self.path)) and "too little memory" not in message, message
            self.outcomes[re.sub(r"[\d'\"].*", "", message.removeprefix(f"{self.path}: "))[:60]] += 1
        else:
            self.outcomes["read"] += 1
            self.arrays += len(found)
            for name, array in found.items():
                assert lies_within(array), name
                assert array.size == 0 or not array.flags.writeable, name
        seconds, more = time.process_time() - started, peak() - before
        assert seconds < SECONDS, f"{seconds:.1f} s of CPU time"
        assert more <= MEMORY + PER_BYTE * len(content), f"{more:,} bytes for a file of {len(content):,}"
        self.grown, self.longest = max(self.grown, more), max(self.longest, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None)
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="torch-file-fuzz-"))
    check = Check(folder / "file.pth")
    warnings.filterwarnings("ignore", message="Duplicate name")
    assert unchanged()
    resource.setrlimit(resource.RLIMIT_AS, (SPACE, SPACE))
    own = settings(
        max_examples=args.files // 2,
        deadline=None,
        database=None,
        verbosity=Verbosity.quiet,  # nobody reads a printed file
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    for files in (PROGRAM_FILES, altered_files()):
        seed(args.seed)(own(given(files)(lambda content: check(content))))()
    assert unchanged()
    for message, count in check.outcomes.most_common(12):
        print(f"  {count:6,}  {message}")
    total, read = check.outcomes.total(), check.outcomes["read"]
    print(
        f"{total:,} files: {read:,} read, with {check.arrays:,} arrays, {total - read:,} refused in one line; at most "
        f"{check.grown / 2**20:.1f} MiB more memory and {check.longest:.2f} s for one"
    )


if __name__ == "__main__":
    main()
