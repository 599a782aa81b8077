"""Files of tensors with torch's names: reads .safetensors, torch's and darknet's files; writes .safetensors."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  with it, numpy and so safetensors know bfloat16
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from morphism.errors import UserError
from morphism.weights import darknet, state_dict, torch_file

TORCH = (".pth", ".pt", ".bin", ".ckpt")
TORCH_TOO = (".th", ".pth.tar", ".pt.tar")  # the same format; these are no tar archives
FACTS = "morphism"  # key of the JSON in a .safetensors header that describes the model


def read(path: Path, say: Callable[[str], None] = lambda line: None) -> dict[str, np.ndarray]:
    """Torch's name -> array in torch's layout; `say` gets a line for each decision that the user should know.

    Suffixes may be in upper case. Raises UserError if the file is missing, broken or of another kind.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file of weights")
    name = path.name.lower()
    if name.endswith(TORCH + TORCH_TOO):
        return torch_file.read(path, say)
    if name.endswith(darknet.SUFFIXES):
        return darknet.read(path)
    if not name.endswith(".safetensors"):
        raise UserError(f"{path}: weights are read from .safetensors, torch's {' '.join(TORCH)} and darknet's .weights")
    return state_dict.unwrap(_read_safetensors(path), lambda note: say(f"{path}: {note}"))


def facts(path: Path) -> dict[str, Any]:
    """What the header of a .safetensors file states about its model (weights/opening.py); {} for other files.

    Raises UserError if the header is broken.
    """
    if not path.name.lower().endswith(".safetensors"):
        return {}
    try:
        with safe_open(path, "np") as opened:
            text = (opened.metadata() or {}).get(FACTS, "{}")
        found = json.loads(text)
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: its header is broken ({error}); write it again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: {FACTS!r} in its header is no JSON object; write it again")
    return found


def write(path: Path, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any] | None = None) -> None:
    """Writes .safetensors atomically, with `facts` as JSON in its header. Raises UserError if the disk refuses."""
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: weights are written as .safetensors; name the file so")
    temporary = path.with_name(path.name + ".tmp")
    header = {"format": "pt"} | ({FACTS: json.dumps(facts, allow_nan=False)} if facts else {})
    try:
        save_file({name: np.asarray(x, order="C") for name, x in tensors.items()}, temporary, metadata=header)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).removeprefix("Error while serializing: ")
        reason = reason if path.parent.is_dir() else f"no folder {path.parent}"
        raise UserError(f"{path}: cannot be written ({reason}); name another file") from error


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, "np") as opened:
            dtypes = {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
        eighths = [name for name, dtype in dtypes.items() if dtype.startswith(("F8_", "F6_", "F4"))]
        if eighths:
            raise UserError(
                f"{path}: {eighths[0]} is of type {dtypes[eighths[0]]}, whose scale is not in the array; save the "
                "weights as F32, F16 or BF16"
            )
        return load_file(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path}: broken, or no safetensors ({error}); fetch it again") from error
