"""Kills `morphism prepare` again and again, with SIGKILL, and compares the end with an undisturbed preparation.

    python benchmarks/prepare_under_fire.py [SOURCE] [--kills 3] [--seed 0]

SOURCE is any source of the project; scenes:3000x64 unless given. Each kill comes at a random time after the first shard
of its start is there, so that every start adds something. What is reported: the shards that were there after each kill,
how many of them were written again (by their inodes), and whether all files are the same to the bit at the end.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAIT = 300  # seconds for the first shard of a start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", default="scenes:3000x64")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        killed, whole = Path(folder) / "killed" / "data", Path(folder) / "whole" / "data"
        seen, repeated = {}, 0
        for number in range(1, arguments.kills + 1):
            now = killed_once(arguments.source, killed, seen, rng.uniform(0, 2))
            repeated += sum(now.get(name) != inode for name, inode in seen.items())
            seen = now
            print(f"kill {number}: {len(seen)} shards are there", flush=True)
        for to in (killed, whole):
            subprocess.run(command(arguments.source, to), check=True, stdout=subprocess.DEVNULL)
        left = {path.name: path.stat().st_ino for path in killed.glob("*.array_record*")}
        repeated += sum(left.get(name) != inode for name, inode in seen.items())
        files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
        same = files == sorted(path.relative_to(killed) for path in killed.rglob("*") if path.is_file()) and all(
            (whole / name).read_bytes() == (killed / name).read_bytes() for name in files
        )
    print(
        f"{len(left)} shards, {repeated} written again; all {len(files)} files {'are' if same else 'are NOT'} the same"
    )
    sys.exit(0 if same and not repeated else 1)


def command(source: str, to: Path) -> list[str]:
    return [sys.executable, "-m", "morphism", "prepare", source, "--to", str(to), "--split", "train", "--workers", "2"]


def killed_once(source: str, to: Path, seen: dict[str, int], later: float) -> dict[str, int]:
    """Starts a preparation and kills it `later` seconds after its first new shard; the inodes of the shards then."""
    process = subprocess.Popen(command(source, to), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + WAIT
    while process.poll() is None and len(done(to)) <= len(seen) and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(later)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1)  # its workers end by themselves
    return done(to)


def done(to: Path) -> dict[str, int]:
    """Shards whose table is there, and the inodes of their files."""
    partial = to.with_name(f"{to.name}.partial")
    numbers = {path.stem.rpartition("-")[2] for path in partial.glob("parts/*.npz")}
    records = {path.name: path for path in (partial if partial.exists() else to).glob("*.array_record-*")}
    return {name: path.stat().st_ino for name, path in records.items() if name.split("-")[2] in numbers}


if __name__ == "__main__":
    main()
