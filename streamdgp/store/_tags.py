"""Names that people give to revisions; what has a name is neither expired nor collected.

A tag is an Icechunk branch ``tag.NAME`` that nobody commits to. Icechunk's own tags would do as well, but a
name that was deleted could not be given again.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection
from pathlib import Path

import icechunk

__all__ = ["add_tag", "read_tags", "remove_stale_tags", "remove_tag", "sweep_unfinished_tags"]

_LOGGER = logging.getLogger(__name__)
_PREFIX = "tag."


def read_tags(repository: icechunk.Repository) -> dict[str, icechunk.SnapshotInfo]:
    """What each tag names. One that cannot be read was being given when a writer died, and is left out."""
    tags = {}
    for branch in sorted(repository.list_branches()):
        if branch.startswith(_PREFIX):
            try:
                tags[branch.removeprefix(_PREFIX)] = next(iter(repository.ancestry(branch=branch)))
            except icechunk.IcechunkError as error:
                _LOGGER.warning("%s cannot be read: %s", branch, str(error).strip().splitlines()[0])
    return tags


def add_tag(repository: icechunk.Repository, name: str, snapshot_id: str) -> None:
    """Name a snapshot; the caller syncs."""
    repository.create_branch(f"{_PREFIX}{name}", snapshot_id)


def remove_tag(repository: icechunk.Repository, name: str) -> None:
    """Take a name away; the caller syncs."""
    repository.delete_branch(f"{_PREFIX}{name}")


def remove_stale_tags(repository: icechunk.Repository, known: Collection[str]) -> None:
    """Remove tags of revisions that were given up: their names are free again."""
    for name in read_tags(repository):
        if name not in known:
            _LOGGER.warning("tag %s is taken away: its revision was given up", name)
            remove_tag(repository, name)


def sweep_unfinished_tags(directory: Path) -> None:
    """Remove tags without content: a power cut left them, before anyone was told that they exist."""
    for folder in (directory / "icechunk" / "refs").glob(f"branch.{_PREFIX}*"):
        reference = folder / "ref.json"
        if not reference.exists() or not reference.stat().st_size:
            shutil.rmtree(folder)
