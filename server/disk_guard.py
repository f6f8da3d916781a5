"""Stops taking frames before a disk is full, and goes on when there is room again."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

__all__ = ["DiskGuard"]

_LOGGER = logging.getLogger(__name__)
_MOST_MARGIN_BYTES = 50_000_000


class DiskGuard:
    """Watches the free space of the disk that holds a directory. Any thread.

    Parameters
    ----------
    min_free_bytes
        With less than this free there is no room; there is again with a tenth (at most 50 MB) more. 0: not
        watched. What is left is for commits, which free space in their turn.
    """

    def __init__(self, directory: Path, min_free_bytes: int) -> None:
        self._directory = directory
        self._min_free_bytes = min_free_bytes
        self._resume_bytes = min_free_bytes + min(min_free_bytes // 10, _MOST_MARGIN_BYTES)
        self.is_full = False

    def has_room(self) -> bool:
        """Whether frames may be written."""
        if not self._min_free_bytes:
            return True
        free = shutil.disk_usage(self._directory).free
        wanted = self._resume_bytes if self.is_full else self._min_free_bytes
        if (free < wanted) != self.is_full:
            self.is_full = not self.is_full
            _LOGGER.warning(
                "%s has %d MB free: %s",
                self._directory,
                free // 10**6,
                f"no frames are taken until there are {self._resume_bytes / 1e6:.0f} MB"
                if self.is_full
                else "frames are taken again",
            )
        return not self.is_full
