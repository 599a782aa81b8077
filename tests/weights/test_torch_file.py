"""goldens/make_torch_files.py wrote the files with torch, and what torch holds them to be."""

import os
import pickle
import re
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from morphism.errors import UserError
from morphism.weights import torch_file
from morphism.weights.torch_file import read

ROOT = Path(__file__).parent.parent.parent
FILES = Path(__file__).parent.parent / "goldens" / "torch_files"
EXPECTED = dict(np.load(FILES / "expected.npz"))


@pytest.mark.parametrize("form", ["zip", "old"])
def test_every_dtype_and_layout_is_as_in_torch(form):
    found = read(FILES / f"{form}.pth")
    assert list(found) == list(EXPECTED)
    for name, expected in EXPECTED.items():
        assert found[name].dtype == (ml_dtypes.bfloat16 if name == "bfloat16" else expected.dtype)
        np.testing.assert_array_equal(found[name].astype(expected.dtype), expected, err_msg=name)
    assert found["bn.num_batches_tracked"] == 1


@pytest.mark.parametrize("form", ["zip", "old"])
def test_views_of_one_storage_share_it(form):
    found = read(FILES / f"{form}.pth")
    for name in ("transposed", "slice", "expanded", "conv.weight"):
        assert np.shares_memory(found[name], found["whole"]), name
    assert not np.shares_memory(found["channels_last"], found["whole"])


def test_dtypes_without_a_storage_class_are_read():
    found = read(FILES / "untyped.pth")
    assert found["uint16"].dtype == np.uint16 and found["uint16"].tolist() == [0, 1, 2, 3, 4]
    assert found["float8"].astype(np.float32).tolist() == [0, 1, 2, 3, 4]


def test_a_checkpoint_gives_its_state_dict_without_module():
    found = read(FILES / "checkpoint.pth")
    assert {name: x.shape for name, x in found.items()} == {"weight": (3, 2), "bias": (3,)}


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("program_zip.pth", "(posix|nt).system"),
        ("program_old.pth", "(posix|nt).system"),
        ("module.pth", "torch.nn.modules.linear.Linear"),
        ("script.pth", "__torch__.torch.nn.modules.linear.Linear"),
    ],
)
def test_what_is_no_tensor_is_named_and_not_run(file, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"{file}: holds {name}, which is no tensor"):
        read(FILES / file)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["zip", "old"])
def test_a_file_cut_anywhere_is_one_line(form, tmp_path):
    whole = (FILES / f"{form}.pth").read_bytes()
    path = tmp_path / "cut.pth"
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(
            UserError, match=rf"^{re.escape(str(path))}: broken, or no file of torch.save \(.+\); fetch"
        ):
            read(path)


def test_broken_bytes_cannot_ask_for_memory(tmp_path):
    """The pickle names the 33,554,431st remembered object, and there is none."""
    (tmp_path / "greedy.pth").write_bytes(b"\x80\x02Nr\xff\xff\xff\x01.")
    tracemalloc.start()
    with pytest.raises(UserError, match="another magic number"):
        read(tmp_path / "greedy.pth")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


def test_an_altered_storage_in_an_archive_is_noticed(tmp_path):
    altered = bytearray((FILES / "zip.pth").read_bytes())
    where = altered.find(EXPECTED["whole"].tobytes())
    altered[where + 5] ^= 1
    (tmp_path / "altered.pth").write_bytes(altered)
    with pytest.raises(UserError, match="Bad CRC-32"):
        read(tmp_path / "altered.pth")


@pytest.mark.parametrize("form", ["zip", "old"])
def test_settings_are_passed_over_and_averaged_weights_come_first(form):
    lines = []
    found = read(FILES / f"settings_{form}.pth", lines.append)
    assert set(found) == {"0.weight", "0.bias", *(f"1.{name}" for name in NORM)}
    assert found["0.weight"].ravel().tolist() == [2, 2]  # which the averaged weights were set to
    assert [line.partition(".pth: ")[2] for line in lines] == [
        "the averaged weights in model_ema are used, not model",
        "all names begin with module., which is removed",
    ]


NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


# Files of opcodes, over a storage of 16 float32.


def text(value):
    return pickle.BINUNICODE + len(value).to_bytes(4, "little") + value.encode()


def number(value):
    return pickle.dumps(value, 2)[2:-1]


def numbers(*values):
    return b"(" + b"".join(x if isinstance(x, bytes) else number(x) for x in values) + b"t"


def called(name, *arguments):
    return b"c" + name.replace("/", "\n").encode() + b"\n" + numbers(*arguments) + b"R"


def storage(kind="FloatStorage", key=None, count=16, word="storage"):
    return numbers(text(word), f"ctorch\n{kind}\n".encode(), key or text("0"), text("cpu"), count) + b"Q"


def tensor(source=None, offset=0, shape=(4, 4), strides=(4, 1), name="_rebuild_tensor_v2"):
    sides = [x if isinstance(x, bytes) else numbers(*x) for x in (shape, strides)]
    return called(f"torch._utils/{name}", source or storage(), offset, *sides, False, called("collections/OrderedDict"))


def write(path, program, compression=zipfile.ZIP_STORED):
    """`program` leaves on the stack what the file holds next to a tensor."""
    content = {
        "data.pkl": b"\x80\x02}" + text("weight") + program + b"s.",
        "data/0": np.arange(16, dtype="<f4").tobytes(),
    }
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(f"a/{name}", data)


def test_the_files_of_opcodes_that_follow_are_sound_but_for_what_they_try(tmp_path):
    write(tmp_path / "x.pth", tensor(offset=1, shape=(3, 4)))
    np.testing.assert_array_equal(read(tmp_path / "x.pth")["weight"], np.arange(1, 13, dtype=np.float32).reshape(3, 4))


@pytest.mark.parametrize(
    ("program", "message"),
    {
        "a view as a storage": (tensor(tensor(shape=(4,), strides=(0,))), "a tensor without a storage"),
        "beyond the storage": (tensor(offset=1), "beyond its storage"),
        "beyond by strides": (tensor(shape=(4,), strides=(2**40,)), "beyond its storage"),
        "negative offset": (tensor(offset=-1), "impossible shape"),
        "negative stride": (tensor(strides=(-4, 1)), "impossible shape"),
        "sizes that wrap around": (tensor(shape=(2**63, 2), strides=(0, 1)), "impossible shape"),
        "truth as a size": (tensor(shape=(True, 4)), "impossible shape"),
        "tensors as sizes": (tensor(shape=numbers(tensor(shape=(), strides=()), 4)), "impossible shape"),
        "a tensor as a shape": (tensor(shape=tensor()), "without a shape"),
        "a fraction as an offset": (tensor(offset=0.0), "impossible shape"),
        "more strides than sizes": (tensor(strides=(4, 1, 1)), "without a shape"),
        "too many axes": (tensor(shape=(1,) * 65, strides=(1,) * 65), "without a shape"),
        "a terabyte of one value": (tensor(shape=(2**38,), strides=(0,)), "much larger than their storages"),
        "a terabyte of windows": (tensor(shape=(8,) * 12, strides=(0,) * 11 + (1,)), "much larger than their storages"),
        "a dtype as a parameter": (called("torch._utils/_rebuild_parameter", b"ctorch\nbfloat16\n"), "no tensor"),
        "attributes of a dtype": (b"ctorch\nbfloat16\n" + numbers(1) + b"b", "sets attributes of a Dtype"),
        "attributes of a function": (b"ctorch._utils\n_rebuild_tensor_v2\n}b", "sets attributes of a Maker"),
        "attributes of a tensor": (tensor() + b"}b", "sets attributes of a Tensor"),
        "pairs into a tensor": (tensor() + number(0) * 2 + b"s", "puts pairs into a Tensor"),
        "items into a tensor": (tensor() + number(0) + b"a", "appends to a Tensor"),
        "a tensor called": (tensor() + b")R", "calls a Tensor"),
        "a dtype called": (b"ctorch\nbfloat16\n)R", "calls a Dtype"),
        "too few arguments": (called("torch._utils/_rebuild_tensor_v2", storage()), "missing .*required"),
        "another reference": (tensor(storage(word="module")), "what is no storage"),
        "a reference that is no tuple": (tensor(text("0") + b"Q"), "what is no storage"),
        "a key that is no text": (tensor(storage(key=number(0))), "a storage that is none"),
        "a count that is not a number": (tensor(storage(count=True)), "a storage that is none"),
        "a function as a dtype": (tensor(storage(kind="Size")), "a storage that is none"),
        "another count": (tensor(storage(count=15)), "a storage of 64 bytes, where 15 values of float32 should be"),
        "no such member": (tensor(storage(key=text("../data.pkl"))), "no member 'a/data/../data.pkl'"),
        "a long number": (b"\x8b" + (2000).to_bytes(4, "little") + bytes(2000), "a number of 2000 bytes"),
        "a text longer than the file": (b"X\xff\xff\xff\x7f", "much more memory than the file"),
        "nothing on the stack": (b"0" * 9, "takes from an empty stack"),
        "an unknown opcode": (b"P1\n", "an opcode b'P'"),
        "20,000 dicts": (b"}" * 20_000 + b"\x91", "much more memory than the file"),
        "a dict of many, many times": (
            b"(" + b"NN\x86" * 999 + b"l\x85q\x00" + b"ccollections\nOrderedDict\nq\x01" + b"h\x01h\x00R" * 999,
            "much more memory than the file",
        ),
    }.values(),
)
def test_a_program_that_asks_for_more_than_its_due_is_one_line(tmp_path, monkeypatch, program, message):
    monkeypatch.setattr(torch_file, "BUDGET", 1 << 20)  # less, so that it takes less to exceed it
    write(tmp_path / "x.pth", program)
    with pytest.raises(UserError, match=f"x.pth: broken, or no file of torch.save .*{message}") as caught:
        read(tmp_path / "x.pth")
    assert len(str(caught.value).splitlines()) == 1
    assert np.dtype(ml_dtypes.bfloat16).itemsize == 2


@pytest.mark.parametrize("name", ["builtins/eval", "os/system", "weights.torch_file/read", "numpy/frombuffer"])
def test_names_are_refused_even_where_nothing_calls_them(tmp_path, name):
    write(tmp_path / "x.pth", b"c" + name.replace("/", "\n").encode() + b"\n")
    with pytest.raises(UserError, match=f"x.pth: holds {name.replace('/', '.')}, which is no tensor"):
        read(tmp_path / "x.pth")
    write(tmp_path / "x.pth", called("builtins/getattr", text("x"), text("y")))
    with pytest.raises(UserError, match="x.pth: holds builtins.getattr, which is no tensor"):
        read(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("bit", "kind", "count", "expected"),
    [
        ("neg", "FloatStorage", 16, -np.arange(4, dtype=np.float32)),
        ("conj", "ComplexFloatStorage", 8, np.arange(0, 8, 2) - 1j * np.arange(1, 8, 2)),
    ],
)
def test_what_torch_has_yet_to_do_to_stored_values_is_done(tmp_path, bit, kind, count, expected):
    def lazy(value):
        hooks, metadata = called("collections/OrderedDict"), b"}" + text(bit) + value + b"s"
        source = storage(kind, count=count)
        return called("torch._utils/_rebuild_tensor_v2", source, 0, numbers(4), numbers(1), False, hooks, metadata)

    write(tmp_path / "lazy.pth", lazy(b"\x88"))
    write(tmp_path / "plain.pth", lazy(b"\x89"))
    np.testing.assert_array_equal(read(tmp_path / "lazy.pth")["weight"], expected)
    plain = read(tmp_path / "plain.pth")["weight"]
    np.testing.assert_array_equal(plain, -expected if bit == "neg" else expected.conj())


def test_what_doubles_with_each_level_takes_no_time(tmp_path):
    """Tuples, lists, sets and dicts of twice the last, and dicts that hold themselves, as keys and as values."""
    pair = text("model") + b"h\x00s" + text("net") + b"h\x00s"
    doubled = {
        "tuple": b")" + b"2\x86" * 500,
        "list": b"]" + b"q\x000(h\x00h\x00l" * 500,
        "set": b")" + b"q\x000(h\x00h\x00\x91" * 500,
        "dict": b"}" + (b"q\x000}" + pair) * 500,
        "itself": b"}q\x00" + pair,
    }
    started = time.process_time()
    for name, program in doubled.items():
        for each in (text("key") + program, program + b"N"):
            write(tmp_path / "x.pth", tensor() + b"s" + each + b"s" + text("last") + b"N")
            assert list(read(tmp_path / "x.pth")) == ["weight"], name
    assert time.process_time() - started < 10


def test_expanded_and_shared_tensors_of_moderate_size_are_read(tmp_path):
    write(tmp_path / "x.pth", tensor(shape=(1000, 1000), strides=(0, 0)))
    found = read(tmp_path / "x.pth")["weight"]
    assert found.shape == (1000, 1000) and found.strides == (0, 0) and not found.flags.writeable


def test_members_are_stored_once_and_whole(tmp_path):
    path = tmp_path / "x.pth"
    write(path, tensor(), zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="member 'a/data.pkl' is compressed"):
        read(path)
    write(path, tensor())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a/data/0", bytes(64))
    with pytest.raises(UserError, match="two members 'a/data/0'"):
        read(path)

    def altered(at, value):
        """The file, with one number of the directory's last entry changed."""
        write(path, tensor())
        content = bytearray(path.read_bytes())
        entry = content.rindex(b"PK\x01\x02")
        content[entry + at : entry + at + len(value)] = value
        path.write_bytes(content)

    for at, value, message in (
        (8, b"\x01\x00", "is encrypted"),
        (42, bytes(4), "two members|beyond its own bytes"),  # where it begins: at the first
        (24, b"\xff\xff\xff\x7f", "is compressed"),  # its size
        (20, b"\xff\xff\xff\x7f\xff\xff\xff\x7f", "beyond its own bytes"),
        (16, bytes(4), "Bad CRC-32"),
    ):
        altered(at, value)
        with pytest.raises(UserError, match=message):
            read(path)


@pytest.mark.parametrize(
    ("content", "meaning"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a pointer of Git LFS"),
        (b"<!DOCTYPE html><html>Quota exceeded</html>", "a web page"),
        (b"\x1f\x8b\x08" + bytes(99), "compressed with gzip"),
        (bytes(257) + b"ustar\x0000" + bytes(99), "a tar archive"),
    ],
)
def test_what_is_met_under_torchs_suffixes_is_called_by_its_name(tmp_path, content, meaning):
    (tmp_path / "x.pth.tar").write_bytes(content)
    with pytest.raises(UserError, match=f"x.pth.tar: is {meaning}"):
        read(tmp_path / "x.pth.tar")


def test_a_storages_bytes_are_read_only_where_the_state_dict_holds_it(tmp_path):
    """So the optimiser's moments take no memory."""
    path = tmp_path / "x.pth"
    write(path, tensor() + b"s" + text("optimizer") + b"}" + text("moment") + tensor(storage(key=text("1"))) + b"s")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a/data/1", bytes(64))
    content = path.read_bytes()
    path.write_bytes(content.replace(bytes(64), bytes(63) + b"x"))  # its checksum is wrong
    assert list(read(path)) == ["weight"]


def test_files_made_to_break_the_reader_do_not(tmp_path):
    """In a process of its own, where the reader may crash: programs of opcodes, and files with altered bytes."""
    command = [sys.executable, "benchmarks/torch_file_fuzz.py", "--files=400", f"--folder={tmp_path}"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={"PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr[-3000:]}"
    assert re.search(r"400 files: [1-9]\d+ read, with [\d,]+ arrays, [\d,]+ refused in one line", done.stdout), (
        done.stdout
    )


def test_big_endian_files_are_refused(tmp_path):
    with (
        zipfile.ZipFile(FILES / "zip.pth") as little,
        zipfile.ZipFile(tmp_path / "big.pth", "w") as big,
    ):
        for name in little.namelist():
            big.writestr(name, b"big" if name.endswith("byteorder") else little.read(name))
    with pytest.raises(UserError, match="big.pth: written on a big-endian machine"):
        read(tmp_path / "big.pth")
    old = (FILES / "old.pth").read_bytes()
    flag = old.index(b"little_endian") + len(b"little_endian")
    position = old.index(b"\x88", flag)  # pickle's opcode for True
    (tmp_path / "old.pth").write_bytes(old[:position] + b"\x89" + old[position + 1 :])
    with pytest.raises(UserError, match="old.pth: written on a big-endian machine"):
        read(tmp_path / "old.pth")


def test_a_file_without_tensors_says_what_it_holds():
    with pytest.raises(UserError, match="no_tensors.pth: no state dict in it, but epoch, name"):
        read(FILES / "no_tensors.pth")
