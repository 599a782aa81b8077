"""Videos frame by frame: reads them, and writes them with H.264 in MP4.

Frames come from PyAV, FFmpeg's libraries within this process: it gives each frame its time stamp and its rotation, and
needs no program that is installed apart (pip install 'morphism[video]'). Pillow reads GIFs.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageSequence

from morphism.errors import UserError

CLOCK = Fraction(1, 90_000)  # seconds per tick of written time stamps
QUALITY = {"crf": "20", "preset": "medium"}
REMEDY = "replace it or leave it out"


class Frame(NamedTuple):
    """A frame: its number, its time in seconds, and its pixels, upright."""

    number: int
    time: float
    pixels: UInt8[np.ndarray, "h w 3"]


def frames(path: Path) -> Iterator[Frame]:
    """The frames of a video in their order, one at a time.

    Raises UserError for a file that is no video, for a damaged one at its first broken frame, and without PyAV.
    """
    return _of_gif(path) if path.suffix.lower() == ".gif" else _of_video(path)


def is_still(path: Path) -> bool:
    """Whether the file is a GIF of one frame, an image; or one that cannot be opened, which is a broken image."""
    if path.suffix.lower() != ".gif":
        return False
    try:
        with Image.open(path) as image:
            return getattr(image, "n_frames", 1) == 1
    except Exception:  # Pillow's decoders raise whatever broken bytes lead them to
        return True


def count(path: Path) -> int | None:
    """How many frames a video says it has; None if it does not."""
    if path.suffix.lower() == ".gif":
        with Image.open(path) as image:
            return image.n_frames
    try:
        with _av(path).open(str(path)) as container:
            return container.streams.video[0].frames or None
    except (OSError, ValueError, IndexError):
        return None


def _of_gif(path: Path) -> Iterator[Frame]:
    time = 0.0
    try:
        with Image.open(path) as image:
            for number, frame in enumerate(ImageSequence.Iterator(image)):
                yield Frame(number, time, np.asarray(frame.convert("RGB")))
                time += frame.info.get("duration", 100) / 1000
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {REMEDY}") from error


def _of_video(path: Path) -> Iterator[Frame]:
    av = _av(path)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path}: has no images, only sound; leave it out")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for number, frame in enumerate(container.decode(stream)):
                pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                time = number / float(stream.average_rate or 25) if frame.time is None else frame.time
                yield Frame(number, float(time), np.ascontiguousarray(pixels))
    except (OSError, ValueError) as error:  # FFmpeg's errors are both
        raise UserError(f"{path}: cannot be read ({error.args[-1] if error.args else error}); {REMEDY}") from error


class VideoWriter:
    """Writes frames of one size, with their times, as an MP4 that browsers play. Use it in a `with`.

    Frames with an odd side are extended by a copy of their last row or column, which H.264's colours need.
    """

    def __init__(self, path: Path):
        self._path, self._av = path, _av(path)
        self._container: Any = None
        self._last = -1

    def __enter__(self) -> "VideoWriter":
        return self

    def write(self, pixels: UInt8[np.ndarray, "h w 3"], time: float) -> None:
        """Adds a frame at `time` seconds; raises UserError if the disk refuses."""
        height, width = pixels.shape[:2]
        even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        try:
            if self._container is None:
                self._open(even.shape[1], even.shape[0])
            frame = self._av.VideoFrame.from_ndarray(even, format="rgb24")
            frame.time_base, frame.pts = CLOCK, max(round(time / CLOCK), self._last + 1)
            self._last = frame.pts
            self._container.mux(self._stream.encode(frame))
        except OSError as error:
            raise UserError(f"{self._path}: cannot be written ({error}); make room, or name another folder") from error

    def _open(self, width: int, height: int) -> None:
        self._container = self._av.open(str(self._path), "w", format="mp4", options={"movflags": "faststart"})
        self._stream = self._container.add_stream("libx264", rate=25, options=QUALITY)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.codec_context.time_base = CLOCK

    def __exit__(self, *error: Any) -> None:
        if self._container is not None:
            self._container.mux(self._stream.encode())
            self._container.close()


def _av(path: Path) -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise UserError(f"{path}: videos need PyAV; pip install 'morphism[video]'") from error
    return av
