import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from morphism.errors import UserError
from morphism.weights import files

TORCH_FILE = Path(__file__).parent.parent / "goldens" / "torch_files" / "zip.pth"


def test_what_is_written_is_read_as_safetensors_itself_reads_it(tmp_path):
    tensors = {"a.weight": np.arange(6.0, dtype=np.float32).reshape(2, 3).T, "n": np.zeros((), np.int64)}
    path = tmp_path / "some.safetensors"
    files.write(path, tensors)
    found = files.read(path)
    assert found.keys() == tensors.keys()
    for name, expected in tensors.items():
        assert (found[name].dtype, found[name].shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(found[name], expected)
    with safe_open(path, "np") as opened:
        assert opened.metadata() == {"format": "pt"}
        assert opened.get_tensor("a.weight").tolist() == [[0, 3], [1, 4], [2, 5]]
    assert [file.name for file in tmp_path.iterdir()] == ["some.safetensors"]


def test_bfloat16_is_read(tmp_path):
    header = json.dumps({"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "half.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\x80\x3f\x00\xc0")
    (found,) = files.read(path).values()
    assert found.dtype == ml_dtypes.bfloat16 and found.tolist() == [1, -2]


def test_a_file_is_read_by_its_suffix(tmp_path):
    for suffix in (".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".th", ".PTH", ".Pt"):
        path = tmp_path / f"weights{suffix}"
        path.write_bytes(TORCH_FILE.read_bytes())
        assert "conv.weight" in files.read(path)


def test_a_wrappers_prefix_is_removed_and_reported(tmp_path):
    path, lines = tmp_path / "x.SAFETENSORS", []
    files.write(tmp_path / "x.safetensors", {f"_orig_mod.{name}": np.zeros(1) for name in "ab"})
    (tmp_path / "x.safetensors").rename(path)
    assert sorted(files.read(path, lines.append)) == ["a", "b"]
    assert lines == [f"{path}: all names begin with _orig_mod., which is removed"]


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E8M0"])
def test_eighths_without_their_scale_are_refused(tmp_path, dtype):
    header = {"w": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]}}
    header = json.dumps({"x": {"dtype": dtype, "shape": [2], "data_offsets": [0, 2]}, **header}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(6))
    with pytest.raises(UserError, match=f"x.safetensors: x is of type {dtype}, .* save the weights as F32, F16 or"):
        files.read(tmp_path / "x.safetensors")


def test_facts_are_kept_in_the_header(tmp_path):
    path = tmp_path / "x.safetensors"
    facts = {"classes": ["a", "\N{SNOWMAN}"], "data.image_size": 8, "augment.mean": [0.5, 0.25, 0.125]}
    files.write(path, {"a": np.zeros(1)}, facts)
    assert files.facts(path) == facts
    files.write(path, {"a": np.zeros(1)})
    assert files.facts(path) == {} and files.facts(TORCH_FILE) == {}


@pytest.mark.parametrize(("text", "message"), [("{", "its header is broken"), ("[1]", "is no JSON object")])
def test_a_broken_header_is_one_line(tmp_path, text, message):
    save_file({"a": np.zeros(1)}, tmp_path / "x.safetensors", metadata={files.FACTS: text})
    with pytest.raises(UserError, match=f"x.safetensors: .*{message}"):
        files.facts(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.pth", None, "none.pth: no such file of weights"),
        ("x.h5", b"", "x.h5: weights are read from .safetensors, torch's .pth .pt .bin .ckpt and darknet's .weights"),
        ("x.safetensors", b"\x08\0\0\0\0\0\0\0{}      "[:12], "x.safetensors: broken, or no safetensors"),
        ("y.safetensors", b"no safetensors at all", "y.safetensors: broken, or no safetensors"),
        ("z.pth", b"no pickle", "z.pth: broken, or no file of torch.save"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        files.read(tmp_path / name)


def test_what_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(UserError, match="x.pth: weights are written as .safetensors"):
        files.write(tmp_path / "x.pth", {})
    with pytest.raises(UserError, match=r"x.safetensors: cannot be written \(no folder .*none\); name another"):
        files.write(tmp_path / "none" / "x.safetensors", {"x": np.zeros(1)})
