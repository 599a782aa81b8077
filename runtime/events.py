"""TensorBoard's event files: each TFRecord is a length, its checksum, an Event and its checksum."""

import io
import struct
import time
from collections.abc import Callable, Iterator

from google.protobuf.message import DecodeError
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from morphism.runtime.paths import AnyPath, write_bytes

Stays = Callable[[int, str], bool]  # (step, name of a value) -> whether it stays

RESTARTED = SessionLog(status=SessionLog.START)  # makes TensorBoard drop the event's step and those after it
HEAD, TAIL = struct.Struct("<QI"), struct.Struct("<I")


def of(step: int, values: dict[str, float]) -> Event:
    """The event that holds the `values` of a step."""
    points = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
    return Event(step=step, wall_time=time.time(), summary=Summary(value=points))


def of_images(step: int, images: dict[str, bytes]) -> Event:
    """The event that holds encoded images, PNG or JPEG, of RGB pixels."""
    points = []
    for name, content in images.items():
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
        shown = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
        points.append(Summary.Value(tag=name, image=shown))
    return Event(step=step, wall_time=time.time(), summary=Summary(value=points))


def take_back(path: AnyPath, stays: Stays) -> None:
    """Rewrites a file without the values that do not stay, and without an incomplete record at its end."""
    content = path.read_bytes()
    kept = [raw for raw, event in _records(content) if all(stays(event.step, x.tag) for x in event.summary.value)]
    if len(b"".join(kept)) < len(content):
        write_bytes(path, b"".join(kept))


def _records(content: bytes) -> Iterator[tuple[bytes, Event]]:
    """Each complete record with its event, up to the first that is incomplete or broken."""
    start = 0
    while start + HEAD.size <= len(content):
        length, _ = HEAD.unpack_from(content, start)
        end = start + HEAD.size + length + TAIL.size
        if end > len(content):
            return
        try:
            event = Event.FromString(content[start + HEAD.size : end - TAIL.size])
        except DecodeError:
            return
        yield content[start:end], event
        start = end
