"""The times of snapshots, when the clock has been set back by more than a commit can wait for.

Icechunk takes no commit that is older than the one before it. A machine that booted with a clock ahead of
time, and then learned the right one, could not commit again until the clock had caught up. So the snapshots
that lie in the future are dated back: just below now, in their order. What they hold stays as it is.
"""

from __future__ import annotations

import datetime
import logging
import struct
import time
from collections.abc import Sequence
from pathlib import Path

import icechunk
import numcodecs

from streamdgp.errors import StorageError
from streamdgp.store._durable import replace_durably

__all__ = ["ClockWatch", "date_back", "date_back_snapshots"]

_LOGGER = logging.getLogger(__name__)
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)
_MAGIC = "ICE🧊CHUNK".encode()
_HEADER_BYTES = 39  # magic, name of the writer, versions; the last byte says whether zstd follows
_ZSTD = 1
_JUMP_S = 0.001


class ClockWatch:
    """Tells whether the clock was set since this object was made."""

    def __init__(self) -> None:
        self._offset_s = time.time() - time.monotonic()

    def was_set(self) -> bool:
        """Whether wall clock and monotonic clock have moved apart."""
        return abs(time.time() - time.monotonic() - self._offset_s) > _JUMP_S


def date_back(times_us: Sequence[int], now_us: int) -> list[int]:
    """Times, oldest first, all before now and each after the one before; only the newest may change."""
    dated = list(times_us)
    limit = now_us
    for index in range(len(dated) - 1, -1, -1):
        if dated[index] < limit:
            break
        limit -= 1
        dated[index] = limit
    return dated


def date_back_snapshots(repository: icechunk.Repository, branch: str, atlas: Path) -> None:
    """Date the snapshots of a branch back that lie in the future.

    The repository must be opened again after that: it remembers snapshots. Killed in between, the newest one
    is still in the future, so that the next call does the rest.

    Raises
    ------
    StorageError
        A snapshot is not written as this release of Icechunk writes it.
    OSError
        The disk refused.
    icechunk.IcechunkError
        The history cannot be read.
    """
    now_us = (datetime.datetime.now(datetime.UTC) - _EPOCH) // _MICROSECOND
    history = list(repository.ancestry(branch=branch))[::-1]
    times_us = [_microseconds(info.written_at) for info in history]
    changed = 0
    for info, before_us, after_us in zip(history, times_us, date_back(times_us, now_us), strict=True):
        if before_us != after_us:
            path = atlas / "icechunk" / "snapshots" / info.id
            replace_durably(path, _with_time(path, before_us, after_us))
            changed += 1
    _LOGGER.warning(
        "the clock has been set back by %.1f s: the times of %d snapshots in %s were, too",
        *((times_us[-1] - now_us) / 1e6, changed, atlas),
    )


def _microseconds(moment: datetime.datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _with_time(path: Path, before_us: int, after_us: int) -> bytes:
    """The content of a snapshot file with another time."""
    content = path.read_bytes()
    header, body = content[:_HEADER_BYTES], content[_HEADER_BYTES:]
    is_packed = header[-1] == _ZSTD
    if header.startswith(_MAGIC):
        plain = bytes(numcodecs.Zstd().decode(body)) if is_packed else body
        wanted = struct.pack("<Q", before_us)
        if plain.count(wanted) == 1:  # eight bytes that occur once: that is the time
            plain = plain.replace(wanted, struct.pack("<Q", after_us))
            return header + (bytes(numcodecs.Zstd(level=3).encode(plain)) if is_packed else plain)
    raise StorageError(
        f"a clock past the newest commit in {path.parents[2]}, or snapshots whose time can be changed",
        f"a clock {(before_us - after_us) / 1e6:.0f} s before it, and another format in {path.name}",
        "Set the clock right.",
    )
