"""Chunks of columns as zarr writes them, to the byte, without a task and a change of threads for each.

Zarr encodes and stores each chunk in tasks of its own, which takes longer than the packing itself, and a
commit competes with the fitting for the processors. What arrays are, and all reading, is left to zarr.
"""

from __future__ import annotations

import asyncio
import struct
from functools import cache
from typing import Any, Literal

import google_crc32c
import numpy as np
import numpy.typing as npt
import zarr
from numcodecs.blosc import Blosc
from zarr.codecs import BloscCodec, BloscShuffle, BytesCodec, Crc32cCodec
from zarr.core.buffer import default_buffer_prototype

__all__ = ["compressors", "encode_chunk", "has_our_codecs", "write_chunk"]

_LEVEL = 1
_OURS = (BytesCodec, BloscCodec, Crc32cCodec)
# Columns whose values are mostly one of a few: whole bytes repeat more than their bits do.
_FEW_VALUES = frozenset({"support", "last_frame"})


def compressors(dtype: np.dtype[Any], column: str = "") -> list[BloscCodec | Crc32cCodec]:
    """zstd behind a shuffle: values of a page share their high bytes; bytes, voxels and weights high bits.

    The lowest level: a commit competes with the fitting for the processors, and level 5 takes six times as
    long for a twentieth less.
    """
    by_bits = dtype.itemsize == 1 or dtype == np.int32 or dtype == np.float16
    shuffle: Literal["shuffle", "bitshuffle"] = "shuffle"
    if by_bits and column not in _FEW_VALUES:
        shuffle = "bitshuffle"
    return [
        BloscCodec(cname="zstd", clevel=_LEVEL, shuffle=shuffle, typesize=dtype.itemsize),
        Crc32cCodec(),
    ]


def has_our_codecs(array: zarr.Array[Any]) -> bool:
    """Whether an array's chunks are what ``encode_chunk`` makes."""
    return tuple(type(codec) for codec in getattr(array.metadata, "codecs", ())) == _OURS


def encode_chunk(values: npt.NDArray[Any], rows: int, codec: BloscCodec) -> bytes:
    """The bytes of a chunk of so many rows that starts with these; the others are zero."""
    little = values.dtype.newbyteorder("<")
    whole = np.ascontiguousarray(values, little)
    if len(values) < rows:
        whole = np.zeros((rows, *values.shape[1:]), little)
        whole[: len(values)] = values
    packed: bytes = _packer(codec).encode(whole)
    return packed + struct.pack("<I", google_crc32c.value(packed))


async def write_chunk(
    array: zarr.AsyncArray[Any], page: int, values: npt.NDArray[Any], room: asyncio.Semaphore
) -> None:
    """Store a page of an array, or the part of it that has rows yet, once there is room for it."""
    key = array.metadata.encode_chunk_key((page, *(0 for _ in values.shape[1:])))
    (codec,) = (codec for codec in array.metadata.codecs if isinstance(codec, BloscCodec))
    async with room:
        data = encode_chunk(values, array.chunks[0], codec)
        await (array.store_path / key).set(default_buffer_prototype().buffer.from_bytes(data))


def _packer(codec: BloscCodec) -> Blosc:
    """What packs as zarr does for an array that was made with this codec."""
    shuffle = Blosc.BITSHUFFLE if codec.shuffle is BloscShuffle.bitshuffle else Blosc.SHUFFLE
    return _blosc(codec.cname.value, codec.clevel, shuffle, codec.typesize)


@cache
def _blosc(name: str, level: int, shuffle: int, typesize: int) -> Blosc:
    return Blosc(name, level, shuffle, typesize=typesize)
