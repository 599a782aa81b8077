"""What is written for a video: its annotated copy, and a line per frame, as they are predicted."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from morphism.errors import UserError
from morphism.evaluation.video import VideoWriter


class VideoOutput:
    """Writes frames to the video `path` and to `lines`, a JSON object per line; neither where they are None."""

    def __init__(self, path: Path | None, lines: Path | None):
        self._path, self._lines = path, lines
        self._open = ExitStack()

    def __enter__(self) -> "VideoOutput":
        if self._path is not None:
            self._video = self._open.enter_context(VideoWriter(self._path))
            try:
                self._text = self._open.enter_context(
                    self._lines.open("w", encoding="utf-8", errors="backslashreplace")
                )
            except OSError as error:
                raise UserError(f"{self._lines}: cannot be written ({error.strerror}); name another folder") from error
        return self

    def write(self, entry: dict[str, Any], drawn: Image.Image, time: float) -> None:
        self._video.write(np.asarray(drawn), time)
        self._text.write(json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n")

    def __exit__(self, *error: Any) -> None:
        self._open.close()
