"""What was promised of tags: the note that tells a tag whose file is lost, damaged or another's.

A repository says which tags there are, not which there should be, and what no tag holds is deleted when
old revisions are cleared. So ``TAGS`` notes the snapshot of every tag: once it is synced, and until just
before it is taken away.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from streamdgp.store._digests import digest_of
from streamdgp.store._durable import replace_durably

__all__ = ["TAG_PREFIX", "differing_tags", "mend_tags", "read_noted_tags", "tag_folder", "write_noted_tags"]

_LOGGER = logging.getLogger(__name__)
_NAME = "TAGS"
TAG_PREFIX = "tag."
"""Of the branches that are tags."""


def tag_folder(directory: Path, name: str) -> Path:
    """Where Icechunk keeps the file of a tag."""
    return directory / "icechunk" / "refs" / f"branch.{TAG_PREFIX}{name}"


def write_noted_tags(directory: Path, tags: Mapping[str, str]) -> None:
    """Note the snapshots of all tags; raises OSError."""
    noted = dict(sorted(tags.items()))
    content = json.dumps({"tags": noted, "sha256": digest_of(noted)}) + "\n"
    replace_durably(directory / _NAME, content.encode())


def read_noted_tags(directory: Path) -> dict[str, str] | None:
    """The snapshots of all tags; None where nothing is noted, or nothing that can be trusted."""
    try:
        content = json.loads((directory / _NAME).read_bytes())
        noted = {str(name): str(snapshot_id) for name, snapshot_id in content["tags"].items()}
        return noted if content["sha256"] == digest_of(noted) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def differing_tags(directory: Path) -> dict[str, str]:
    """The noted snapshots of tags whose files say something else, or nothing."""
    noted = read_noted_tags(directory) or {}
    return {name: wanted for name, wanted in noted.items() if _found(tag_folder(directory, name)) != wanted}


def mend_tags(directory: Path) -> None:
    """Put tags right from the note, and remove empty ones that were being given; raises OSError."""
    for name, snapshot_id in differing_tags(directory).items():
        path = tag_folder(directory, name) / "ref.json"
        _LOGGER.error("%s is not as tag %s was given; it is put right", path, name)
        path.parent.mkdir(exist_ok=True)
        replace_durably(path, json.dumps({"snapshot": snapshot_id}).encode())
    for folder in (directory / "icechunk" / "refs").glob(f"branch.{TAG_PREFIX}*"):
        reference = folder / "ref.json"
        if not reference.exists() or not reference.stat().st_size:
            shutil.rmtree(folder)  # a power cut left it, before anyone was told that it exists


def _found(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / "ref.json").read_bytes())["snapshot"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
