"""Arrow files as the library ``datasets`` writes them: mapped and not read, so that they may be larger than the memory.

They are trusted with no offset: Arrow itself would follow one to any place of the memory.
"""

from __future__ import annotations

import struct
from pathlib import Path

import pyarrow as pa

from sousvit.errors import UserError
from sousvit.files import require_file

#: How a file of the random-access form begins; what follows is a stream.
_MAGIC = b"ARROW1\0\0"
#: Kinds of message that hold columns: a dictionary of values, and a piece of the table; where the latter stands in it.
_DICTIONARY, _PIECE = 2, 3
#: Places of fields, as Arrow's Message.fbs numbers them.
_HEADER_TYPE, _HEADER, _DICTIONARY_DATA, _COMPRESSION = 1, 2, 1, 3


def read_arrow(file: Path) -> pa.Table:
    """The table in a file, of the stream form (which ``datasets`` writes) or the random-access form.

    Raises:
        UserError: its buffers are compressed, which hides how large they are.
        OSError: it cannot be read.
        pa.ArrowException: it is no Arrow file, or its parts contradict each other.
    """
    require_file(file)
    mapped = pa.memory_map(str(file))
    start = len(_MAGIC) if mapped.read(len(_MAGIC)) == _MAGIC else 0
    mapped.seek(start)
    for message in pa.ipc.MessageReader.open_stream(mapped):
        if _is_compressed(message.metadata.to_pybytes()):
            raise UserError("Arrow files are not compressed", file, "save the data set again, or write parquet")
    if start:
        table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
    else:
        mapped.seek(0)
        table = pa.ipc.open_stream(mapped).read_all()
    table.validate(full=True)
    return table


def _is_compressed(metadata: bytes) -> bool:
    """Whether a message says that its buffers are compressed.

    Raises:
        pa.ArrowInvalid: its fields point out of it.
    """
    try:
        message = _table(metadata, 0)
        place = _field(metadata, message, _HEADER_TYPE)
        kind = metadata[place] if place else 0
        if kind not in (_DICTIONARY, _PIECE):
            return False
        piece = _table(metadata, _field(metadata, message, _HEADER))
        if kind == _DICTIONARY:
            piece = _table(metadata, _field(metadata, piece, _DICTIONARY_DATA))
        return bool(_field(metadata, piece, _COMPRESSION))
    except (struct.error, IndexError) as error:
        raise pa.ArrowInvalid("a message without its fields") from error


def _table(data: bytes, place: int) -> int:
    """Where the flatbuffer table begins that the four bytes at ``place`` point to."""
    (offset,) = struct.unpack_from("<I", data, place)
    return int(place + offset)


def _field(data: bytes, table: int, number: int) -> int:
    """Where a field of a flatbuffer table stands; 0 where it is left out."""
    (back,) = struct.unpack_from("<i", data, table)
    size, _ = struct.unpack_from("<HH", data, table - back)
    if 4 + 2 * number >= size:
        return 0
    (offset,) = struct.unpack_from("<H", data, table - back + 4 + 2 * number)
    return table + int(offset) if offset else 0
