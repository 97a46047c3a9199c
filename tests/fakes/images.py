"""Headers of image files, as small as they can be: nothing that reads only the size needs more."""

from __future__ import annotations

import base64
import struct
import zlib


def png(width: int = 1, height: int = 1) -> bytes:
    """A whole file when it is 1 x 1; else only its header is true."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0\0\0\0")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    comment = b"\xff\xfe" + struct.pack(">H", 6) + b"\xff\xc0hi"  # what looks like a frame inside a segment is none
    tables = b"\xff\xff\xc4" + struct.pack(">H", 3) + b"x"  # with a fill byte
    return b"\xff\xd8" + comment + tables + b"\xff\xc2" + struct.pack(">HBHHB", 17, 8, height, width, 3)


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height)


def bmp(width: int, height: int) -> bytes:
    return b"BM" + bytes(12) + struct.pack("<Iii", 40, width, -height)


def old_bmp(width: int, height: int) -> bytes:
    return b"BM" + bytes(12) + struct.pack("<IHH", 12, width, height)


def _riff(chunk: bytes, data: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(data) + 12) + b"WEBP" + chunk + struct.pack("<I", len(data)) + data


def webp(width: int, height: int) -> bytes:
    return _riff(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", width | 0x4000, height))


def lossless_webp(width: int, height: int) -> bytes:
    return _riff(b"VP8L", b"\x2f" + struct.pack("<I", width - 1 | (height - 1) << 14))


def extended_webp(width: int, height: int) -> bytes:
    return _riff(b"VP8X", bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"))


FORMATS = (png, jpeg, gif, bmp, old_bmp, webp, lossless_webp, extended_webp)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
