import struct

import numpy as np
import pytest

from morphism.errors import UserError
from morphism.models.yolov3 import backbone, convolutions
from morphism.weights import darknet, files


def drawn(layers):
    rng = np.random.default_rng(0)
    pool = rng.random(10_000_000, np.float32)
    return {
        name: pool[index : index + np.prod(shape)].reshape(shape)
        for index, (name, shape) in enumerate(each for layer in layers for each in darknet._arrays(layer))
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("darknet") / "yolov3.weights"
    tensors = drawn(convolutions(2))
    darknet.write(path, tensors, seen=12345)
    yield path, tensors
    path.unlink()


def test_what_is_written_is_read_again(written):
    path, tensors = written
    found = files.read(path)
    assert found.keys() == tensors.keys()
    for name, value in found.items():
        np.testing.assert_array_equal(value, tensors[name])


def test_the_file_begins_with_its_header_and_the_first_layer(written):
    path, tensors = written
    with path.open("rb") as file:
        assert struct.unpack("<iiiq", file.read(20)) == (0, 2, 0, 12345)
        for part in ("bn.bias", "bn.weight", "bn.running_mean", "bn.running_var", "conv.weight"):
            expected = tensors[f"layers.0.{part}"].ravel()
            np.testing.assert_array_equal(np.frombuffer(file.read(4 * expected.size), "<f4"), expected)


def test_the_authors_files_have_the_length_that_is_read():
    """248,007,048 bytes are yolov3.weights, 162,482,580 darknet53.conv.74."""
    assert 20 + 4 * darknet._count(convolutions(80)) == 248_007_048
    assert 20 + 4 * darknet._count(backbone()) == 162_482_580


def test_a_backbone_alone_is_read_and_so_is_a_header_of_16_bytes(tmp_path):
    path = tmp_path / "darknet53.conv.74"
    tensors = drawn(backbone())
    darknet.write(path, tensors)
    content = path.read_bytes()
    path.write_bytes(struct.pack("<iiii", 0, 1, 0, 7) + content[20:])
    found = files.read(path)
    assert found.keys() == tensors.keys()
    np.testing.assert_array_equal(found["layers.73.conv.weight"], tensors["layers.73.conv.weight"])
    path.unlink()


@pytest.mark.parametrize("change", [-4, -1, 4, -400_000, 1_000_000])
def test_a_file_cut_off_or_too_long_is_refused(written, tmp_path, change):
    path = tmp_path / "odd.weights"
    with written[0].open("rb") as whole, path.open("wb") as odd:
        odd.write(whole.read(1_000_000))
        odd.truncate(written[0].stat().st_size + change)  # a hole, which reads as zeros
    with pytest.raises(UserError, match=r"odd.weights: \d+ bytes of weights; YOLOv3 of K classes has") as caught:
        files.read(path)
    assert len(str(caught.value).splitlines()) == 1
    path.unlink()


def test_less_than_a_header_is_refused(tmp_path):
    path = tmp_path / "short.weights"
    path.write_bytes(b"1234")
    with pytest.raises(UserError, match="4 bytes, less than darknet's header"):
        files.read(path)


def test_an_array_that_does_not_fit_is_named(tmp_path):
    tensors = drawn(backbone())
    del tensors["layers.5.bn.weight"]
    with pytest.raises(UserError, match="layers.5.bn.weight is missing, where YOLOv3 has"):
        darknet.write(tmp_path / "x.weights", tensors)
