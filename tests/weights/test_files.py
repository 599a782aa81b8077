import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from errors import UserError
from weights import files

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
    for suffix in (".pth", ".pt", ".bin", ".ckpt"):
        path = tmp_path / f"weights{suffix}"
        path.write_bytes(TORCH_FILE.read_bytes())
        assert "conv.weight" in files.read(path)


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
    with pytest.raises(UserError, match="x.safetensors: cannot be written"):
        files.write(tmp_path / "none" / "x.safetensors", {"x": np.zeros(1)})
