"""Checks that a checkpoint's files exist and are complete, before Orbax reads them: it would fail with many traces."""

import json

import tensorstore

from morphism.errors import UserError
from morphism.runtime.paths import AnyPath

METRICS = "metrics/metrics"  # where Orbax keeps a step's metrics


def check_steps(checkpoints: AnyPath) -> None:
    """Checks the small files that describe each step. Raises UserError naming the first that is broken.

    What a save that was killed has left, STEP.orbax-checkpoint-tmp, is no step: Orbax removes it before the next save.
    """
    steps = sorted(path for path in checkpoints.glob("*") if path.name.isdigit())
    for file in (step / name for name in ("_CHECKPOINT_METADATA", METRICS) for step in steps):
        if file.exists():
            _check_json(file, file.relative_to(checkpoints).parts[0])


def check_whole(step: AnyPath) -> None:
    """Reads all arrays of a step once. Raises UserError naming the first that is missing or cut off."""
    arrays = step / "default"
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


def _check_json(file: AnyPath, step: str) -> None:
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise _broken(file, step, error.strerror) from error
    except ValueError as error:
        raise _broken(file, step, str(error)) from error


def _broken(path: AnyPath, step: str, reason: str) -> UserError:
    folder = next(parent for parent in path.parents if parent.name == step)
    earlier = [each for each in folder.parent.glob("*") if each.name.isdigit() and int(each.name) < int(step)]
    then = "the checkpoint before it counts" if earlier else "there is none before it: the run starts from step 0"
    return UserError(f"{path}: the checkpoint is broken ({reason}); remove the folder {folder}, and {then}")
