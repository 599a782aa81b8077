"""Reads zip archives as torch.save writes them: members are stored uncompressed and do not overlap."""

import struct
import zipfile
import zlib
from io import BufferedIOBase

LOCAL_HEADER = "<4s22xHH"  # signature, lengths of the name and of the extra field that stand before the content
ENCRYPTED = 0x1


class Archive:
    """The members of an open zip file, by name.

    Raises ValueError if a member extends beyond the file or into another member, or if two members share a name. So all
    members together are no larger than the file.
    """

    def __init__(self, file: BufferedIOBase):
        self._file, self._members = file, {}
        end = file.seek(0, 2)
        with zipfile.ZipFile(file) as opened:
            members = sorted(opened.infolist(), key=lambda member: member.header_offset)
        for member, following in zip(members, [*(each.header_offset for each in members[1:]), end], strict=True):
            if member.filename in self._members:
                raise ValueError(f"two members {member.filename!r:.99}")
            start = member.header_offset + struct.calcsize(LOCAL_HEADER)
            if not 0 <= member.header_offset <= start + member.compress_size <= following:
                raise ValueError(f"member {member.filename!r:.99} extends beyond its own bytes")
            self._members[member.filename] = member

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def names(self) -> list[str]:
        """The names of all members, in the order of the file."""
        return list(self._members)

    def size(self, name: str) -> int:
        """The bytes of a member. Raises ValueError if there is none, or if it is compressed or encrypted."""
        member = self._members.get(name)
        if member is None:
            raise ValueError(f"there is no member {name!r:.99}")
        if member.flag_bits & ENCRYPTED:
            raise ValueError(f"member {name!r:.99} is encrypted")
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise ValueError(f"member {name!r:.99} is compressed, which torch.save never does")
        return member.file_size

    def read(self, name: str) -> bytes:
        """The content of a member. Raises ValueError as `size` does, if it is cut off, and if its checksum differs."""
        size, member = self.size(name), self._members[name]
        self._file.seek(member.header_offset)
        header = self._file.read(struct.calcsize(LOCAL_HEADER))
        if len(header) < struct.calcsize(LOCAL_HEADER):
            raise ValueError(f"member {name!r:.99} is cut off")
        signature, name_length, extra_length = struct.unpack(LOCAL_HEADER, header)
        if signature != b"PK\x03\x04":
            raise ValueError(f"member {name!r:.99} does not begin where it should")
        self._file.seek(name_length + extra_length, 1)
        data = self._file.read(size)
        if len(data) < size:
            raise ValueError(f"member {name!r:.99} is cut off")
        if zlib.crc32(data) != member.CRC:
            raise ValueError(f"Bad CRC-32 of member {name!r:.99}")
        return data
