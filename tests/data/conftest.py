import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def photo() -> np.ndarray:
    """Something with edges, gradients and noise, 151 x 203."""
    y, x = np.mgrid[:151, :203]
    rng = np.random.default_rng(0)
    waves = 127 + 90 * np.stack([np.sin(x / 9), np.cos(y / 7 + x / 31), np.sin((x + y) / 13)], axis=-1)
    pixels = waves + rng.normal(0, 6, waves.shape) + 60 * ((x // 20 + y // 25) % 2)[..., None]
    return np.clip(pixels, 0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Pictures of three classes, one in a script of its own: 6, 4 and 2 of train, 1 each of val."""
    rng = np.random.default_rng(0)
    for split, counts in (("train", (6, 4, 2)), ("val", (1, 1, 1))):
        for name, count in zip(("cat", "dog", "犬"), counts, strict=True):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (20, 30, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{index}.jpg")
    return tmp_path
