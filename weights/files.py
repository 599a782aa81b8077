"""Files of tensors under torch's names: .safetensors read and written, torch's own and darknet's read."""

import hashlib
from pathlib import Path

import ml_dtypes  # noqa: F401  with it, numpy and so safetensors know bfloat16
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from errors import UserError
from weights import darknet, torch_file

TORCH = (".pth", ".pt", ".bin", ".ckpt")


def read(path: Path) -> dict[str, np.ndarray]:
    """Torch's name -> array in torch's layout. Raises UserError where `path` is missing, broken, or of another kind."""
    if not path.is_file():
        raise UserError(f"{path}: no such file of weights")
    if path.suffix in TORCH:
        return torch_file.read(path)
    if path.suffix in darknet.SUFFIXES:
        return darknet.read(path)
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: weights are read from .safetensors, torch's {' '.join(TORCH)} and darknet's .weights")
    try:
        return load_file(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path}: broken, or no safetensors ({error}); fetch it again") from error


def write(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes .safetensors, whole or not at all. Raises UserError where the disk refuses."""
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: weights are written as .safetensors; name the file so")
    temporary = path.with_name(path.name + ".tmp")
    try:
        save_file({name: np.asarray(x, order="C") for name, x in tensors.items()}, temporary, metadata={"format": "pt"})
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from error


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
