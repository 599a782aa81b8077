"""How a part is called, and how it starts its contenders."""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from served import Served

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "benchmarks" / "accelerator.py"


@dataclass(frozen=True)
class Call:
    """How a part was called.

    dry: tiny sizes, on CPU.
    seconds: that the part may take.
    folder: for its files; it is empty at first, except for those of other parts.
    cifar: a folder of CIFAR-10's images, a folder per class; None: there is none.
    """

    dry: bool
    seconds: float
    folder: Path
    cifar: Path | None
    began: float

    @property
    def left(self) -> float:
        return self.began + self.seconds - time.monotonic()

    @property
    def at_once(self) -> int:
        """Processes that may compile at once."""
        return 1 if self.dry else max(1, (os.cpu_count() or 2) // 2)

    def contender(self, name: str) -> Served:
        """Starts a process that serves the contender `name`, one of CONTENDERS with its arguments behind colons."""
        command = [sys.executable, str(SCRIPT), "--serve", name, *(["--dry"] if self.dry else [])]
        return Served(command, self.folder / f"{name.replace(' ', '_').replace(':', '-')}.log", environment())


def environment() -> dict[str, str]:
    """Several processes share the card: none takes its whole memory at the start."""
    return os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "OMP_WAIT_POLICY": "PASSIVE"}
