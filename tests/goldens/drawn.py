"""Weights drawn by their names: the same in torch and here, so that no weights need be stored."""

import zlib

import numpy as np


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The array of torch's name and layout, float32: of a size that keeps activations near 1 through any depth.

    Kernels are He's (gain 1 into a residual sum); norms scale and shift a little, the last of a block by less.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    kind = name.rsplit(".", 1)[-1]
    if kind == "running_var":
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if kind == "running_mean" or kind == "bias":
        return rng.uniform(-0.1, 0.1, shape).astype(np.float32)
    if kind == "weight" and len(shape) == 1:
        last_of_block = name.endswith(("bn3.weight", "bn2.weight"))
        return (rng.uniform(0.5, 1.5, shape) * (0.3 if last_of_block else 1)).astype(np.float32)
    fan_in = int(np.prod(shape[1:]))
    return rng.standard_normal(shape, np.float32) * np.float32((2 / fan_in) ** 0.5)


def picture(height: int, width: int, batch: int = 1) -> np.ndarray:
    """Normalised images [B,H,W,3], smooth as photographs are, with a little noise."""
    rng = np.random.default_rng(height * 10_000 + width)
    y, x = np.meshgrid(np.linspace(0, 3, height), np.linspace(0, 4, width), indexing="ij")
    phase = rng.uniform(0, 6, (batch, 1, 1, 3))
    smooth = np.sin(y[None, :, :, None] * 2 + phase) + np.cos(x[None, :, :, None] * 3 - phase)
    return (smooth + 0.1 * rng.standard_normal((batch, height, width, 3))).astype(np.float32)


def sample(x: np.ndarray, count: int) -> np.ndarray:
    """`count` of an array's values (all, of a small one), evenly spread in its order."""
    flat = np.asarray(x).reshape(-1)
    return flat[np.linspace(0, len(flat) - 1, min(count, len(flat))).astype(int)]
