"""Odd pictures, handled by a rule: counted as their batches pass, and told once in one line."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from data.image import RULES, Odd
from data.pipeline import Batch
from data.sources import Source


class Oddities:
    """What was odd where records of `source` came first; `say` is given the line, if any, when none comes new."""

    def __init__(self, source: Source, say: Callable[[str], None]):
        self._source, self._say = source, say
        self._counts: dict[Odd, int] = dict.fromkeys(RULES, 0)
        self._first: dict[Odd, int] = {}
        self._told = False
        self._noted: set[str] = set()

    def note(self, line: str) -> None:
        """Says `line`, if there is one, the first time."""
        if line and line not in self._noted:
            self._noted.add(line)
            self._say(f"data: {line}")

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches unchanged. The line is said after them, or before the first batch of records all drawn before."""
        for batch in batches:
            first = batch["draw"] == 0
            if not self._told:
                self._count(batch["odd"] * first, batch["id"])
                if not first.any():
                    self.tell()
            yield batch
        self.tell()

    def tell(self) -> None:
        """Says what was counted; a second call says nothing."""
        told, self._told = self._told, True
        found = [
            f"{count:,} {RULES[odd]}, first {self._source[self._first[odd]]['name']}"
            for odd, count in self._counts.items()
            if count
        ]
        if found and not told:
            self._say(f"data: odd pictures: {'; '.join(found)}")
        if not told and getattr(self._source, "oddities", ""):
            self._say(f"data: {self._source.oddities}")

    def _count(self, odd: np.ndarray, ids: np.ndarray) -> None:
        if not odd.any():
            return
        for each in RULES:
            rows = np.flatnonzero(odd & each)
            self._counts[each] += len(rows)
            if len(rows):
                self._first.setdefault(each, int(ids[rows[0]]))
