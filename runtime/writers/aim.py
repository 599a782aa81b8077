"""Aim: `pip install 'morphism[aim]'`.

AIM_REPO says where its repository is, or which aim:// server has it; without it, it is in the current folder. A resumed
run goes on in the same Aim run.
"""

import io
import os
from collections.abc import Mapping

import aim
from PIL import Image

from morphism.runtime.writers.background import Opening


class Aim:
    """A value replaces the one of the same name and step, so that a resumed run overwrites what it repeats."""

    OVERWRITES = True

    def __init__(self, opening: Opening):
        self._run = aim.Run(
            run_hash=opening.known("aim").get("run"),
            repo=_repository(os.environ.get("AIM_REPO", ".")),
            experiment=opening.workdir.parent.name or "morphism",
            system_tracking_interval=None,
            log_system_params=False,
            capture_terminal_logs=False,
        )
        self._run.name = opening.workdir.name
        self._run["config"] = dict(opening.config)
        opening.store("aim", run=self._run.hash)

    def record(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._run.track(value, name=name, step=step)

    def images(self, step: int, images: Mapping[str, bytes]) -> None:
        for name, png in images.items():
            self._run.track(aim.Image(Image.open(io.BytesIO(png))), name=name, step=step)

    def close(self) -> None:
        self._run.close()


def _repository(path: str) -> "aim.Repo":
    """The repository at `path`, which is made there if there is none."""
    return aim.Repo(path) if "://" in path else aim.Repo.from_path(path, init=not aim.Repo.exists(path))
