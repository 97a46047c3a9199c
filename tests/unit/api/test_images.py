"""Images of requests: their size as headers tell it, and what is too large, in every dialect."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.images import FORMATS, encoded, gif, jpeg, png, webp
from tests.fakes.server import make_server
from tests.fakes.settings import FakeSettings

from donabe.api.images import check_image, decode_image, image_size, is_audio
from donabe.errors import InvalidRequestError
from donabe.service.parameters import BOUNDS

WAV = b"RIFF\x24\0\0\0WAVEfmt "
CAPTION = {"type": "text", "text": "what is it?"}


@pytest.mark.parametrize("make", FORMATS)
@pytest.mark.parametrize("size", [(1, 1), (640, 480), (1, 16383)])
def test_size_is_read_from_the_header(make, size):
    assert image_size(make(*size)) == size
    check_image(make(*size), "images")


@pytest.mark.parametrize("make", FORMATS)
def test_header_that_is_cut_off_is_no_image(make):
    whole = make(640, 480)
    end = {"png": 24, "gif": 10}.get(make.__name__, len(whole) - (1 if make is jpeg else 0))
    for n_bytes in range(end):
        with pytest.raises((ValueError, struct.error)):
            image_size(whole[:n_bytes])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hi",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe0\x00\x00",  # a segment that is shorter than its own length
        b"\xff\xd8\xff\xda\x00\x02\x00\x00",  # the image's data, and no frame before it
        b"\xff\xd8abcd",
        png()[:12] + b"XXXX" + png()[16:],
        webp(1, 1).replace(b"\x9d\x01", b"\x9d\x02"),
        b"RIFF\0\0\0\0WEBPVP8L" + bytes(16),
        b"RIFF\0\0\0\0WEBPXXXX" + bytes(16),
        b"RIFF\0\0\0\0AVI " + bytes(16),
        b"BM" + bytes(12) + struct.pack("<I", 16) + bytes(16),
        b"BM" + bytes(12) + struct.pack("<Iii", 40, -5, 5),
    ],
)
def test_malformed_headers_are_refused(data):
    with pytest.raises(InvalidRequestError, match="not a readable image") as caught:
        check_image(data, "images")
    assert (caught.value.field, caught.value.hint) == ("images", "send PNG, JPEG, GIF, WebP or BMP")


@given(st.binary(max_size=60), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"GIF89a", b"BM", b"RIFF"]))
def test_no_bytes_break_the_reader(data, signature):
    try:
        check_image(signature + data, "images")
    except InvalidRequestError as error:
        assert error.field == "images"


def test_sizes_out_of_range_are_refused():
    for data in (png(8193, 8192), png(2**31, 2**31), gif(0, 5), png(5, 0)):
        with pytest.raises(InvalidRequestError, match="pixels") as caught:
            check_image(data, "images")
        assert caught.value.field == "images"
    check_image(png(8192, 8192), "images")


@pytest.mark.parametrize("rest", [b"\xff\x01" * 2**21, b"\xff" * 2**22, b"\xff\xfe\0\2" * 2**20])
def test_jpegs_without_end_are_refused_at_once(rest):
    read = Counted(b"\xff\xd8" + rest)
    with pytest.raises(ValueError):
        image_size(read)
    assert read.n_reads < 10_000


class Counted(bytes):
    """Counts what is read of it by place."""

    n_reads = 0

    def __getitem__(self, place):
        self.n_reads += 1
        return super().__getitem__(place)


def test_jpeg_of_many_segments_and_fill_bytes_is_read():
    whole = jpeg(640, 480)
    assert image_size(whole[:2] + b"\xff\xe2\0\2" * 1000 + b"\xff" * 100_000 + whole[2:]) == (640, 480)


@pytest.mark.parametrize("n_fill", [1, 2, 100])
def test_fill_bytes_do_not_make_a_jpeg_audio(n_fill):
    data = b"\xff" * n_fill + jpeg(2**14, 2**14)
    assert not is_audio(data)
    with pytest.raises(InvalidRequestError, match="pixels"):
        check_image(data, "images")
    assert image_size(b"\xff" * n_fill + jpeg(640, 480)) == (640, 480)


@pytest.mark.parametrize("data", [WAV, b"ID3\x04", b"fLaC", b"OggS", b"\xff\xfb\x90\0"])
def test_audio_has_no_pixels(data):
    assert is_audio(data)
    check_image(data, "images")


def test_image_of_too_many_bytes_is_refused_before_it_is_decoded():
    high = BOUNDS["image_bytes"].high
    for text in ("A" * ((high + 3) // 3 * 4 + 4), "\n" * (3 * high)):
        with pytest.raises(InvalidRequestError, match=f"file of more than {high} bytes"):
            decode_image(text, "images")


def native(images):
    return "/api/chat", {"model": "C", "messages": [{"role": "user", "content": "x", "images": images}]}


def generate(images):
    return "/api/generate", {"model": "C", "prompt": "x", "images": images}


def openai(images):
    parts = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}} for image in images]
    return "/v1/chat/completions", {"model": "C", "messages": [{"role": "user", "content": [CAPTION, *parts]}]}


def heard(images):
    parts = [{"type": "input_audio", "input_audio": {"data": image, "format": "wav"}} for image in images]
    return "/v1/chat/completions", {"model": "C", "messages": [{"role": "user", "content": [CAPTION, *parts]}]}


def responses(images):
    parts = [{"type": "input_image", "image_url": f"data:image/png;base64,{image}"} for image in images]
    return "/v1/responses", {"model": "C", "input": [{"role": "user", "content": parts}]}


def anthropic(images):
    blocks = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": image}} for image in images
    ]
    return "/v1/messages", {"model": "C", "max_tokens": 5, "messages": [{"role": "user", "content": blocks}]}


def tool_result(images):
    path, body = anthropic(images)
    result = {"type": "tool_result", "tool_use_id": "a", "content": body["messages"][0]["content"]}
    return path, {**body, "messages": [{"role": "user", "content": [result, CAPTION]}]}


@pytest.mark.parametrize("ask", [native, generate, openai, heard, responses, anthropic, tool_result])
@pytest.mark.parametrize(
    ("images", "text"),
    [
        ([encoded(png())], '"C" does not support images'),  # nothing wrong with it but the model
        ([encoded(png(2**14, 2**14))], "must be between 1 and 67108864 pixels"),
        ([encoded(b"hi")], "not a readable image"),
        ([encoded(png())] * 101, "at most 100"),
        (["A" * 30_000_000], "more than 20971520 bytes"),
    ],
)
async def test_bounds_hold_before_the_model_is_asked(ask, images, text):
    path, body = ask(images)
    server = make_server(settings=FakeSettings(max_body_bytes=2**26))
    response = await server.post(path, body)
    assert (response.status_code, text in response.text.replace('\\"', '"')) == (400, True), response.text[:300]
    assert not server.runners.loads
