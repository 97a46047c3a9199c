"""Images and audio of requests: how large they may be, told from their headers. Nothing is decoded here.

The bounds are in `service.parameters`. They hold before it is asked whether the model can see, so that no request can
make a decoder allocate what its few bytes only claim.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable

from donabe.api.body import decode_base64
from donabe.errors import InvalidRequestError
from donabe.service.parameters import check_count, check_number
from donabe.types import Message

_FORMATS = "PNG, JPEG, GIF, WebP or BMP"
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD8)))  # JPEG markers that stand alone
_JPEG_START = re.compile(rb"\xff+\xd8")  # with fill bytes, which decoders skip here, too
_NOT_FILL = re.compile(rb"[^\xff]")
_MAX_MARKERS = 4096  # before the frame; cameras write tens, a colour profile up to 255
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG markers of a frame's header


def decode_image(text: object, field: str) -> bytes:
    """An image (or audio, which travels the same way) of a request.

    Raises:
        InvalidRequestError: Not base64, no image, or larger than allowed.
    """
    data = decode_base64(text, field)
    check_image(data, field)
    return data


def check_image(data: bytes, field: str) -> None:
    """Check what the header of an image says of its size; audio has none."""
    if is_audio(data):
        return
    try:
        width, height = image_size(data)
    except (struct.error, ValueError):
        raise InvalidRequestError(
            f"{field} holds data that is not a readable image", field=field, hint=f"send {_FORMATS}"
        ) from None
    if not width or not height:
        raise InvalidRequestError(f"{field} holds an image of {width} x {height} pixels", field=field)
    check_number("image_pixels", width * height, field=field, what=f" pixels of an image ({width} x {height})")


def check_images(messages: Iterable[Message]) -> None:
    """All messages together hold no more images than a request may."""
    check_count("images", sum(len(message.images) for message in messages), field="messages", what="images")


def is_audio(data: bytes) -> bool:
    """WAV, MP3, FLAC or Ogg."""
    if _JPEG_START.match(data):
        return False
    if data[:4] == b"RIFF":
        return data[8:12] == b"WAVE"
    is_mpeg_frame = len(data) > 2 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0 and data[1] & 0x06 != 0
    return is_mpeg_frame or data[:3] == b"ID3" or data[:4] in (b"fLaC", b"OggS")


def image_size(data: bytes) -> tuple[int, int]:
    """(width, height) in pixels as the header says.

    Raises:
        ValueError, struct.error: The format is not known, or the header is malformed or cut off.
    """
    if start := _JPEG_START.match(data):
        return _jpeg_size(data, start.end())
    for signature, read in _READERS:
        if data.startswith(signature):
            return read(data)
    raise ValueError("no known image format")


def _png_size(data: bytes) -> tuple[int, int]:
    length, kind, width, height = struct.unpack_from(">I4sII", data, 8)
    if length != 13 or kind != b"IHDR":
        raise ValueError("the first chunk is not the header")
    return width, height


def _gif_size(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _bmp_size(data: bytes) -> tuple[int, int]:
    (n_header_bytes,) = struct.unpack_from("<I", data, 14)
    if n_header_bytes == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    elif n_header_bytes >= 40:
        width, height = struct.unpack_from("<ii", data, 18)
    else:
        raise ValueError("no known header")
    if width < 0:
        raise ValueError("a negative width")
    return width, abs(height)  # negative: rows from the top


def _jpeg_size(data: bytes, position: int) -> tuple[int, int]:
    for _ in range(_MAX_MARKERS):
        if data[position : position + 1] != b"\xff":
            raise ValueError("no marker where one should be")
        after_fill = _NOT_FILL.search(data, position)
        if after_fill is None:
            raise ValueError("no marker after the fill bytes")
        marker, position = data[after_fill.start()], after_fill.end()
        if marker in _WITHOUT_LENGTH:
            continue
        (n_bytes,) = struct.unpack_from(">H", data, position)
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, position + 3)
            return width, height
        if marker in (0xD9, 0xDA) or n_bytes < 2:
            raise ValueError("no frame before the image's data")
        position += n_bytes
    raise ValueError("too many markers before the frame")


def _webp_size(data: bytes) -> tuple[int, int]:
    container, chunk = struct.unpack_from("4s4s", data, 8)
    if container != b"WEBP":
        raise ValueError("another kind of RIFF file")
    if chunk == b"VP8 ":
        start, width, height = struct.unpack_from("<3sHH", data, 23)
        if start != b"\x9d\x01\x2a":
            raise ValueError("no start code")
        return width & 0x3FFF, height & 0x3FFF
    if chunk == b"VP8L":
        signature, bits = struct.unpack_from("<BI", data, 20)
        if signature != 0x2F:
            raise ValueError("no signature")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8X":
        low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", data, 24)
        return low_width + (high_width << 16) + 1, low_height + (high_height << 16) + 1
    raise ValueError("no known chunk")


_READERS: tuple[tuple[bytes, Callable[[bytes], tuple[int, int]]], ...] = (
    (b"\x89PNG\r\n\x1a\n", _png_size),
    (b"GIF87a", _gif_size),
    (b"GIF89a", _gif_size),
    (b"BM", _bmp_size),
    (b"RIFF", _webp_size),
)
