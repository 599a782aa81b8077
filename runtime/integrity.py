"""Checks that a checkpoint's files are as they were written, before Orbax reads them.

It would fail with many traces, or load arrays in which a bit has flipped: its compressed chunks have no checksums. So
each checkpoint on a local disk gets those of its files.
"""

import json
import zlib
from typing import Any

import tensorstore

from morphism.errors import UserError
from morphism.runtime.paths import AnyPath, write_json

METRICS = "metrics/metrics"  # where Orbax keeps a step's metrics
ARRAYS = "default"  # and its arrays
CHECKSUMS = "checksums.json"  # path below ARRAYS -> CRC-32
CHUNK = 1 << 24  # bytes that are read at once


def check_steps(checkpoints: AnyPath) -> None:
    """Checks the small files that describe each step. Raises UserError naming the first that is broken.

    What a save that was killed has left, STEP.orbax-checkpoint-tmp, is no step: Orbax removes it before the next save.
    """
    steps = sorted(path for path in checkpoints.glob("*") if path.name.isdigit())
    for file in (step / name for name in ("_CHECKPOINT_METADATA", METRICS) for step in steps):
        if file.exists():
            _check_json(file, file.relative_to(checkpoints).parts[0])


def write_checksums(step: AnyPath) -> None:
    """Writes those of all files of arrays in the folder of a step."""
    arrays = step / ARRAYS
    files = sorted(path for path in arrays.rglob("*") if path.is_file())
    write_json(step / CHECKSUMS, {str(file.relative_to(arrays)): _checksum(file) for file in files})


def check_whole(step: AnyPath) -> None:
    """Reads all files of a step's arrays once. Raises UserError naming the first that is not as it was written.

    Without checksums, which older checkpoints and those in a bucket lack, it must at least be complete.
    """
    arrays, listed = step / ARRAYS, step / CHECKSUMS
    if listed.exists():
        checksums = _check_json(listed, step.name)
        if not isinstance(checksums, dict):
            raise _broken(listed, step.name, "no checksums")
        for name, checksum in checksums.items():
            if not (arrays / name).is_file():
                raise _broken(arrays / name, step.name, "missing")
            if _checksum(arrays / name) != checksum:
                raise _broken(arrays / name, step.name, "changed since it was written")
        return
    for file in (arrays / "_METADATA", *arrays.glob("_sharding"), *arrays.glob("array_metadatas/*")):
        _check_json(file, step.name)
    name = b""
    try:
        base = f"file://{arrays}/" if "://" not in str(arrays) else f"{arrays}/"
        store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
        names = store.list().result()
        for name in names:
            if not store.read(name).result().value:
                raise ValueError("no data")
    except ValueError as error:
        reason = str(error).split(" [tensorstore_spec")[0].split(" [source locations")[0]
        raise _broken(arrays / name.decode(), step.name, reason) from error
    if not names:
        raise _broken(arrays / "manifest.ocdbt", step.name, "it names no arrays")


def _checksum(file: AnyPath) -> int:
    found = 0
    with file.open("rb") as opened:
        while chunk := opened.read(CHUNK):
            found = zlib.crc32(chunk, found)
    return found


def _check_json(file: AnyPath, step: str) -> Any:
    """What the file holds. Raises UserError if it cannot be read."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise _broken(file, step, error.strerror) from error
    except ValueError as error:
        raise _broken(file, step, str(error)) from error


def _broken(path: AnyPath, step: str, reason: str) -> UserError:
    folder = next(parent for parent in path.parents if parent.name == step)
    earlier = [each for each in folder.parent.glob("*") if each.name.isdigit() and int(each.name) < int(step)]
    then = "the checkpoint before it counts" if earlier else "there is none before it: training starts from step 0"
    return UserError(f"{path}: the checkpoint is broken ({reason}); remove the folder {folder}, and {then}")
