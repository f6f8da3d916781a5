"""Vertices of PLY files (ASCII, binary), and the range grids that Stanford's scans add to them.

Strict: a file that ends early, or that holds more than its header says, is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from streamdgp.errors import DatasetError

__all__ = ["PlyFile", "read_ply"]

_TYPES: Final = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1",
    "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
_BYTE_ORDER: Final = {"binary_little_endian": "<", "binary_big_endian": ">"}
_MAX_HEADER_BYTES: Final = 65536
_MAX_VERTICES: Final = 200_000_000


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    scalars: tuple[tuple[str, str], ...]
    lists: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class PlyFile:
    """What was read: vertex properties by name, each (N,), ``obj_info`` lines, the range grid.

    ``range_grid`` is (cells,) int64 with the vertex of each cell, -1 for none; None without one.
    """

    vertex: dict[str, npt.NDArray[np.generic]]
    info: dict[str, str]
    range_grid: npt.NDArray[np.int64] | None

    def columns(self, *names: str) -> npt.NDArray[np.float32] | None:
        """The named properties as (N, len(names)) float32, or None where one is missing."""
        if not all(name in self.vertex for name in names):
            return None
        return np.stack([self.vertex[name].astype(np.float32) for name in names], axis=-1)


def _broken(path: Path, wanted: str, got: str) -> DatasetError:
    return DatasetError(f"{wanted} in {path}", got, "The file is truncated or damaged: copy it again.")


def _parse_header(data: bytes, path: Path) -> tuple[str, list[_Element], dict[str, str], int]:
    """Format, elements, ``obj_info`` and the offset of the body."""
    end = data.find(b"end_header", 0, _MAX_HEADER_BYTES)
    newline = data.find(b"\n", end)
    if not data.startswith((b"ply\n", b"ply\r\n")) or end < 0 or newline < 0:
        raise _broken(path, "a PLY header from 'ply' to 'end_header'", f"{data[:16]!r}...")
    form, elements, info = "", [], {}
    for line in data[:end].decode("latin-1").splitlines()[1:]:
        words = line.split()
        try:
            if not words or words[0] == "comment":
                continue
            if words[0] == "format":
                form = words[1]
            elif words[0] == "obj_info":
                info[words[1] if len(words) > 1 else ""] = " ".join(words[2:])
            elif words[0] == "element":
                elements.append(_Element(words[1], int(words[2]), (), ()))
            elif words[0] == "property" and words[1] == "list":
                e = elements[-1]
                item = (words[4], _TYPES[words[2]], _TYPES[words[3]])
                elements[-1] = _Element(e.name, e.count, e.scalars, (*e.lists, item))
            elif words[0] == "property":
                e = elements[-1]
                elements[-1] = _Element(e.name, e.count, (*e.scalars, (words[2], _TYPES[words[1]])), e.lists)
            else:
                raise KeyError(words[0])
        except (KeyError, IndexError, ValueError) as error:
            raise _broken(path, "PLY header lines", repr(line)) from error
    if form != "ascii" and form not in _BYTE_ORDER:
        raise _broken(path, f"PLY format ascii, {', '.join(_BYTE_ORDER)}", repr(form))
    return form, elements, info, newline + 1


def _check_vertex_element(elements: list[_Element], path: Path) -> _Element:
    if not elements or elements[0].name != "vertex" or elements[0].lists or not elements[0].scalars:
        names = ", ".join(element.name for element in elements)
        raise DatasetError(
            f"a PLY {path} whose first element is 'vertex', of plain numbers",
            f"elements {names}",
            "Rewrite the file.",
        )
    if not 0 <= elements[0].count <= _MAX_VERTICES:
        raise DatasetError(
            f"0 to {_MAX_VERTICES} vertices in {path}", str(elements[0].count), "Split the cloud into frames."
        )
    return elements[0]


def _read_ascii(
    body: bytes, elements: list[_Element], path: Path
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64] | None]:
    lines = body.decode("latin-1").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    wanted = sum(element.count for element in elements)
    if len(lines) != wanted:
        raise _broken(path, f"{wanted} rows after the header", f"{len(lines)} rows")
    vertex = elements[0]
    try:
        values = np.array(" ".join(lines[: vertex.count]).split(), dtype=np.float64)
    except ValueError as error:
        raise _broken(path, "vertex rows of numbers", str(error)) from error
    width = len(vertex.scalars)
    # Compared row by row only for the two ends: a row cut short shifts all that follow.
    if values.size != vertex.count * width or (lines and len(lines[vertex.count - 1].split()) != width):
        raise _broken(path, f"{vertex.count} vertex rows of {width} numbers", f"{values.size} numbers")
    grid = None
    start = vertex.count
    for element in elements[1:]:
        if element.name == "range_grid":
            grid = _parse_range_grid(lines[start : start + element.count], vertex.count, path)
        start += element.count
    return values.reshape(-1, width), grid


def _parse_range_grid(lines: list[str], vertex_count: int, path: Path) -> npt.NDArray[np.int64]:
    """Vertex of each cell, from rows '0' or '1 index'."""
    cells = [line.split() for line in lines]
    try:
        grid = np.array([int(words[1]) if words[0] == "1" else -1 for words in cells], dtype=np.int64)
    except (ValueError, IndexError) as error:
        raise _broken(path, "range grid rows '0' or '1 index'", str(error)) from error
    if any(words not in (["0"], ["1", words[-1]]) for words in cells) or (
        grid.size and grid.max() >= vertex_count
    ):
        raise _broken(path, f"range grid rows '0' or '1 index' with index below {vertex_count}", "others")
    return grid


def _read_binary(body: bytes, elements: list[_Element], order: str, path: Path) -> npt.NDArray[np.void]:
    dtype = np.dtype([(name, order + code) for name, code in elements[0].scalars])
    # Lists take at least their counts: catches a file cut anywhere before its last list values.
    least = sum(
        element.count
        * sum(
            np.dtype(code).itemsize
            for code in [t for _, t in element.scalars] + [c for _, c, _ in element.lists]
        )
        for element in elements
    )
    has_lists = any(element.lists for element in elements)
    if len(body) < least or (not has_lists and len(body) != least):
        raise _broken(
            path, f"{'at least ' if has_lists else ''}{least} bytes after the header", f"{len(body)} bytes"
        )
    return np.frombuffer(body, dtype=dtype, count=elements[0].count)


def read_ply(path: Path) -> PlyFile:
    """Read the vertices (and the range grid, if any) of a PLY file.

    Raises
    ------
    DatasetError
        Missing, truncated, longer than its header says, or malformed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"a readable file {path}", str(error), "Restore it.") from error
    form, elements, info, start = _parse_header(data, path)
    vertex = _check_vertex_element(elements, path)
    body = data[start:]
    if form == "ascii":
        values, grid = _read_ascii(body, elements, path)
        columns = {name: values[:, k].astype(code) for k, (name, code) in enumerate(vertex.scalars)}
        return PlyFile(columns, info, grid)
    if any(element.name == "range_grid" for element in elements):
        raise DatasetError(f"a range grid in ASCII in {path}", form, "Convert the file to ASCII.")
    rows = _read_binary(body, elements, _BYTE_ORDER[form], path)
    return PlyFile({name: rows[name] for name, _ in vertex.scalars}, info, None)
