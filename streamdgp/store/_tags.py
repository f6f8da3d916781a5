"""Names that people give to revisions; what has a name is neither expired nor collected.

A tag is an Icechunk branch ``tag.NAME`` that nobody commits to. Icechunk's own tags would do as well, but a
name that was deleted could not be given again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

import icechunk

from streamdgp.errors import StorageError
from streamdgp.store._tag_note import TAG_PREFIX, read_noted_tags, tag_folder

__all__ = ["add_tag", "read_tags", "remove_stale_tags", "remove_tag"]

_LOGGER = logging.getLogger(__name__)


def read_tags(repository: icechunk.Repository, directory: Path) -> dict[str, icechunk.SnapshotInfo]:
    """What each tag names. One that cannot be read and is not noted was being given, and is left out.

    Raises
    ------
    StorageError
        One that was given cannot be read: its revision is damaged.
    """
    noted = read_noted_tags(directory) or {}
    tags = {}
    for branch in sorted(repository.list_branches()):
        if branch.startswith(TAG_PREFIX):
            name = branch.removeprefix(TAG_PREFIX)
            try:
                tags[name] = next(iter(repository.ancestry(branch=branch)))
            except icechunk.IcechunkError as error:
                cause = str(error).strip().splitlines()[0]
                if name in noted:
                    raise StorageError(
                        f"the snapshot of tag {name} in {directory}",
                        cause,
                        "Restore the directory from a copy; or, to give the tag up with its revision, remove "
                        f"{directory / 'TAGS'} and {tag_folder(directory, name)}.",
                    ) from error
                _LOGGER.warning("%s cannot be read: %s", branch, cause)
    return tags


def add_tag(repository: icechunk.Repository, name: str, snapshot_id: str) -> None:
    """Name a snapshot; the caller syncs."""
    repository.create_branch(f"{TAG_PREFIX}{name}", snapshot_id)


def remove_tag(repository: icechunk.Repository, name: str) -> None:
    """Take a name away; the caller syncs."""
    repository.delete_branch(f"{TAG_PREFIX}{name}")


def remove_stale_tags(repository: icechunk.Repository, directory: Path, known: Collection[str]) -> None:
    """Remove tags of revisions that were given up: their names are free again."""
    for name in read_tags(repository, directory):
        if name not in known:
            _LOGGER.warning("tag %s is taken away: its revision was given up", name)
            remove_tag(repository, name)
