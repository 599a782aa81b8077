"""A fingerprint of a model's variables, to compare runs to the bit."""

import hashlib
from typing import Any

import jax
import numpy as np


def digest(state: dict[str, Any]) -> str:
    """SHA-256 over path, type, shape and bytes of every array of a state's `params` and `batch_stats`, by path."""
    sha = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path({key: state[key] for key in ("params", "batch_stats")})
    named = {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}
    for name, array in sorted(named.items()):
        sha.update(f"{name} {array.dtype} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()
