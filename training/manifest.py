"""What a workdir says of its run: config.json, classes.json, data.json and intensity.json, which must never change, and
manifest.json, what it ran with.
"""

import fcntl
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from data.fingerprint import Fingerprint, changed
from data.intensity import with_fields
from errors import UserError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tensorflow-datasets")


@contextmanager
def claimed(workdir: Path, config: ConfigDict) -> Iterator[None]:
    """Holds the workdir for this run alone, and sees to it that config.json says `config`, now and ever.

    Raises UserError where another process holds it, where it cannot be written, or naming the first field that differs.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / "lock").open("a+")
    except OSError as error:
        raise UserError(f"{workdir}: cannot be written ({error.strerror}); choose another --workdir") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released by the system however this process ends
        except OSError as error:
            lock.seek(0)
            raise UserError(
                f"{workdir}: {lock.read() or 'another process'} is training here; wait for it, stop it, or choose "
                "another --workdir"
            ) from error
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {platform.node()}")
        lock.flush()
        _check_config(workdir, config)
        yield


def _check_config(workdir: Path, config: ConfigDict) -> None:
    path = workdir / "config.json"
    if path.exists():
        before, now = _flat(read_config(workdir)), _flat(config)
        for field in sorted(before.keys() | now.keys()):
            if before.get(field) != now.get(field):
                raise UserError(
                    f"{workdir}: holds a run with config.{field}={before.get(field)!r}, now it is "
                    f"{now.get(field)!r}; choose another --workdir, or give the same config to resume"
                )
        return
    write_json(path, config.to_dict())


def claim_classes(workdir: Path, classes: Sequence[str]) -> None:
    """Writes classes.json, or makes sure that the one that is there names the same classes in the same order."""
    if not (workdir / "classes.json").exists():
        write_json(workdir / "classes.json", list(classes))
        return
    before = read_classes(workdir)
    if before != tuple(classes):
        changed = sorted(set(before) ^ set(classes)) or classes
        raise UserError(
            f"{workdir}: holds a run of {len(before)} classes, the data now has {len(classes)}, different in "
            f"{', '.join(changed)[:200]}; choose another --workdir, or restore the data"
        )


def claim_data(workdir: Path, found: dict[str, Fingerprint]) -> None:
    """Writes data.json, the fingerprint of each split's records, or makes sure that those that are there are the same.

    Raises UserError where the data is another than the run began with: neither its training could be repeated nor its
    evaluations compared.
    """
    path = workdir / "data.json"
    if not path.exists():
        write_json(path, found)
        return
    for split, now in found.items():
        difference = data_changed(workdir, split, now)
        if difference:
            raise UserError(
                f"{workdir}: holds a run on other data than there is now: {split}, {difference}; restore the data, or "
                f"choose another --workdir, with --config.init_from={workdir} to begin with what this run has learned"
            )


def data_changed(workdir: Path, split: str, now: Fingerprint) -> str:
    """How the data of `split` differs from what the run began with; "" where it does not, or nothing is known of it."""
    path = workdir / "data.json"
    before = _read_json(path, dict).get(split) if path.exists() else None
    return changed(before, now) if before else ""


def read_config(workdir: Path) -> ConfigDict:
    """The configuration of a run. Raises UserError where `workdir` holds none."""
    return ConfigDict(_read_json(workdir / "config.json", dict)).lock()


def read_classes(workdir: Path) -> tuple[str, ...]:
    """The names of a run's classes. Raises UserError where `workdir` holds none."""
    return tuple(_read_json(workdir / "classes.json", list))


def settled_config(workdir: Path) -> ConfigDict:
    """The configuration of a run with the pixels and intensities that its training found: to prepare images with."""
    return with_fields(read_config(workdir), read_intensity(workdir))


def read_intensity(workdir: Path) -> dict[str, Any]:
    """config.data's "pixels" and "intensity" of a run; {} where it has found none yet."""
    path = workdir / "intensity.json"
    return _read_json(path, dict) if path.exists() else {}


def claim_intensity(workdir: Path, settled: ConfigDict) -> None:
    """Writes intensity.json: config.data's "pixels" and "intensity" as training has settled them."""
    data = settled.data
    write_json(workdir / "intensity.json", {"pixels": data.pixels, "intensity": list(data.intensity)})


def write_manifest(workdir: Path, config: ConfigDict, facts: dict[str, Any]) -> None:
    """One entry a start of the run, the newest last: versions, code, devices, and `facts` of the model."""
    path = workdir / "manifest.json"
    starts = _read_json(path, list) if path.exists() else []
    starts.append(
        {
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": sys.argv,
            "python": platform.python_version(),
            "packages": {name: metadata.version(name) for name in PACKAGES},
            "git_revision": _git_revision(),
            "platform": jax.default_backend(),
            "devices": [device.device_kind for device in jax.devices()],
            "processes": jax.process_count(),
            "seed": config.seed,
            **facts,
        }
    )
    write_json(path, starts)


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all: a reader never sees half of it. Raises UserError where the disk refuses."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """write_json's manner, for any text.

    Bytes of a file's name that are not UTF-8, surrogates in Python, are written as JSON's escapes.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); make room and start the same command again"
        ) from error


def _read_json(path: Path, kind: type) -> Any:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; is {path.parent} the --workdir of a training run?") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); restore it, or start in another --workdir") from error
    if not isinstance(value, kind):
        raise UserError(f"{path}: holds a {type(value).__name__}, not a {kind.__name__}; restore it")
    return value


def _flat(config: ConfigDict) -> dict[str, Any]:
    """Dotted field -> value, as JSON returns it."""
    found = {}

    def walk(node: dict, prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")
            else:
                found[prefix + key] = value

    walk(json.loads(json.dumps(config.to_dict())), "")
    return found


def _git_revision() -> str:
    """The commit of this code, "-dirty" behind it where files differ; "" outside a git checkout."""
    here = Path(__file__).parent
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
