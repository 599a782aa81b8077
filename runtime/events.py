"""TensorBoard's event files: each TFRecord is a length, its checksum, an Event and its checksum.

The messages are those parts of TensorFlow's event.proto and summary.proto that are written here. tensorboardX has all
of them, but importing any part of it imports torch where that is installed, which takes two seconds.
"""

import struct
import time
from collections.abc import Callable, Iterator, Mapping

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from morphism.runtime.paths import AnyPath, write_bytes

Stays = Callable[[int, str], bool]  # (step, name of a value) -> whether it stays
Image = tuple[int, int, bytes]  # height, width, PNG

_FIELD = descriptor_pb2.FieldDescriptorProto
_MESSAGES = {  # name -> its fields: name, number, type or the name of a message; a star: repeated
    "Event": (
        ("wall_time", 1, _FIELD.TYPE_DOUBLE),
        ("step", 2, _FIELD.TYPE_INT64),
        ("file_version", 3, _FIELD.TYPE_STRING),
        ("summary", 5, "Summary"),
        ("session_log", 7, "SessionLog"),
    ),
    "SessionLog": (("status", 1, _FIELD.TYPE_INT32),),
    "Summary": (("value", 1, "Value*"),),
    "Value": (("tag", 1, _FIELD.TYPE_STRING), ("simple_value", 2, _FIELD.TYPE_FLOAT), ("image", 4, "Image")),
    "Image": (
        ("height", 1, _FIELD.TYPE_INT32),
        ("width", 2, _FIELD.TYPE_INT32),
        ("colorspace", 3, _FIELD.TYPE_INT32),
        ("encoded_image_string", 4, _FIELD.TYPE_BYTES),
    ),
}
_START, _RGB = 1, 3  # SessionLog.START; Image's colorspace
HEAD, TAIL = struct.Struct("<QI"), struct.Struct("<I")


def _messages() -> dict[str, type[Message]]:
    """The classes of `_MESSAGES`, in a pool of their own, so that TensorFlow may define its own beside them."""
    # proto2 writes a field that is set to 0, as the original does for the values of a oneof.
    file = descriptor_pb2.FileDescriptorProto(name="morphism/event.proto", package="morphism", syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            label = _FIELD.LABEL_REPEATED if str(kind).endswith("*") else _FIELD.LABEL_OPTIONAL
            made = message.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                made.type, made.type_name = _FIELD.TYPE_MESSAGE, f".morphism.{kind.rstrip('*')}"
            else:
                made.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"morphism.{name}")) for name in _MESSAGES}


_CLASSES = _messages()


def first() -> bytes:
    """The record that every file starts with."""
    return _record(_CLASSES["Event"](wall_time=time.time(), file_version="brain.Event:2"))


def restarted(step: int) -> bytes:
    """A record that makes a running TensorBoard drop what it has read of `step` and of the steps after it."""
    return _record(_CLASSES["Event"](wall_time=time.time(), step=step, session_log={"status": _START}))


def of(step: int, values: Mapping[str, float], images: Mapping[str, Image] | None = None) -> bytes:
    """The record of the `values` and `images` of a step."""
    points = [{"tag": name, "simple_value": value} for name, value in values.items()]
    for name, (height, width, png) in (images or {}).items():
        image = {"height": height, "width": width, "colorspace": _RGB, "encoded_image_string": png}
        points.append({"tag": name, "image": image})
    return _record(_CLASSES["Event"](step=step, wall_time=time.time(), summary={"value": points}))


def take_back(path: AnyPath, stays: Stays) -> None:
    """Rewrites a file without the values that do not stay, and without an incomplete record at its end."""
    content = path.read_bytes()
    kept = [raw for raw, event in records(content) if all(stays(event.step, x.tag) for x in event.summary.value)]
    if len(b"".join(kept)) < len(content):
        write_bytes(path, b"".join(kept))


def records(content: bytes) -> Iterator[tuple[bytes, Message]]:
    """Each complete record with its event, up to the first that is incomplete or broken."""
    start = 0
    while start + HEAD.size <= len(content):
        length, _ = HEAD.unpack_from(content, start)
        end = start + HEAD.size + length + TAIL.size
        if end > len(content):
            return
        try:
            event = _CLASSES["Event"].FromString(content[start + HEAD.size : end - TAIL.size])
        except DecodeError:
            return
        yield content[start:end], event
        start = end


def _record(event: Message) -> bytes:
    content = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    return length + TAIL.pack(_checksum(length)) + content + TAIL.pack(_checksum(content))


def _checksum(content: bytes) -> int:
    """TFRecord's masked CRC-32C (Castagnoli)."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC = _crc_table()
