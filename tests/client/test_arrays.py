"""Arrays over the wire: exact both ways, and nothing decoded that does not say its true size."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from streamdgp.errors import InvalidFrameError, InvalidInputError
from streamdgp.v1 import common_pb2
from streamdgp.wire import MAX_ARRAY_BYTES, decode_array, encode_array
from streamdgp.wire._arrays import EncodingName

DTYPES = ("uint8", "uint16", "int16", "int32", "int64", "uint64", "float32", "float64")


def decode(message: common_pb2.Array, **rules: Any) -> npt.NDArray[Any]:
    return decode_array(message, "depth", **{"dtypes": DTYPES, "ndims": (1, 2, 3, 4), **rules})


def png_message(data: bytes, shape: tuple[int, ...] = (6, 5)) -> common_pb2.Array:
    return common_pb2.Array(
        dtype=common_pb2.DATA_TYPE_UINT16, shape=shape, encoding=common_pb2.ARRAY_ENCODING_PNG, data=data
    )


@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(0, 7), min_size=1, max_size=4),
    encoding=st.sampled_from(("raw", "blosc")),
    content=st.binary(min_size=8, max_size=64),
)
def test_arrays_come_back_bit_for_bit(
    dtype: str, shape: list[int], encoding: EncodingName, content: bytes
) -> None:
    array = np.resize(np.frombuffer(content, np.uint8), (*shape, np.dtype(dtype).itemsize)).view(dtype)[
        ..., 0
    ]
    back = decode(encode_array(array, encoding))
    assert back.dtype == array.dtype
    assert back.shape == tuple(shape)
    assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "image",
    [
        np.arange(35, dtype=np.uint16).reshape(5, 7) * 1771,
        np.arange(35, dtype=np.uint8).reshape(5, 7),
        np.arange(105, dtype=np.uint8).reshape(5, 7, 3),
    ],
)
def test_images_come_back_from_png(image: npt.NDArray[Any]) -> None:
    back = decode(encode_array(image, "png"))
    assert back.dtype == image.dtype
    np.testing.assert_array_equal(back, image)


def test_a_strided_big_endian_array_is_sent_as_what_it_means() -> None:
    array = np.arange(20, dtype=">f4")[::2]
    np.testing.assert_array_equal(decode(encode_array(array)), array)


@pytest.mark.parametrize("array", [np.zeros(3, np.complex64), np.float32(1), np.zeros((1,) * 5)])
def test_what_the_contract_has_no_name_for_is_not_encoded(array: npt.NDArray[Any]) -> None:
    with pytest.raises(InvalidInputError, match="an array of 1 to 4 axes"):
        encode_array(array)


def test_points_do_not_fit_into_a_png() -> None:
    with pytest.raises(InvalidInputError, match=r"got float32 \(4, 3\)"):
        encode_array(np.zeros((4, 3), np.float32), "png")


@pytest.mark.parametrize("encoding", ["raw", "blosc", "png"])
def test_a_shape_beyond_the_limit_is_refused_by_its_size_alone(encoding: EncodingName) -> None:
    message = encode_array(np.zeros((4, 4), np.uint16), encoding)
    message.shape[:] = [1_000_000, 1_000_000]
    with pytest.raises(InvalidFrameError, match=f"at most {MAX_ARRAY_BYTES} bytes; .* 2000000000000"):
        decode(message)


def test_a_blosc_bomb_is_refused_by_its_header() -> None:
    bomb = encode_array(np.zeros(50_000_000, np.uint8))
    assert len(bomb.data) < 1_000_000
    bomb.shape[:] = [100]
    with pytest.raises(InvalidFrameError, match=r"of 100 bytes .* got a header for 50000000 bytes"):
        decode(bomb)


def test_a_png_bomb_is_refused_by_its_header() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4000, 4000), np.uint16)).save(buffer, format="PNG")
    with pytest.raises(InvalidFrameError, match=r"\(6, 5\); got 4000x4000, 16 bit"):
        decode(png_message(buffer.getvalue()))


def test_a_png_whose_data_say_more_than_its_header_gives_the_declared_size() -> None:
    header = struct.pack(">IIBBBBB", 5, 6, 16, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(20_000_000))), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    assert decode(png_message(data)).shape == (6, 5)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_png_is_an_invalid_frame(share: float) -> None:
    image = np.random.default_rng(1).integers(0, 65536, (60, 50)).astype(np.uint16)
    data = encode_array(image, "png").data
    with pytest.raises(InvalidFrameError, match="depth as one PNG of uint16"):
        decode(png_message(data[: int(share * len(data))], (60, 50)))


@given(position=st.integers(0, 10_000), value=st.integers(0, 255), encoding=st.sampled_from(("blosc", "png")))
def test_a_damaged_buffer_is_an_invalid_frame_or_an_array_of_the_declared_size(
    position: int, value: int, encoding: EncodingName
) -> None:
    message = encode_array(np.arange(600, dtype=np.uint16).reshape(30, 20), encoding)
    data = bytearray(message.data)
    data[position % len(data)] = value
    message.data = bytes(data)
    message.ClearField("crc32c")
    with suppress(InvalidFrameError):
        assert decode(message).shape == (30, 20)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"shape": [5, 5]}, r"24 bytes|50 bytes"),
        ({"shape": [-1, 4]}, "axes"),
        ({"shape": []}, "axes"),
        ({"shape": [1, 1, 1, 1, 12]}, "axes"),
        ({"dtype": 0}, "of dtype"),
        ({"dtype": 99}, "of dtype"),
        ({"encoding": 0}, "with an encoding of"),
        ({"encoding": 99}, "got number 99"),
        ({"data": b"abc"}, "crc32c"),
        ({"crc32c": 1}, "crc32c 00000001"),
    ],
)
@pytest.mark.parametrize("encoding", ["raw", "blosc"])
def test_declarations_that_do_not_fit_are_refused(
    change: dict[str, Any], wanted: str, encoding: EncodingName
) -> None:
    message = encode_array(np.arange(12, dtype=np.uint16).reshape(3, 4), encoding)
    for name, value in change.items():
        if name == "shape":
            message.shape[:] = value
        else:
            setattr(message, name, value)
    with pytest.raises(InvalidFrameError, match=wanted) as caught:
        decode(message)
    assert caught.value.got
    assert caught.value.remedy


def test_the_receiver_says_which_dtypes_and_axes_it_takes() -> None:
    message = encode_array(np.zeros((3, 4), np.float64))
    with pytest.raises(InvalidFrameError, match="depth of dtype uint16 or float32; got float64"):
        decode(message, dtypes=("uint16", "float32"))
    with pytest.raises(InvalidInputError, match=r"of 2 axes, the last of length 3; got shape \(3, 4\)"):
        decode(message, ndims=(2,), last_axis=3, error=InvalidInputError)
