"""What a run's numbers depend on besides its configuration and data: code, versions, devices, environment."""

import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from morphism.threads import cores

ROOT = Path(__file__).parent.parent
PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tensorflow-datasets"),
    *("ml-collections", "ml_dtypes", "scipy", "pillow", "simplejpeg", "cykooz-resizer", "array_record", "safetensors"),
    *("jax-cuda12-plugin", "jax-cuda12-pjrt", "jax-cuda13-plugin", "jax-cuda13-pjrt", "libtpu", "tensorflow"),
)
# Variables that decide what XLA computes, and how; not those of caches and of where other processes are.
PREFIXES, NAMES = ("XLA_", "JAX_"), ("LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE", "TF_CUDNN_DETERMINISTIC")
ELSEWHERE = ("CACHE", "COORDINATOR", "PROCESS", "LOGGING", "TRACEBACK", "DUMP")


def surroundings() -> dict[str, Any]:
    """The facts of this process that the manifest records for each start. It starts JAX's devices."""
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "packages": dict(_versions()),
        "git_revision": git_revision(),
        "code_sha256": code_sha256(ROOT),
        "platform": jax.default_backend(),
        "platform_version": " ".join(devices[0].client.platform_version.split()),
        "devices": [device.device_kind for device in devices],
        "processes": jax.process_count(),
        "processor": _processor(),
        "cores": cores(),
        "environment": chosen(os.environ),
    }


def repeatable(start: Mapping[str, Any]) -> bool:
    """Whether another process on the same devices computes the bits of `start`, an entry of the manifest.

    On GPUs XLA chooses algorithms by timing them, unless config.deterministic or XLA_FLAGS prevent that.
    """
    flags = start.get("environment", {}).get("XLA_FLAGS", "")
    forced = re.search(r"--xla_gpu_deterministic_ops(?!=(?:false|0))", flags, re.IGNORECASE)
    return start.get("platform") != "gpu" or bool(start.get("deterministic") or forced)


def chosen(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of `environment` on which the numbers of a run may depend, by name."""

    def counts(name: str) -> bool:
        return name in NAMES or (name.startswith(PREFIXES) and not any(each in name for each in ELSEWHERE))

    return {name: value for name, value in sorted(environment.items()) if counts(name)}


def code_sha256(root: Path) -> str:
    """SHA-256 over the names and lines of the package's Python files.

    Experiments do not count, since a run stores its configuration; their `base` does, which declares the fields.
    """
    packages = sorted(path.parent for path in root.glob("*/__init__.py"))
    files = [*root.glob("*.py"), *(file for package in packages for file in package.rglob("*.py"))]
    digest = hashlib.sha256()
    for name, file in sorted((file.relative_to(root).as_posix(), file) for file in files):
        if not name.startswith("experiments/") or name == "experiments/base.py":
            content = file.read_bytes().replace(b"\r\n", b"\n")
            digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def git_revision(root: Path = ROOT) -> str:
    """The commit of this code, followed by "-dirty" if files differ; "" outside a git checkout."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue


def _processor() -> str:
    """The processor's name: another one has other vector instructions, which round differently."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name"))
    return next(named, platform.processor() or platform.machine())
