"""Reads everything a data directory holds and verifies every checksum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from streamdgp.errors import NotFoundError, StorageError, StreamdgpError
from streamdgp.store import AtlasStore, DirectoryLock, FrameLog
from streamdgp_server.scene_files import SceneFile, scene_ids

__all__ = ["SceneCheck", "check_data", "check_scene"]


@dataclass(frozen=True)
class SceneCheck:
    """What was found in one scene; ``fault`` is empty when it is intact."""

    scene_id: str
    revisions: int = 0
    log_records: int = 0
    schema: int = 0
    """Of the newest revision; 0 before the first."""
    fault: str = ""


def check_data(data: Path, *, all_revisions: bool = False, repair: bool = False) -> Iterator[SceneCheck]:
    """Check every scene: the log whole, and the newest revision (or all of them).

    With ``repair`` a scene is opened as a server would open it first: unfinished records are cut, and a
    newest revision that cannot be read is given up for the one before, if the log has the frames after it.

    Raises
    ------
    NotFoundError
        ``data`` is no data directory.
    StorageError
        A server holds it.
    """
    scenes = data / "scenes"
    if not scenes.is_dir():
        raise NotFoundError(f"a data directory with scenes in {data}", "none", "Check the path.")
    with DirectoryLock(data):
        for scene_id in scene_ids(scenes):
            yield check_scene(scenes / scene_id, all_revisions=all_revisions, repair=repair)


def check_scene(directory: Path, *, all_revisions: bool = False, repair: bool = False) -> SceneCheck:
    """Check one scene, see :func:`check_data`; the caller holds the data directory."""
    try:
        SceneFile.read(directory)
        if repair:
            # Loading the engine takes seconds; checking alone must not.
            from streamdgp_server.options import ServerOptions
            from streamdgp_server.scene_engine import open_scene

            open_scene(directory, "cpu", ServerOptions(directory).segment_bytes).close()
        with FrameLog(directory / "log") as log:
            record_count, end, dropped = log.verify(), log.end_position, log.dropped_before
        store = AtlasStore.open(directory / "atlas", read_only=True)
        latest, schema = store.latest_revision, 0
        everything = [*store.tagged_revisions(), *store.revisions()]
        for info in everything if all_revisions else everything[-1:]:
            stored = store.read(info.revision)
            position, schema = int(stored.log_position["next"]), int(stored.state.metadata.get("schema", 0))
            if position > end:
                raise StorageError(
                    f"a log of at least {position} records, which revision {info.revision} includes",
                    str(end),
                    "Restore the log from a copy.",
                )
            if info.revision == latest and position < dropped:
                raise StorageError(
                    f"all frames from log record {position} on, where revision {latest} ends",
                    "some that were dropped, for later revisions included them",
                    "Restore the atlas from a copy.",
                )
    except StreamdgpError as error:
        return SceneCheck(directory.name, fault=str(error))
    return SceneCheck(directory.name, latest, record_count, schema)
