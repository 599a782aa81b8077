"""Reports what is odd about images and annotations: counted, and said once, in one line."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from morphism.data.odd import RULES, Odd
from morphism.data.pipeline import Batch
from morphism.data.records import Source


class Oddities:
    """Says what is odd about the annotations of `source`, at once, and about its images, when all have been seen.

    say: receives each line.
    said: lines that are not said again, because splits cut from one source have the same annotations.
    """

    def __init__(self, source: Source, say: Callable[[str], None], said: set[str] | None = None):
        self._source, self._say = source, say
        self._counts: dict[Odd, int] = dict.fromkeys(RULES, 0)
        self._first: dict[Odd, int] = {}
        self._reported = False
        self.said: set[str] = set() if said is None else said
        self.note(getattr(source, "oddities", ""))

    def note(self, line: str) -> None:
        """Says `line`, unless it is empty or was said before."""
        if line and line not in self.said:
            self.said.add(line)
            self._say(f"data: {line}")

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yields the batches unchanged. Reports after the last, or before the first without a new record."""
        for batch in batches:
            first = batch["draw"] == 0
            if not self._reported:
                self._count(batch["odd"] * first, batch["id"])
                if not first.any():
                    self.report()
            yield batch
        self.report()

    def report(self) -> None:
        """Says what was counted, the first time that it is called."""
        found = [
            f"{count:,} {RULES[odd]}, first {self._source[self._first[odd]]['name']}"
            for odd, count in self._counts.items()
            if count
        ]
        if found and not self._reported:
            self._say(f"data: odd images: {'; '.join(found)}")
        self._reported = True

    def _count(self, odd: np.ndarray, ids: np.ndarray) -> None:
        if not odd.any():
            return
        for each in RULES:
            rows = np.flatnonzero(odd & each)
            self._counts[each] += len(rows)
            if len(rows):
                self._first.setdefault(each, int(ids[rows[0]]))
