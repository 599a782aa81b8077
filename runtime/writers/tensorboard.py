"""TensorBoard's curves and images, in WORKDIR/tensorboard: files that hold each value as soon as it is recorded."""

import io
import socket
import threading
import time
from collections.abc import Mapping

from PIL import Image

from morphism.runtime import events
from morphism.runtime.paths import AnyPath, is_local, write_bytes


class TensorBoard:
    """A new event file, to which any thread may write; older ones first lose the values that do not stay."""

    def __init__(self, folder: AnyPath, stays: events.Stays, resumed_at: int):
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("events.out.tfevents.*")):
            events.take_back(path, stays)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{time.time_ns()}"
        self._path, self._content, self._lock = folder / name, b"", threading.Lock()
        self._file = self._path.open("wb") if is_local(folder) else None
        self._write(events.first() + (events.restarted(resumed_at + 1) if resumed_at else b""))

    def record(self, step: int, values: Mapping[str, float]) -> None:
        self._write(events.of(step, values))

    def images(self, step: int, images: Mapping[str, bytes]) -> None:
        """Adds images, encoded as PNG or JPEG."""
        sized = {name: (*reversed(Image.open(io.BytesIO(png)).size), png) for name, png in images.items()}
        self._write(events.of(step, {}, sized))

    def close(self) -> None:
        if self._file:
            self._file.close()

    def _write(self, record: bytes) -> None:
        with self._lock:
            if self._file is None:  # a store takes whole files
                self._content += record
                write_bytes(self._path, self._content)
                return
            self._file.write(record)
            self._file.flush()
