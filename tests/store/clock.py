"""Atlases as they are when the clock was ahead while they were written, and has been set right since."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

import icechunk

from streamdgp.store._dating import _with_time

_MICROSECOND = datetime.timedelta(microseconds=1)


def written_ahead(atlas: Path, ahead: datetime.timedelta) -> None:
    """Move the times of everything in an atlas that nobody has open, of files and within snapshots."""
    storage = icechunk.local_filesystem_storage(str(atlas / "icechunk"))
    for info in icechunk.Repository.open(storage).ancestry(branch="main"):
        path = atlas / "icechunk" / "snapshots" / info.id
        before_us = (info.written_at - datetime.datetime.fromtimestamp(0, datetime.UTC)) // _MICROSECOND
        path.write_bytes(_with_time(path, before_us, before_us + ahead // _MICROSECOND))
    for path in atlas.rglob("*"):
        stat = path.stat()
        moved_s = ahead.total_seconds()
        os.utime(path, (stat.st_atime + moved_s, stat.st_mtime + moved_s))
