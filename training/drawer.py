"""Draws a run while it trains, in a thread of its own: evaluations, the first batch, learning curves."""

import io
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from morphism.data.records import Source
from morphism.evaluation import drawings
from morphism.evaluation.drawings import Evaluated
from morphism.runtime.paths import AnyPath
from morphism.runtime.writer import Writer

FIRST_BATCH = 16  # examples of the first batch
LARGEST = 200_000  # bytes of a PNG in TensorBoard, which keeps those of all evaluations; larger ones become JPEGs


class Drawer:
    """Writes drawings to `workdir`/plots and to TensorBoard.

    At most one job runs at a time, and another one waits for it: a run that evaluates faster than it draws is slowed
    down, but draws each evaluation. A drawing that fails, as on a full disk, is reported once; the training goes on.
    """

    def __init__(self, workdir: AnyPath, writer: Writer, active: bool):
        """`active`: False draws nothing."""
        self._folder, self._metrics = workdir / "plots", workdir / "metrics.jsonl"
        self._workdir, self._writer = workdir, writer
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="drawings") if active else None
        self._last: Future | None = None
        self._failed = False

    def __enter__(self) -> "Drawer":
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool:
            self._pool.shutdown(wait=True)

    @property
    def active(self) -> bool:
        return self._pool is not None

    def first_batch(
        self, batch: dict[str, np.ndarray], mixed: int, augment: Callable, source: Source, config: Any
    ) -> None:
        """Draws the first examples of a batch as `augment` makes them: (batch of one device) -> batch.

        mixed: how many successive examples are mixed. `config` is config.augment.
        """
        rows = min(FIRST_BATCH, len(batch["id"])) // mixed * mixed
        few = {name: np.array(value[:rows]) for name, value in batch.items()}  # the memory may be a worker's

        def draw() -> None:
            import jax

            from morphism.evaluation import sheets

            content = sheets.png(sheets.seen(jax.device_get(augment(few)), source, config))
            drawings.write(self._folder, [("first_batch.png", content)])
            self._writer.images(0, {"train/first_batch": _small(content)})

        self._submit(draw)

    def evaluation(self, step: int, split: str, of: Evaluated) -> None:
        """Draws an evaluation, and the learning curves up to it."""

        def draw() -> None:
            files = list(drawings.drawings(of))
            drawings.write(drawings.folder_of(self._workdir, split), files)
            images = {name.removesuffix(".png"): content for name, content in files if name.endswith(".png")}
            self._writer.images(step, {f"val/{name}": _small(content) for name, content in images.items()})
            self._draw_curves()

        self._submit(draw)

    def curves(self) -> None:
        """Draws the learning curves."""
        self._submit(self._draw_curves)

    def _draw_curves(self) -> None:
        from morphism.evaluation import curves

        lines = self._metrics.read_text(encoding="utf-8").splitlines()
        drawings.write(self._folder, [("curves.png", curves.draw(lines))])

    def wait(self) -> None:
        """Returns when everything is drawn."""
        if self._last:
            self._last.result()

    def _submit(self, draw: Callable[[], None]) -> None:
        if self._pool:
            self.wait()
            self._last = self._pool.submit(self._explained, draw)

    def _explained(self, draw: Callable[[], None]) -> None:
        """Runs `draw`. Reports the first failure, whatever it is: no drawing is worth a training."""
        try:
            draw()
        except Exception as error:
            if not self._failed:
                reason = " ".join(str(error).split()) or type(error).__name__
                self._writer.say(f"not drawn, and the training goes on: {reason}")
            self._failed = True


def _small(png: bytes) -> bytes:
    """An image for TensorBoard."""
    if len(png) <= LARGEST:
        return png
    content = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(content, "JPEG", quality=85)
    return content.getvalue()
