"""Trains a run again in a fresh folder, and says whether the result is equal to the bit.

    morphism reproduce WORKDIR [--into FRESH] [--worktree] [--lock requirements.txt] [--source coco:/data/now]

The manifest of the run says what its numbers depended on: code, versions, data, devices, XLA's flags. What differs here
is printed, line by line. The rerun has the stored configuration (values that were derived are not derived again), seed,
flags and number of CPU devices and cores. It stops where the run stopped. Then metrics.jsonl is compared line by line,
without times, and the checkpoints of the same steps array by array.

--worktree trains with the code of the run's revision, in a git worktree that is removed afterwards. --lock writes a
requirements file of the run's versions: install it into a new environment, and reproduce there.
The exit status is 0 if the runs are equal, 1 if they differ, 2 if the run could not be repeated.
"""

import os
import sys

from morphism.commands import cli
from morphism.errors import UserError

COMMAND = cli.Command()
_INTO = COMMAND.string("into", None, "The fresh workdir; WORKDIR-reproduced unless given.")
_WORKTREE = COMMAND.boolean("worktree", False, "Train with the code of the run's revision, if this code is another.")
_LOCK = COMMAND.string("lock", None, "A requirements file to write, with the exact versions of the run.")
_SOURCE = COMMAND.string("source", None, "Where the data lies now, as config.data.source has it.")


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise UserError("give one workdir, such as morphism reproduce runs/first")
    own = dict(os.environ)
    os.environ["JAX_PLATFORMS"] = "cpu"  # here only files are read; the rerun is a process with devices of its own
    from morphism.runtime.paths import folder
    from morphism.runtime.surroundings import ROOT, code_sha256
    from morphism.training import reproduce, rerun

    workdir = folder(argv[1].rstrip("/"))
    into = folder(_INTO.value or f"{workdir}-reproduced")
    if _LOCK.value:
        from morphism.runtime.manifest import read_starts

        reproduce.write_lock(folder(_LOCK.value), read_starts(workdir)[-1])
        say(f"{_LOCK.value}: the versions of the run; pip install -r {_LOCK.value} in a new environment has them")
    reproduce.check_fresh(into)
    original, notes = reproduce.read_original(workdir, _SOURCE.value)
    start, revision = original.start, ""
    if _WORKTREE.value and start.get("code_sha256") != code_sha256(ROOT):
        revision = start.get("git_revision", "").removesuffix(reproduce.DIRTY)
        if not revision:
            raise UserError(f"{workdir}: its manifest has no revision, so leave out --worktree")
    variables = rerun.environment(start, own)
    with rerun.on_cores(start.get("cores")), rerun.code_of(revision) as code:
        now = rerun.probed(variables, code)
        if revision:
            now["git_revision"] = start["git_revision"]
        same, lines = reproduce.differences(start, now)
        if start.get("git_revision", "").endswith(reproduce.DIRTY) and start.get("code_sha256") != now["code_sha256"]:
            lines.append("code: the run's had changes that its revision lacks, and the manifest does not hold them")
        elif not revision and any(line.startswith(("code_sha256", "git_revision")) for line in lines):
            lines.append("code: --worktree trains with that of the run's revision")
        say(f"same here as then: {summary(same)}")
        for line in [*lines, *notes]:
            say(line)
        reproduce.prepare(original, into)
        rerun.rerun(into, original.last, variables, code)
    equal, lines = reproduce.compared(workdir, into, until=original.last, lenient=not original.ended)
    say("\n".join(lines))
    say(f"first: {workdir}; second: {into}")
    sys.stdout.flush()
    if not equal:
        sys.exit(1)


def say(line: str) -> None:
    print(line, flush=True)


def summary(same: list[str]) -> str:
    """The names of what is the same, packages and variables counted."""
    packages = sum(name.startswith("packages.") for name in same)
    names = [name for name in same if not name.startswith(("packages.", "environment."))]
    return ", ".join([f"{packages} package(s)", *names]) if same else "nothing that the manifest records"
