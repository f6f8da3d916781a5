"""What commits have written and nobody has read back from disk yet."""

from __future__ import annotations

import time
from pathlib import Path

from streamdgp.store._contents import UnreadableError, read_back
from streamdgp.store._digests import Digests
from streamdgp.store._history import RevisionInfo
from streamdgp.store._reading import damaged

__all__ = ["Unproven"]


class Unproven:
    """Digests of the pages that the commits of one atlas have written, until they are read back."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pages: dict[int, Digests] = {}  # by the revision that wrote them
        self._since_s = time.time()

    def note(self, revision: int, pages: Digests, started_s: float) -> None:
        """After a commit that wrote these pages from a time on, as the clock stood then."""
        self._pages[revision] = pages
        # A clock that was set back gives younger files older times.
        self._since_s = min(self._since_s, started_s, time.time())

    def forget(self) -> None:
        """After a revision was given up: what others wrote is read whole when the atlas is opened."""
        self._pages.clear()

    def read_back(self, info: RevisionInfo) -> None:
        """Read from disk what was written up to a revision, as that revision has it.

        Raises
        ------
        StorageError
            A page is not what was written; all are looked at again the next time.
        """
        numbers = sorted(number for number in self._pages if number <= info.revision)
        if not numbers:
            return
        pages = {key: page for number in numbers for key, page in self._pages[number].items()}
        started_s, where = time.time(), f"revision {info.revision}"
        try:
            read_back(self._path, self._since_s, info.snapshot_id, where, info.attributes_sha256, pages)
        except UnreadableError as error:
            raise damaged(self._path, f"read back ({error.where})", error.cause) from error
        for number in numbers:
            del self._pages[number]
        self._since_s = started_s
