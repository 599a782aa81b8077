"""goldens/make_torch_files.py wrote the files with torch, and what torch holds them to be."""

import re
import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from errors import UserError
from weights.torch_file import read

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


@pytest.mark.parametrize("form", ["zip", "old"])
def test_altered_bytes_raise_user_errors_alone(form, tmp_path):
    whole = (FILES / f"{form}.pth").read_bytes()
    path = tmp_path / "altered.pth"
    rng = np.random.default_rng(0)
    refused = 0
    for position in rng.integers(0, len(whole), 300):
        altered = bytearray(whole)
        altered[position] ^= rng.integers(1, 256)
        path.write_bytes(altered)
        try:
            read(path)
        except UserError:
            refused += 1
    assert refused > 30


def test_broken_bytes_cannot_ask_for_memory(tmp_path):
    """The pickle names the 33,554,431st of its remembered objects, of which it has none."""
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
