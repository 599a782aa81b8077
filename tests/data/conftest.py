import corpus
import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def photo() -> np.ndarray:
    """Something with edges, gradients and noise, 151 x 203."""
    return corpus.photo()


@pytest.fixture
def corpus_folder(tmp_path):
    """(folder, {file: oddities}): every usable sort of image, in two classes of train."""
    images = corpus.usable()
    for index, (name, (encoded, _)) in enumerate(images.items()):
        (tmp_path / "train" / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / "ab"[index % 2] / name).write_bytes(encoded)
    return tmp_path, {name: odd for name, (_, odd) in images.items()}


@pytest.fixture
def folder(tmp_path):
    """Images of three classes, one in a script of its own: 6, 4 and 2 of train, 1 each of val."""
    rng = np.random.default_rng(0)
    for split, counts in (("train", (6, 4, 2)), ("val", (1, 1, 1))):
        for name, count in zip(("cat", "dog", "犬"), counts, strict=True):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (20, 30, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{index}.jpg")
    return tmp_path
