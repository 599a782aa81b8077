"""Weights & Biases: `pip install 'morphism[wandb]'`.

WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE=offline and its other variables apply. A resumed run goes on in the same W&B
run; offline, in a folder of its own that `wandb sync --append` adds to the same run.
"""

import io
import os
import uuid
from collections.abc import Mapping

import wandb
from PIL import Image

from morphism.runtime.paths import is_local
from morphism.runtime.writers.background import Opening


class WandB:
    """W&B ignores values of a step below the last; nothing that was sent can be taken back."""

    OVERWRITES = False

    def __init__(self, opening: Opening):
        run = opening.known("wandb").get("run") or uuid.uuid4().hex[:8]
        mode = os.environ.get("WANDB_MODE", "online")
        self._run = wandb.init(
            id=run,
            resume=None if mode == "offline" else "allow",  # offline there is nobody to ask
            project=os.environ.get("WANDB_PROJECT", "morphism"),
            name=opening.workdir.name,
            dir=str(opening.workdir) if is_local(opening.workdir) else None,
            config=dict(opening.config),
            reinit="create_new",  # leaves a notebook's own run alone
            settings=wandb.Settings(console="off", silent=True),
        )
        opening.store("wandb", run=run)

    def record(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def images(self, step: int, images: Mapping[str, bytes]) -> None:
        shown = {name: wandb.Image(Image.open(io.BytesIO(png))) for name, png in images.items()}
        self._run.log(shown, step=max(step, self._run.step))  # of a step that is past W&B would take nothing

    def close(self) -> None:
        self._run.finish()
