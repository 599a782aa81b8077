"""What is odd about images and annotations, handled by a rule: counted, and reported once in one line."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from morphism.data.image import RULES, Odd
from morphism.data.pipeline import Batch
from morphism.data.records import Source


class Oddities:
    """What is odd about `source`: its annotations, known when it is opened, and its images, as they come first.

    `say` is given a line for each, if any: at once, and when no record comes that was not seen before. A line of `said`
    is not said again: splits cut from one source have the same annotations.
    """

    def __init__(self, source: Source, say: Callable[[str], None], said: set[str] | None = None):
        self._source, self._say = source, say
        self._counts: dict[Odd, int] = dict.fromkeys(RULES, 0)
        self._first: dict[Odd, int] = {}
        self._told = False
        self.said: set[str] = set() if said is None else said
        self.note(getattr(source, "oddities", ""))

    def note(self, line: str) -> None:
        """Says `line`, if there is one, the first time."""
        if line and line not in self.said:
            self.said.add(line)
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

    def _count(self, odd: np.ndarray, ids: np.ndarray) -> None:
        if not odd.any():
            return
        for each in RULES:
            rows = np.flatnonzero(odd & each)
            self._counts[each] += len(rows)
            if len(rows):
                self._first.setdefault(each, int(ids[rows[0]]))
