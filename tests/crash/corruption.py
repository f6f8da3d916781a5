"""Damages to the files of a data directory: every kind of file, every class of bytes in it, every way.

A damage is a plan: which file, which bytes, what becomes of them. It is laid on a copy of an intact
directory.
"""

from __future__ import annotations

import itertools
import os
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["Damage", "copy_of", "every_damage", "kind_of", "lay_on"]

WAYS = ("flip", "zero", "truncate")
"""What may befall a class of bytes; whole files are extended, deleted and exchanged."""
_GARBAGE_BYTES = 777
_HEADER_FIELDS = (("magic", 4), ("meta length", 4), ("payload length", 4), ("meta crc", 4))
_HEADER_FIELDS += (("payload crc", 4), ("position", 8), ("header crc", 4))
_META_FIELDS = (("kind", 1), ("producer length", 1), ("source length", 2), ("epoch", 8))
_META_FIELDS += (("sequence number", 8), ("source checksum", 8))
_SEALED = (("magic", 8), ("number", 8), ("crc", 4))
_OBJECT = (("magic", 12), ("writer", 24), ("version", 1), ("type", 1), ("compression", 1))


@dataclass(frozen=True)
class Damage:
    """What happens to one file (or two, when they are exchanged)."""

    kind: str
    path: str
    part: str
    way: str
    start: int = 0
    stop: int = 0
    other: str = ""

    def __str__(self) -> str:
        return f"{self.way} {self.part or 'file'} of {self.kind} {self.path} {self.other}".rstrip()


def kind_of(path: str) -> str:
    """The kind of a file by its path within the data directory; empty for what is none of ours."""
    parts = path.split("/")
    if parts[-1] == "LOCK":
        return "LOCK"
    if len(parts) < 3 or parts[0] != "scenes":
        return ""
    match parts[2:]:
        case ["scene.json"]:
            return "scene.json"
        case ["log", "DURABLE"]:
            return "DURABLE"
        case ["log", name] if name.endswith(".seg"):
            return "segment"
        case ["atlas", "SYNCED"]:
            return "SYNCED"
        case ["atlas", "snapshots.kept", _]:
            return "kept snapshot"
        case ["atlas", "icechunk", "refs", *_]:
            return "ref"
        case ["atlas", "icechunk", folder, _]:
            return folder.removesuffix("s")
    return ""


def every_damage(data: Path, seed: int) -> Iterator[Damage]:
    """All damages to a data directory; ``seed`` chooses the bit or run within each class of bytes."""
    rng = np.random.default_rng(seed)
    files = sorted(str(path.relative_to(data)) for path in data.rglob("*") if path.is_file())
    by_kind: dict[str, list[str]] = {}
    for path in files:
        by_kind.setdefault(kind_of(path), []).append(path)
    unknown = by_kind.pop("", [])
    assert not unknown, f"files of no known kind: {unknown}"
    for kind, paths in by_kind.items():
        for path in paths:
            size = (data / path).stat().st_size
            for part, start, stop in _parts(kind, (data / path).read_bytes()):
                for way in WAYS:
                    at = int(rng.integers(start, stop)) if way == "flip" else start
                    yield Damage(kind, path, part, way, at, stop)
            yield Damage(kind, path, "", "extend", size)
            yield Damage(kind, path, "", "delete")
            others = [other for other in paths if other != path]
            if others:
                yield Damage(kind, path, "", "exchange", other=others[int(rng.integers(len(others)))])


def lay_on(data: Path, damage: Damage) -> bool:
    """Damage a file; whether anything is different now."""
    path = data / damage.path
    content = bytearray(path.read_bytes())
    before = bytes(content)
    match damage.way:
        case "flip":
            content[damage.start] ^= 1 << (damage.start % 8)
        case "zero":
            content[damage.start : damage.stop] = bytes(damage.stop - damage.start)
        case "truncate":
            del content[damage.start :]
        case "extend":
            content += os.urandom(_GARBAGE_BYTES)
        case "delete":
            path.unlink()
            return True
        case "exchange":
            other = data / damage.other
            content = bytearray(other.read_bytes())
            other.write_bytes(before)
    path.write_bytes(content)
    return bytes(content) != before


def copy_of(data: Path, target: Path) -> Path:
    """A copy to damage."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(data, target)
    return target


def _parts(kind: str, content: bytes) -> Iterator[tuple[str, int, int]]:
    """The classes of bytes of a file: name, start, stop."""
    match kind:
        case "segment":
            yield from _segment(content)
        case "DURABLE":
            yield from _fields("", 0, _SEALED)
        case "chunk":
            yield from _thirds("", 0, len(content))
        case "kept snapshot" | "snapshot" | "manifest" | "transaction":
            yield from _fields("", 0, _OBJECT)
            yield from _thirds("body ", sum(size for _, size in _OBJECT), len(content))
        case _:
            yield from _thirds("", 0, len(content))


def _segment(content: bytes) -> Iterator[tuple[str, int, int]]:
    yield from _fields("segment ", 0, _SEALED)
    at = sum(size for _, size in _SEALED)
    while at < len(content):
        _, meta_bytes, payload_bytes, _, _, _, _ = struct.unpack_from("<4sIIIIQI", content, at)
        meta_at = at + 32
        name = _RECORDS[content[meta_at]]
        yield from _fields(f"{name}: ", at, _HEADER_FIELDS)
        yield from _fields(f"{name}: ", meta_at, _META_FIELDS)
        names_at = meta_at + sum(size for _, size in _META_FIELDS)
        payload_at = meta_at + meta_bytes
        yield f"{name}: names", names_at, payload_at
        if payload_bytes:
            yield from _thirds(f"{name}: payload ", payload_at, payload_at + payload_bytes)
        at = payload_at + payload_bytes


_RECORDS = {1: "frame", 2: "rejection", 3: "epoch", 4: "dropped frame"}


def _fields(prefix: str, at: int, fields: tuple[tuple[str, int], ...]) -> Iterator[tuple[str, int, int]]:
    for name, size in fields:
        yield prefix + name, at, at + size
        at += size


def _thirds(prefix: str, start: int, stop: int) -> Iterator[tuple[str, int, int]]:
    cuts = [start + (stop - start) * k // 3 for k in range(4)]
    for name, (at, end) in zip(("head", "middle", "tail"), itertools.pairwise(cuts), strict=True):
        if at < end:
            yield prefix + name, at, end
