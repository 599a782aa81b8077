"""Writers whose library may be slow, fail or hang: they work in a thread, and cannot delay or end the training."""

import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from morphism.errors import one_line
from morphism.runtime.paths import AnyPath, read_json, write_json

CLOSING = 30  # seconds that a writer has at the end to send what it still holds


@runtime_checkable
class Sink(Protocol):
    """What a file of this folder offers; any method may raise anything.

    OVERWRITES: whether a value replaces an earlier one of the same name and step. Where it does not, a resumed run
    sends no value of a step that was sent before: it would be a second point.
    """

    OVERWRITES: bool

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Adds values of a step."""

    def images(self, step: int, images: Mapping[str, bytes]) -> None:
        """Adds images, encoded as PNG or JPEG, of a step, which may be long past."""

    def close(self) -> None:
        """Sends what is left, and marks the run as ended."""


@dataclass(frozen=True)
class Opening:
    """What a sink is opened with.

    workdir: the run's; its name is that of the run in the service.
    config: dotted field -> value, of JSON's types.
    say: prints a line.
    """

    workdir: AnyPath
    config: Mapping[str, Any]
    say: Callable[[str], None]

    def known(self, writer: str) -> dict[str, Any]:
        """What an earlier start stored; {} at the first."""
        path = self._file(writer)
        return read_json(path, dict) if path.exists() else {}

    def store(self, writer: str, **values: Any) -> None:
        """Adds values to those stored."""
        path = self._file(writer)
        path.parent.mkdir(exist_ok=True)
        write_json(path, self.known(writer) | values)

    def _file(self, writer: str) -> AnyPath:
        return self.workdir / "writers" / f"{writer}.json"


class Background:
    """A sink in a thread. The first error is reported in a line; what could not be written stays in metrics.jsonl."""

    def __init__(self, name: str, open_sink: Callable[[], Sink], opening: Opening):
        self._name, self._open, self._opening = name, open_sink, opening
        self._waiting: queue.Queue = queue.Queue()
        self._failed = False
        self._thread = threading.Thread(target=self._work, daemon=True, name=name)
        self._thread.start()

    def record(self, step: int, values: Mapping[str, float]) -> None:
        self._waiting.put(("record", step, dict(values)))

    def images(self, step: int, images: Mapping[str, bytes]) -> None:
        self._waiting.put(("images", step, dict(images)))

    def close(self) -> None:
        """Waits until all is sent, but no longer than CLOSING seconds."""
        self._waiting.put(None)
        self._thread.join(CLOSING)
        if self._thread.is_alive():
            self._report(f"did not take everything within {CLOSING:g} s")

    def _work(self) -> None:
        item, sink = self._waiting.get(), None
        if item is None:  # a run that had already finished
            return
        try:
            sink = self._open()
        except Exception as error:  # each library has its own; SystemExit would end the thread alone
            self._report(f"cannot be reached ({reason(error)})")
        sent = self._opening.known(self._name).get("sent", {}) if sink else {}
        while item is not None:
            if sink:
                self._send(sink, *item, sent)
            item = self._waiting.get()
        if sink:
            try:
                sink.close()
            except Exception as error:
                self._report(f"did not take everything ({reason(error)})")

    def _send(self, sink: Sink, kind: str, step: int, values: Mapping[str, Any], sent: dict[str, int]) -> None:
        """Sends what was not sent before; `sent`: last step of each group of names, as of "train" and "val"."""
        groups = {f"{kind}:{name.partition('/')[0]}" for name in values}
        if not sink.OVERWRITES:
            groups = {group for group in groups if step > sent.get(group, 0)}
            values = {name: value for name, value in values.items() if f"{kind}:{name.partition('/')[0]}" in groups}
        if not values:
            return
        try:
            # Noted first: a crash in between costs a point, and never makes a second one.
            sent.update(dict.fromkeys(groups, step))
            self._opening.store(self._name, sent=sent)
            getattr(sink, kind)(step, values)
        except Exception as error:
            self._report(f"did not take step {step} ({reason(error)})")

    def _report(self, what: str) -> None:
        if not self._failed:
            self._failed = True
            self._opening.say(f"{self._name}: {what}; the training goes on, and metrics.jsonl has all values")


def reason(error: BaseException) -> str:
    """An error in a few words."""
    return one_line(error)[:200] or type(error).__name__
