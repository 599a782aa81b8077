"""Draws the embedded images from Fashion-MNIST's training file, so that the embedded data can be reproduced.

    python data/embedded/draw.py train-images-idx3-ubyte.gz train-labels-idx1-ubyte.gz

Debian's package dataset-fashion-mnist and github.com/zalandoresearch/fashion-mnist carry these files. 800 training and
200 validation images of each class, chosen and shuffled by a seed; the dataset's test file is not touched.
"""

import gzip
import sys
from pathlib import Path

import numpy as np

SEED = 20170825
TRAIN, VAL = 800, 200  # images per class
FILE = Path(__file__).parent / "fashion_mnist_10k.npz"


def read_idx(path: str) -> np.ndarray:
    """An array of bytes in IDX format: magic 0, 0, 8, rank; the sizes as big-endian 32-bit; the bytes."""
    with gzip.open(path) as file:
        data = file.read()
    rank = data[3]
    shape = np.frombuffer(data, ">i4", rank, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def draw(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(SEED)
    per_class = [rng.permutation(np.flatnonzero(labels == label)) for label in range(10)]
    train = rng.permutation(np.concatenate([indices[:TRAIN] for indices in per_class]))
    val = rng.permutation(np.concatenate([indices[TRAIN : TRAIN + VAL] for indices in per_class]))
    return {
        "train_images": images[train],
        "train_labels": labels[train],
        "val_images": images[val],
        "val_labels": labels[val],
    }


if __name__ == "__main__":
    np.savez_compressed(FILE, **draw(read_idx(sys.argv[1]), read_idx(sys.argv[2])))
    print(f"{FILE}: {FILE.stat().st_size:,} bytes")
