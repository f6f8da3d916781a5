"""PCD point clouds (ASCII, binary, LZF-compressed), read strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from streamdgp.errors import DatasetError

__all__ = ["read_pcd"]

_KINDS: Final = {"F": "f", "I": "i", "U": "u"}
_MAX_BYTES: Final = 2 << 30


def _broken(path: Path, wanted: str, got: str) -> DatasetError:
    return DatasetError(f"{wanted} in {path}", got, "The file is truncated or damaged: copy it again.")


def _lzf_decompress(data: bytes, size: int, path: Path) -> bytes:
    """LZF as PCL writes it; output must be exactly ``size`` bytes."""
    out = bytearray()
    position = 0
    try:
        while position < len(data):
            control = data[position]
            position += 1
            if control < 32:
                out += data[position : position + control + 1]
                position += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += data[position]
                position += 1
            start = len(out) - ((control & 0x1F) << 8) - data[position] - 1
            position += 1
            length += 2
            if start < 0 or len(out) + length > size:
                raise _broken(path, f"{size} compressed bytes", "a reference outside them")
            chunk = out[start : start + length]
            while len(chunk) < length:
                chunk += chunk[: length - len(chunk)]
            out += chunk
    except IndexError as error:
        raise _broken(path, "whole LZF data", "an early end") from error
    if len(out) != size or position != len(data):
        raise _broken(path, f"{size} bytes after decompression", f"{len(out)} bytes")
    return bytes(out)


def _parse_header(data: bytes, path: Path) -> tuple[dict[str, list[str]], int]:
    header: dict[str, list[str]] = {}
    position = 0
    while "DATA" not in header:
        end = data.find(b"\n", position, position + 4096)
        if end < 0:
            raise _broken(path, "a PCD header that ends with DATA", f"{data[:24]!r}...")
        words = data[position:end].decode("latin-1").split("#", 1)[0].split()
        if words:
            header[words[0]] = words[1:]
        position = end + 1
    return header, position


def _row_dtype(header: dict[str, list[str]], path: Path) -> np.dtype[np.void]:
    try:
        fields, sizes, kinds = header["FIELDS"], header["SIZE"], header["TYPE"]
        counts = [int(count) for count in header.get("COUNT", ["1"] * len(fields))]
        parts: list[tuple[str, str, tuple[int, ...]]] = []
        for k, (name, size, kind, count) in enumerate(zip(fields, sizes, kinds, counts, strict=True)):
            unique = f"{name}_{k}" if name == "_" else name  # "_" pads, and may come several times
            parts.append((unique, f"<{_KINDS[kind]}{size}", () if count == 1 else (count,)))
        return np.dtype(parts)
    except (KeyError, ValueError, TypeError) as error:
        raise _broken(path, "FIELDS, SIZE, TYPE and COUNT of equal length", str(error)) from error


def read_pcd(path: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """Points (N, 3), or (H, W, 3) where the cloud is organised, and normals of that shape or None.

    ``VIEWPOINT`` is not used: tools disagree on whether the points are already moved by it.

    Raises
    ------
    DatasetError
        Missing, truncated, without x y z, or malformed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"a readable file {path}", str(error), "Restore it.") from error
    header, start = _parse_header(data, path)
    dtype = _row_dtype(header, path)
    try:
        width, height = int(header["WIDTH"][0]), int(header["HEIGHT"][0])
        points = int(header["POINTS"][0]) if "POINTS" in header else width * height
        encoding = header["DATA"][0]
    except (KeyError, IndexError, ValueError) as error:
        raise _broken(path, "WIDTH, HEIGHT, POINTS and DATA", str(error)) from error
    size = points * dtype.itemsize
    if min(width, height) < 0 or points != width * height or size > _MAX_BYTES:
        raise _broken(path, "POINTS = WIDTH × HEIGHT of a plausible size", f"{points}, {width} × {height}")
    body = data[start:]
    if encoding == "ascii":
        rows = _read_ascii(body, dtype, points, path)
    elif encoding == "binary":
        if len(body) != size:
            raise _broken(path, f"{size} bytes of points", f"{len(body)} bytes")
        rows = np.frombuffer(body, dtype=dtype)
    elif encoding == "binary_compressed":
        rows = _read_compressed(body, dtype, points, path)
    else:
        raise _broken(path, "DATA ascii, binary or binary_compressed", repr(encoding))
    shape = (height, width, 3) if height > 1 else (points, 3)
    xyz, normals = (
        _columns(rows, names, shape) for names in (("x", "y", "z"), ("normal_x", "normal_y", "normal_z"))
    )
    if xyz is None:
        raise DatasetError(f"fields x y z in {path}", " ".join(header["FIELDS"]), "Export the coordinates.")
    return xyz, normals


def _columns(
    rows: npt.NDArray[np.void], names: tuple[str, ...], shape: tuple[int, ...]
) -> npt.NDArray[np.float32] | None:
    if not set(names) <= set(rows.dtype.names or ()):
        return None
    return np.stack([rows[name].astype(np.float32) for name in names], axis=-1).reshape(shape)


def _read_ascii(body: bytes, dtype: np.dtype[np.void], points: int, path: Path) -> npt.NDArray[np.void]:
    names = dtype.names or ()
    widths = [int(np.prod(dtype[name].shape, dtype=int)) for name in names]
    try:
        values = np.array(body.decode("latin-1").split(), dtype=np.float64)
    except ValueError as error:
        raise _broken(path, "rows of numbers", str(error)) from error
    if values.size != points * sum(widths):
        raise _broken(path, f"{points} rows of {sum(widths)} numbers", f"{values.size} numbers")
    table = values.reshape(points, sum(widths))
    rows = np.zeros(points, dtype=dtype)
    for name, width, end in zip(names, widths, np.cumsum(widths), strict=True):
        rows[name] = table[:, end - width : end].reshape(rows[name].shape)
    return rows


def _read_compressed(body: bytes, dtype: np.dtype[np.void], points: int, path: Path) -> npt.NDArray[np.void]:
    """Fields lie one after the other, not interleaved."""
    if len(body) < 8:
        raise _broken(path, "the sizes of the compressed data", f"{len(body)} bytes")
    packed, unpacked = (int(value) for value in np.frombuffer(body, dtype="<u4", count=2))
    if unpacked != points * dtype.itemsize or len(body) < 8 + packed:
        raise _broken(
            path, f"{points * dtype.itemsize} bytes of points in {packed}", f"{unpacked} in {len(body) - 8}"
        )
    data = _lzf_decompress(body[8 : 8 + packed], unpacked, path)
    rows = np.zeros(points, dtype=dtype)
    offset = 0
    for name in dtype.names or ():
        field = np.frombuffer(data, dtype=dtype[name].base, count=rows[name].size, offset=offset)
        rows[name] = field.reshape(rows[name].shape)
        offset += field.nbytes
    return rows
