"""Reports what is odd about images and annotations: counted, and said once, in one line."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from morphism.data.image import decode
from morphism.data.odd import RULES, Odd
from morphism.data.pipeline import Batch
from morphism.data.records import Source
from morphism.errors import UserError


class Oddities:
    """Says what is odd about the annotations of `source`, at once, and about its images, when all have been seen.

    say: receives each line.
    said: lines that are not said again, because splits cut from one source have the same annotations.
    """

    def __init__(self, source: Source, say: Callable[[str], None], said: set[str] | None = None):
        self._source, self._say = source, say
        self._counts: dict[Odd, int] = dict.fromkeys(RULES, 0)
        self._first: dict[Odd, int] = {}
        self._unread: set[int] = set()
        self._told = 0  # of the records in `_unread`
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
            self._watch_unread(batch)
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
        if len(self._unread) > max(self._told, 1):
            self._say(
                f"data: {len(self._unread):,} records could not be read so far, and were skipped (config.data.broken)"
            )
        self._told = len(self._unread)

    def _watch_unread(self, batch: Batch) -> None:
        """Says at once which record is the first that cannot be read, and why."""
        found = batch["unread"][batch["unread"] >= 0].tolist() if "unread" in batch else []
        if found and not self._unread:
            self._say(f"data: skipped (config.data.broken), as others may be: {self._reason(found[0])}")
        self._unread.update(found)

    def _reason(self, index: int) -> str:
        """Why a record cannot be read, as far as reading and decoding it now shows."""
        try:
            record = self._source[index]
            decode(record["image"], record["name"])
        except UserError as error:
            return str(error)
        return record["name"]

    def _count(self, odd: np.ndarray, ids: np.ndarray) -> None:
        if not odd.any():
            return
        for each in RULES:
            rows = np.flatnonzero(odd & each)
            self._counts[each] += len(rows)
            if len(rows):
                self._first.setdefault(each, int(ids[rows[0]]))
