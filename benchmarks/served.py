"""Contenders in processes of their own, each of which may fail or hang without the others.

A contender makes itself ready (compiles, say) when it starts, then answers each line that it is sent with a list of
rows.
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Answers = Callable[[str], list[Row]]  # a line -> rows


def serve(make: Callable[[], Answers]) -> None:
    """Serves one contender on standard input and output; whatever libraries print goes to standard error."""
    output, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
    os.dup2(2, 1)

    def say(answer: Row) -> None:
        print(json.dumps(answer, allow_nan=False), file=output, flush=True)

    began = time.perf_counter()
    try:
        answers = make()
        say({"ready_s": time.perf_counter() - began})
        for line in sys.stdin:
            try:
                say({"rows": answers(line.strip())})
            except Exception as error:
                say({"error": in_a_line(error)})
    except Exception as error:
        say({"error": in_a_line(error)})
    os._exit(0)  # without the destructors of libraries, some of which hang


def in_a_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]


class Served:
    """A contender's process. Its log holds what it printed."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]):
        self._log = log
        self._file = log.open("a")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._file, text=True, env=dict(environment)
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ready(self, seconds: float) -> Row:
        """{"ready_s"} once it is ready, or {"error"}."""
        return self._answer(seconds)

    def ask(self, line: str, seconds: float) -> Row:
        """{"rows"} of its answer to `line`, or {"error"}."""
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except OSError:
            pass  # it has ended, which the answer says
        return self._answer(seconds)

    def _answer(self, seconds: float) -> Row:
        try:
            line = self._lines.get(timeout=max(seconds, 0.1))
        except queue.Empty:
            self.stop()
            return {"error": f"no answer within {seconds:.0f} s"}
        if line:
            return json.loads(line)
        status = self._process.wait()
        said = [each for each in self._log.read_text(errors="replace").splitlines() if each.strip()]
        return {"error": f"ended with status {status}: {said[-1] if said else 'no message'}"[:300]}

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._file.close()
