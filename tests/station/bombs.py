"""Files that exhaust or deceive decoders, and model files of strangers."""

from __future__ import annotations

import os
import pickle
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import Any

from station.servers import image_bytes


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *more: bytes) -> bytes:
    """A PNG that states a size and has too few pixels; `more` comes before them."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + _chunk(b"IDAT", zlib.compress(b"\0" * 100)) + _chunk(b"IEND", b"")


def tiff(*entries: tuple[int, int, int, int], next_at: int = 0) -> bytes:
    """A TIFF with one directory of (tag, type, count, value)."""
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", next_at)


@cache
def bombs() -> dict[str, bytes]:
    """Images that must be refused, by name."""
    bomb = zlib.compress(b"\0" * 100_000_000, 9)
    texts = [_chunk(b"zTXt", b"a%d\0\0" % number + zlib.compress(b"x" * 900_000, 9)) for number in range(100)]
    size = ((256, 4, 1, 10), (257, 4, 1, 10), (258, 3, 1, 8))
    frame = struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
    return {
        "pixels": png(100_000, 100_000),
        "most pixels": png(2**31 - 1, 2**31 - 1),
        "more than the station takes": png(2001, 2000),
        "text": png(10, 10, _chunk(b"zTXt", b"a\0\0" + bomb)),
        "many texts": png(10, 10, *texts),
        "profile": png(10, 10, _chunk(b"iCCP", b"a\0\0" + bomb)),
        "endless chunk": b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 2**31 - 1) + b"IHDR",
        "tiff size": tiff((256, 4, 1, 2**31), (257, 4, 1, 2**31), (273, 4, 1, 8), (277, 3, 1, 1), (279, 4, 1, 10)),
        "tiff loop": tiff(*size, next_at=8),
        "tiff directory": tiff(*[(256 + number % 900, 4, 2**30, 8) for number in range(60_000)]),
        "tiff tile": tiff(*size, (322, 4, 1, 2**30), (323, 4, 1, 2**30), (324, 4, 1, 8)),
        "gif": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b"," + frame + b"\x02\x02D\x01\0;",
        "bmp": b"BM" + struct.pack("<IIIIiiHHIIiiII", 60, 0, 54, 40, 2**31 - 1, -(2**31), 1, 24, 0, 0, 0, 0, 0, 0),
        "psd": b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 30_000, 30_000, 8, 3),
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(/tmp/x) (w) file\nshowpage\n",
        "pdf": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1/"/><script>alert(1)</script></svg>',
        "entities": b'<!DOCTYPE x [<!ENTITY a "' + b"x" * 1000 + b'"><!ENTITY b "' + b"&a;" * 1000 + b'">]><svg>&b;</svg>',
        "html": b"<!doctype html><script>alert(1)</script>",
        "script with the head of a picture": b"GIF89a=1;alert(1)//",
        "wmf": b"\xd7\xcd\xc6\x9a\0\0" + struct.pack("<hhhhHI", 0, 0, 100, 100, 72, 0) + b"\0" * 40,
        "fli": struct.pack("<IHHHHHHI", 200, 0xAF12, 1, 60_000, 60_000, 8, 3, 10) + b"\0" * 120,
        "icns": b"icns" + struct.pack(">I", 2**31) + b"ic10" + struct.pack(">I", 2**31),
        "zip": b"PK\x03\x04" + b"\0" * 100,
        "compressed": zlib.compress(b"\0" * 10_000_000),
        "pickle": pickle.dumps(["x"]),
        "empty": b"",
        "zeros": b"\0" * 100_000,
        "truncated": image_bytes(1)[:-500],
    }


class _Payload:
    """What a pickle would run."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


def hostile_models(good: bytes, target: Path) -> dict[str, bytes]:
    """Model files that must be refused, by name; one that runs its code creates the folder `target`."""
    length = struct.unpack("<Q", good[:8])[0]
    header, rest = good[8 : 8 + length], good[8 + length :]

    def with_header(changed: bytes) -> bytes:
        return struct.pack("<Q", len(changed)) + changed + rest

    one = b'"dtype":"F32","shape":[1],"data_offsets":[0,4]'
    return {
        "pickle": pickle.dumps(_Payload(target)),
        "pickle of torch": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03." + pickle.dumps(_Payload(target)),
        "truncated": good[:-100],
        "longer": good + b"\0" * 100,
        "half a header": good[:100],
        "header of 2**63 bytes": struct.pack("<Q", 2**63) + header,
        "header of 1 GB": struct.pack("<Q", 10**9) + header,
        "no header": struct.pack("<Q", 0),
        "no JSON": with_header(b"x" * 100),
        "nested JSON": with_header(b'{"a":' * 100_000),
        "other digest": with_header(header.replace(b'"digest', b'"digest_', 1)),
        "other metadata": with_header(header.replace(b"300", b"301", 1)),
        "changed tensor": good[:-1] + bytes([good[-1] ^ 1]),
        "overlapping tensors": with_header(b'{"a":{%s},"b":{%s}}' % (one, one)),
        "huge shape": with_header(b'{"a":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,4]}}'),
        "model of another program": struct.pack("<Q", len(one) + 8) + b'{"a":{%s}}' % one + b"\0" * 4,
        "image": image_bytes(6),
        "zip": b"PK\x03\x04" + b"\0" * 100,
        "empty": b"",
    }
