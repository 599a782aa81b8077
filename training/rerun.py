"""Starts the process that trains a run again: its code, environment, cores and devices are those of the run."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from morphism.errors import UserError
from morphism.evaluation.report.reading import read_run
from morphism.runtime.paths import AnyPath
from morphism.runtime.surroundings import ROOT, chosen, code_sha256

PROBE = (
    "import json; from morphism.runtime.surroundings import surroundings as s; print(json.dumps(s(), allow_nan=False))"
)


def environment(start: Mapping[str, Any], own: Mapping[str, str]) -> dict[str, str]:
    """The variables with which to start the rerun: `own`, with those of `start` on which its numbers depend."""
    found = {name: value for name, value in own.items() if name not in chosen(own)}
    found |= start.get("environment", chosen(own))
    if start.get("platform") == "cpu":
        found.setdefault("JAX_PLATFORMS", "cpu")
        if "host_platform_device_count" not in found.get("XLA_FLAGS", ""):
            found.setdefault("JAX_NUM_CPU_DEVICES", str(len(start["devices"])))
    return found


@contextmanager
def on_cores(number: int | None) -> Iterator[None]:
    """Lets this process, and those that it starts, run on `number` cores, or on all where there are no more."""
    if number is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:number])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def code_of(revision: str) -> Iterator[Path]:
    """A folder from which `import morphism` is the code of `revision`, or this code if that is "".

    Raises UserError if this is no git checkout, or if it lacks the revision.
    """
    with ExitStack() as after:
        above = Path(after.enter_context(tempfile.TemporaryDirectory(prefix="morphism-")))
        if not revision:
            (above / "morphism").symlink_to(ROOT, target_is_directory=True)
        else:
            if _git("rev-parse", "--show-prefix") != "":
                raise UserError(f"{ROOT}: no git checkout; clone the repository, or leave out --worktree")
            if _git("cat-file", "-t", revision) != "commit":
                raise UserError(
                    f"{ROOT}: has no revision {revision}; run git fetch --all there, or leave out --worktree"
                )
            if _git("worktree", "add", "--detach", str(above / "morphism"), revision) is None:
                raise UserError(
                    f"{ROOT}: git worktree add failed; run git worktree prune there, or leave out --worktree"
                )
            after.callback(_git, "worktree", "remove", "--force", str(above / "morphism"))
            if not (above / "morphism" / "__main__.py").exists():
                raise UserError(f"{revision} has no command morphism yet; leave out --worktree")
        yield above


def _git(*arguments: str) -> str | None:
    """What git prints; None if it fails."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return None if done.returncode else done.stdout.strip()


def probed(variables: Mapping[str, str], code: Path) -> dict[str, Any]:
    """The surroundings of a process that is started as the rerun will be. Raises UserError if JAX fails there."""
    with code_of("") as own:
        done = subprocess.run(
            [sys.executable, "-c", PROBE],
            env={**variables, "PYTHONPATH": str(own)},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"JAX cannot start as it did for the run ({reason}); use a machine with such devices")
    facts = json.loads(done.stdout.splitlines()[-1])
    checkout = (code / "morphism").resolve()
    return facts if checkout == ROOT.resolve() else facts | {"code_sha256": code_sha256(checkout)}


def rerun(into: AnyPath, last: int, variables: Mapping[str, str], code: Path) -> None:
    """Trains what the configuration in `into` describes in a process of its own, and stops it after the step `last`.

    Raises UserError if the training fails.
    """
    path = os.pathsep.join([str(code), *([variables["PYTHONPATH"]] if variables.get("PYTHONPATH") else [])])
    process = subprocess.Popen(
        [sys.executable, "-m", "morphism", "train", "--workdir", str(into)], env={**variables, "PYTHONPATH": path}
    )
    stopping = False
    try:
        while process.poll() is None:
            _wait(process)
            if not stopping and _last_step(into) > last:
                process.send_signal(signal.SIGTERM)  # it finishes the step, and saves
                stopping = True
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()
    if process.returncode:
        raise UserError(f"the training of {into} ended with status {process.returncode}; its own error is above")


def _wait(process: subprocess.Popen) -> None:
    """Waits for the end of a process, a second at most."""
    try:
        process.wait(1)
    except subprocess.TimeoutExpired:
        return


def _last_step(workdir: AnyPath) -> int:
    """The last step in metrics.jsonl; 0 before there is one."""
    return max((line["step"] for line in read_run(str(workdir)).metrics), default=0)
