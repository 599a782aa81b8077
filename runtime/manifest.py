"""The files in which a workdir describes its run.

config.json, classes.json, data.json and intensity.json state what its checkpoints were trained on; manifest.json
states with what they were trained. A workdir without checkpoints is free for any run: only they make it a run's own.
"""

import fcntl
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ml_collections import ConfigDict

from morphism.data.fingerprint import Fingerprint, changed, own_records
from morphism.data.intensity import with_fields
from morphism.data.records import Source
from morphism.errors import Busy, Unwritable, UserError
from morphism.experiments.base import completed
from morphism.runtime.paths import AnyPath, is_local, read_json, write_json
from morphism.runtime.resume import changes
from morphism.runtime.surroundings import surroundings
from morphism.tasks.task import Names, by_part


@contextmanager
def claimed(workdir: AnyPath) -> Iterator[None]:
    """Locks the workdir for this run. A store such as gs:// has no locks: there only the folder is made.

    Raises Busy if another process holds the lock, and Unwritable if the workdir cannot be written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / "lock").open("a+") if is_local(workdir) else None
    except OSError as error:
        raise Unwritable(
            f"{workdir}: cannot be written ({error.strerror or error}); choose another --workdir"
        ) from error
    if lock is None:
        yield
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released by the system however this process ends
        except OSError as error:
            lock.seek(0)
            raise Busy(
                f"{workdir}: {lock.read() or 'another process'} is training here; wait for it, stop it, or choose "
                "another --workdir"
            ) from error
        with suppress(OSError):  # on a full disk the lock stays nameless; writing the first file then fails clearly
            os.ftruncate(lock.fileno(), 0)
            os.write(lock.fileno(), f"process {os.getpid()} on {platform.node()}".encode())
        yield


def has_steps(workdir: AnyPath) -> bool:
    """Whether a run in `workdir` would continue from a checkpoint."""
    return any(path.name.isdigit() for path in (workdir / "checkpoints").glob("*"))


def claim_config(workdir: AnyPath, config: ConfigDict, source: Source) -> list[str]:
    """Writes `config` to config.json; returns a line for each field that differs from how the run began.

    Raises UserError naming the first field with which the run, trained on `source`, cannot continue.
    """
    notes = []
    if has_steps(workdir):
        try:
            notes = changes(read_config(workdir), config, source)
        except UserError as error:
            raise UserError(f"{workdir}: {error}") from error
        if not notes:
            return []
    write_json(workdir / "config.json", config.to_dict())
    return notes


def claim_classes(workdir: AnyPath, classes: Names) -> None:
    """Writes classes.json. Raises UserError if the run in `workdir` has other classes, or another order."""
    if not has_steps(workdir):
        write_json(workdir / "classes.json", classes)
        return
    before = read_classes(workdir)
    if before != with_tuples(classes):
        old, new = _listed(before), _listed(classes)
        differing = sorted(set(old) ^ set(new)) or new
        raise UserError(
            f"{workdir}: holds a run of {len(old)} classes, the data now has {len(new)}, different in "
            f"{', '.join(differing)[:200]}; choose another --workdir, or restore the data"
        )


def _listed(classes: Names) -> list[str]:
    """All names of classes, with that of their part in front where there are parts."""
    return [f"{part}/{name}" if part else name for part, names in by_part(classes).items() for name in names]


def claim_data(workdir: AnyPath, found: dict[str, Fingerprint], train_split: str) -> list[str]:
    """Writes `found`, the fingerprint of each split, to data.json; returns a line for each split that has changed.

    The data that a run is evaluated on may change between its starts: a broken image is replaced or removed.
    Raises UserError if the records of `train_split` have changed: its training could not be repeated with them.
    """
    notes = []
    if has_steps(workdir):
        for split, now in found.items():
            difference = data_changed(workdir, split, now, own=split == train_split)
            if difference and split == train_split:
                raise UserError(
                    f"{workdir}: holds a run on other data than there is now: {split}, {difference}; restore the data, "
                    f"or choose another --workdir, with --config.init_from={workdir} to start from what this run "
                    "has learned"
                )
            if difference:
                notes.append(
                    f"{split} has changed since the run was last started: {difference}; evaluations before and after "
                    "that cannot be compared"
                )
    write_json(workdir / "data.json", found)
    return notes


def data_changed(workdir: AnyPath, split: str, now: Fingerprint, own: bool = False) -> str:
    """How the data of `split` differs from that of the run's last start; "" if it does not, or if that is unknown.

    `own`: compares only the records of the split, not the whole from which it is cut.
    """
    path = workdir / "data.json"
    before = read_json(path, dict).get(split) if path.exists() else None
    if not before:
        return ""
    return changed(own_records(before), own_records(now)) if own else changed(before, now)


def read_config(workdir: AnyPath) -> ConfigDict:
    """The configuration of a run. Raises UserError if `workdir` holds none."""
    return completed(ConfigDict(with_tuples(read_json(workdir / "config.json", dict))))


def read_classes(workdir: AnyPath) -> Names:
    """The names of a run's classes, as tuples. Raises UserError if `workdir` holds none."""
    return with_tuples(read_json(workdir / "classes.json", list | dict))


def settled_config(workdir: AnyPath) -> ConfigDict:
    """The configuration of a run with the pixels and intensities that its training found, for preparing images."""
    return with_fields(read_config(workdir), read_intensity(workdir))


def read_intensity(workdir: AnyPath) -> dict[str, Any]:
    """config.data's "pixels" and "intensity" of a run; {} before they are found."""
    path = workdir / "intensity.json"
    return read_json(path, dict) if path.exists() else {}


def claim_intensity(workdir: AnyPath, settled: ConfigDict) -> None:
    """Writes intensity.json: config.data's "pixels" and "intensity" as training uses them."""
    data = settled.data
    write_json(workdir / "intensity.json", {"pixels": data.pixels, "intensity": list(data.intensity)})


def write_manifest(
    workdir: AnyPath, config: ConfigDict, command: Sequence[str], facts: dict[str, Any]
) -> dict[str, Any]:
    """Appends an entry for this start of the run: versions, code, devices, and `facts` about the model. Returns it.

    `command` is the command line; empty if Python code called the training.
    """
    path = workdir / "manifest.json"
    starts = read_json(path, list) if path.exists() else []
    start = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": list(command),
        "folder": os.getcwd(),
        **surroundings(),
        "seed": config.seed,
        "precision": config.precision,
        "deterministic": config.deterministic,
        **facts,
    }
    write_json(path, [*starts, start])
    return start


def read_starts(workdir: AnyPath) -> list[dict[str, Any]]:
    """The entries of manifest.json, one for each start of the run.

    Raises UserError if there is none, or if it is broken.
    """
    path = workdir / "manifest.json"
    starts = read_json(path, list)
    if not starts or not all(isinstance(each, dict) and isinstance(each.get("packages"), dict) for each in starts):
        raise UserError(f"{path}: not the manifest of a run; restore it, or train again in another --workdir")
    return starts


def with_tuples(value: Any) -> Any:
    """JSON's lists as the tuples that a configuration has."""
    if isinstance(value, dict):
        return {key: with_tuples(each) for key, each in value.items()}
    return tuple(map(with_tuples, value)) if isinstance(value, list) else value
