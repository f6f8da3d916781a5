"""Which revision is known to be whole on disk, whatever became of newer ones.

Icechunk renames its objects into place and syncs none of them. After a power cut the branch may point to a
snapshot whose file is empty, or be empty itself; the mark in ``SYNCED``, written after each sync, says
where to go back to.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from streamdgp.store._durable import replace_durably

__all__ = ["mend_branch", "read_synced", "write_synced"]

_LOGGER = logging.getLogger(__name__)
_NAME = "SYNCED"


def write_synced(directory: Path, revision: int, snapshot_id: str) -> None:
    """Note the revision that has just been synced; raises OSError."""
    content = json.dumps({"revision": revision, "snapshot": snapshot_id}) + "\n"
    replace_durably(directory / _NAME, content.encode())


def read_synced(directory: Path) -> tuple[int, str]:
    """The newest revision known to be whole and its snapshot; (0, "") when none is noted."""
    try:
        noted = json.loads((directory / _NAME).read_bytes())
        return int(noted["revision"]), str(noted["snapshot"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, ""


def mend_branch(directory: Path, branch: str) -> None:
    """Point a branch whose file is missing, empty or no JSON to the noted snapshot; raises OSError."""
    path = directory / "icechunk" / "refs" / f"branch.{branch}" / "ref.json"
    _, noted = read_synced(directory)
    if not noted:
        return
    try:
        json.loads(path.read_bytes())["snapshot"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        _LOGGER.error("%s is unreadable; going back to the newest revision known to be whole", path)
        path.parent.mkdir(exist_ok=True)
        replace_durably(path, json.dumps({"snapshot": noted}).encode())
