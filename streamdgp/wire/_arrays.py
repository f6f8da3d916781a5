"""``Array`` messages to and from numpy.

A decoder that trusts what it reads turns a few bytes into gigabytes. So the size is computed from
the declared dtype and shape, refused when absurd, and compared with the codec's own header; only
then is anything decoded, straight into a buffer of that size.
"""

from __future__ import annotations

import io
import math
import struct
import sys
from collections.abc import Collection
from typing import Any, Final, Literal

import google_crc32c
import numpy as np
import numpy.typing as npt
from numcodecs import blosc
from PIL import Image

from streamdgp.errors import InvalidFrameError, InvalidInputError
from streamdgp.frames.types import MAX_SAMPLES_PER_FRAME
from streamdgp.v1 import common_pb2

__all__ = ["MAX_ARRAY_BYTES", "EncodingName", "decode_array", "encode_array"]

EncodingName = Literal["raw", "blosc", "png"]

MAX_ARRAY_BYTES: Final = 12 * MAX_SAMPLES_PER_FRAME
"""Largest decoded array: the points of the largest frame."""

_MAX_AXES: Final = 4
_DTYPES: Final[dict[int, np.dtype[Any]]] = {
    common_pb2.DATA_TYPE_UINT8: np.dtype("u1"),
    common_pb2.DATA_TYPE_UINT16: np.dtype("<u2"),
    common_pb2.DATA_TYPE_INT16: np.dtype("<i2"),
    common_pb2.DATA_TYPE_INT32: np.dtype("<i4"),
    common_pb2.DATA_TYPE_INT64: np.dtype("<i8"),
    common_pb2.DATA_TYPE_UINT64: np.dtype("<u8"),
    common_pb2.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    common_pb2.DATA_TYPE_FLOAT64: np.dtype("<f8"),
}
_TYPE_OF: Final = {dtype: common_pb2.DataType.ValueType(number) for number, dtype in _DTYPES.items()}
_ENCODING_OF: Final = {
    "raw": common_pb2.ARRAY_ENCODING_RAW,
    "blosc": common_pb2.ARRAY_ENCODING_BLOSC_ZSTD_BITSHUFFLE,
    "png": common_pb2.ARRAY_ENCODING_PNG,
}
_BLOSC_HEADER: Final = struct.Struct(
    "<4B3I"
)  # version, codec version, flags, typesize, nbytes, blocksize, cbytes
_PNG_HEADER: Final = struct.Struct(
    ">8sI4sIIBB"
)  # signature, length, "IHDR", width, height, bit depth, colour type
_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_PNG_GREY, _PNG_RGB = 0, 2


def encode_array(array: npt.NDArray[Any], encoding: EncodingName = "blosc") -> common_pb2.Array:
    """Return the array as a message, lossless, with its checksum.

    Parameters
    ----------
    array
        Any shape of 1 to 4 axes; uint8, uint16, int16, int32, int64, uint64, float32 or float64.
    encoding
        ``blosc`` (zstd 1, bit shuffle: the default), ``raw``, or ``png`` (images of uint8 or
        uint16, colour of uint8).

    Raises
    ------
    InvalidInputError
        Another dtype or number of axes, or an image that a PNG cannot hold.
    """
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    data_type = _TYPE_OF.get(little.dtype)
    if data_type is None or not 1 <= array.ndim <= _MAX_AXES:
        raise InvalidInputError(
            f"an array of 1 to {_MAX_AXES} axes of {', '.join(str(d) for d in _TYPE_OF)}",
            f"{array.dtype} {array.shape}",
            "Convert it.",
        )
    if array.size == 0:
        data = b""
    elif encoding == "raw":
        data = little.tobytes()
    elif encoding == "png":
        data = _encode_png(little)
    else:
        data = bytes(blosc.compress(little.reshape(-1), b"zstd", 1, blosc.BITSHUFFLE))
    return common_pb2.Array(
        dtype=data_type,
        shape=array.shape,
        encoding=_ENCODING_OF[encoding],
        data=data,
        crc32c=google_crc32c.value(data),
    )


def decode_array(
    message: common_pb2.Array,
    what: str,
    *,
    dtypes: Collection[str],
    ndims: Collection[int],
    last_axis: int | None = None,
    max_bytes: int = MAX_ARRAY_BYTES,
    error: type[InvalidInputError] = InvalidFrameError,
) -> npt.NDArray[Any]:
    """Return the array of a message that came from outside.

    Parameters
    ----------
    message
        The message.
    what
        Name for messages, for example ``"depth"``.
    dtypes
        Names of the accepted dtypes, for example ``("uint16", "float32")``.
    ndims
        Accepted numbers of axes.
    last_axis
        Required length of the last axis.
    max_bytes
        Largest decoded size.
    error
        Class of the error.

    Returns
    -------
    numpy.ndarray
        Native byte order; may be read-only.

    Raises
    ------
    InvalidInputError
        (or ``error``) dtype, shape or encoding unknown or not accepted, too large, size of the data
        not what the shape declares, checksum wrong, or data that do not decode.
    """
    dtype = _declared_dtype(message, what, dtypes, error)
    shape = _declared_shape(message, what, ndims, last_axis, error)
    expected_bytes = math.prod(shape) * dtype.itemsize
    if expected_bytes > max_bytes:
        raise error(
            f"{what} of at most {max_bytes} bytes",
            f"{dtype} {shape}, that is {expected_bytes} bytes",
            "Send less at a time.",
        )
    if message.HasField("crc32c") and google_crc32c.value(message.data) != message.crc32c:
        raise error(
            f"{what} data with crc32c {message.crc32c:08x}",
            f"{google_crc32c.value(message.data):08x}",
            "It was damaged on the way or the checksum is of something else; send it again.",
        )
    decoders = {
        common_pb2.ARRAY_ENCODING_RAW: _decode_raw,
        common_pb2.ARRAY_ENCODING_BLOSC_ZSTD_BITSHUFFLE: _decode_blosc,
        common_pb2.ARRAY_ENCODING_PNG: _decode_png,
    }
    decode = decoders.get(message.encoding)
    if decode is None:
        raise error(
            f"{what} with an encoding of {sorted(_ENCODING_OF)}", f"number {message.encoding}", "Choose one."
        )
    if expected_bytes == 0 and not message.data:
        return np.empty(shape, dtype.newbyteorder("="))
    array = decode(message.data, dtype, shape, what, error)
    return array if sys.byteorder == "little" else array.astype(dtype.newbyteorder("="))


def _declared_dtype(
    message: common_pb2.Array, what: str, dtypes: Collection[str], error: type[InvalidInputError]
) -> np.dtype[Any]:
    dtype = _DTYPES.get(message.dtype)
    if dtype is None or dtype.name not in dtypes:
        got = f"number {message.dtype}" if dtype is None else dtype.name
        raise error(f"{what} of dtype {' or '.join(dtypes)}", got, "Convert it, or set dtype.")
    return dtype


def _declared_shape(
    message: common_pb2.Array,
    what: str,
    ndims: Collection[int],
    last_axis: int | None,
    error: type[InvalidInputError],
) -> tuple[int, ...]:
    shape = tuple(message.shape[: _MAX_AXES + 1])
    wrong_last = last_axis is not None and (not shape or shape[-1] != last_axis)
    if (
        len(message.shape) not in ndims
        or len(message.shape) > _MAX_AXES
        or wrong_last
        or min(shape, default=-1) < 0
    ):
        axes = " or ".join(str(n) for n in ndims)
        last = "" if last_axis is None else f", the last of length {last_axis}"
        raise error(f"{what} of {axes} axes{last}", f"shape {shape}", "Set shape to that of the array.")
    return shape


def _decode_raw(
    data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], what: str, error: type[InvalidInputError]
) -> npt.NDArray[Any]:
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise error(
            f"{what} of {expected} bytes ({dtype} {shape})",
            f"{len(data)} bytes",
            "Make shape and data agree.",
        )
    return np.frombuffer(data, dtype).reshape(shape)


def _decode_blosc(
    data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], what: str, error: type[InvalidInputError]
) -> npt.NDArray[Any]:
    expected = math.prod(shape) * dtype.itemsize
    wanted = f"{what} as one Blosc buffer of {expected} bytes ({dtype} {shape})"
    remedy = "Make shape and data agree, and send the whole buffer."
    if len(data) < _BLOSC_HEADER.size:
        raise error(wanted, f"{len(data)} bytes, too few for a header", remedy)
    *_, nbytes, _blocksize, cbytes = _BLOSC_HEADER.unpack_from(data)
    if nbytes != expected or cbytes != len(data):
        raise error(wanted, f"a header for {nbytes} bytes in {cbytes}, and {len(data)} bytes of data", remedy)
    array = np.empty(shape, dtype)
    try:
        blosc.decompress(data, array)
    except (RuntimeError, ValueError) as cause:
        raise error(wanted, f"data that do not decompress ({cause})", "Send it again.") from cause
    return array


def _png_layout(dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return bit depth and colour type of the PNG that holds such an array, None if none does."""
    if len(shape) == 2 and dtype in (np.dtype("u1"), np.dtype("<u2")):
        return 8 * dtype.itemsize, _PNG_GREY
    if len(shape) == 3 and shape[2] == 3 and dtype == np.dtype("u1"):
        return 8, _PNG_RGB
    return None


def _encode_png(array: npt.NDArray[Any]) -> bytes:
    if _png_layout(array.dtype, array.shape) is None:
        raise InvalidInputError(
            "for PNG (H, W) of uint8 or uint16, or (H, W, 3) of uint8",
            f"{array.dtype} {array.shape}",
            "Use the encoding 'blosc'.",
        )
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _decode_png(
    data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], what: str, error: type[InvalidInputError]
) -> npt.NDArray[Any]:
    layout = _png_layout(dtype, shape)
    wanted = f"{what} as one PNG of {dtype} {shape}"
    if layout is None:
        raise error(
            wanted, "a shape or dtype that PNG has not", "Send (H, W) uint8 or uint16, or (H, W, 3) uint8."
        )
    if len(data) < _PNG_HEADER.size or not data.startswith(_PNG_SIGNATURE):
        raise error(wanted, f"{len(data)} bytes that are no PNG", "Set the encoding to what the data are.")
    _, _, chunk, width, height, bit_depth, color_type = _PNG_HEADER.unpack_from(data)
    if chunk != b"IHDR" or (height, width) != shape[:2] or (bit_depth, color_type) != layout:
        got = f"{width}x{height}, {bit_depth} bit, colour type {color_type}"
        raise error(wanted, got, "Make shape, dtype and image agree.")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            array = np.asarray(image)
    except (OSError, SyntaxError, ValueError, struct.error) as cause:  # what Pillow raises for broken files
        raise error(wanted, f"a truncated or damaged PNG ({cause})", "Send the whole file again.") from cause
    return np.ascontiguousarray(array, dtype).reshape(shape)
