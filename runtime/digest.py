"""Arrays by their paths, and a fingerprint of a model's variables, to compare runs to the bit."""

import hashlib
from typing import Any

import jax
import numpy as np


def by_path(tree: Any) -> dict[str, Any]:
    """Path joined with dots -> leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def digest(state: dict[str, Any]) -> str:
    """SHA-256 over path, type, shape and bytes of every array in a state's `params` and `batch_stats`, by path."""
    sha = hashlib.sha256()
    for name, leaf in sorted(by_path({key: state[key] for key in ("params", "batch_stats")}).items()):
        array = np.asarray(leaf)
        sha.update(f"{name} {array.dtype} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()
