"""Writes a scene of a stopped server to one file."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from streamdgp.errors import InvalidInputError, NotFoundError, StorageError
from streamdgp.store import AtlasStore, DirectoryLock, FrameLog, RecordKind
from streamdgp.store._durable import sync_directory
from streamdgp_server.archive_manifest import MANIFEST_NAME, Manifest, Member
from streamdgp_server.check import check_scene
from streamdgp_server.scene_files import SceneFile

__all__ = ["export_scene"]

_CHUNK_BYTES = 1 << 20
_Source = tuple[str, int, Iterable[bytes]]


def export_scene(
    data: Path,
    scene_id: str,
    output: Path,
    *,
    with_frames: bool = True,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Manifest:
    """Write a scene with all its revisions, tags and frames to a file, whole or not at all.

    The scene is checked first (the newest revision and the whole log). The same scene gives the same bytes.

    Parameters
    ----------
    with_frames
        False: the frames themselves are left out; their numbers, names and checksums stay. Only where the
        newest revision includes all of them.
    on_progress
        Called with bytes written and bytes in all.

    Raises
    ------
    NotFoundError
        No such scene.
    InvalidInputError
        Frames are to be left out that no revision includes.
    StorageError
        A server holds the directory, the scene is damaged, or the disk refused.
    """
    directory = data / "scenes" / scene_id
    if not directory.is_dir():
        raise NotFoundError(f"a scene named {scene_id} in {data}", "none", "Check the path and the name.")
    with DirectoryLock(data), contextlib.ExitStack() as open_files:
        atlas = AtlasStore.open(directory / "atlas")  # for writing: mends what a crash left
        open_files.callback(atlas.close)
        found = check_scene(directory)
        if found.fault:
            raise StorageError(f"scene {scene_id} intact", found.fault, "Mend or restore it first.")
        log = open_files.enter_context(FrameLog(directory / "log"))
        if not with_frames:
            _require_all_applied(atlas, log)
        sources = list(_sources(directory, None if with_frames else log))
        total, members = sum(size for _, size, _ in sources), list[Member]()
        try:
            with _appearing_whole(output) as unfinished, ZipFile(unfinished, "w", ZIP_STORED) as archive:
                done = 0
                for name, size, chunks in sources:
                    members.append(_write(archive, name, size, chunks))
                    done += size
                    on_progress(done, total)
                manifest = Manifest(
                    scene_id,
                    SceneFile.read(directory).config.to_dict(),
                    atlas.latest_revision,
                    with_frames,
                    tuple(members),
                )
                content = manifest.to_json()
                _write(archive, MANIFEST_NAME, len(content), [content])
        except OSError as error:
            raise StorageError(
                f"a new file {output}", str(error), "Check the folder, its permissions and free space."
            ) from error
    return manifest


def _require_all_applied(atlas: AtlasStore, log: FrameLog) -> None:
    applied = int(atlas.read().log_position["next"]) if atlas.latest_revision else 0
    coming = log.records_without_payload()[applied - log.first_position :]
    waiting = sum(record.kind is RecordKind.FRAME for record in coming)
    if waiting:
        raise InvalidInputError(
            "a newest revision that includes every frame, to leave the frames out",
            f"{waiting} frames that wait to be fitted",
            "Start the server until they are, or leave --no-log out.",
        )


def _sources(directory: Path, stripped: FrameLog | None) -> Iterator[_Source]:
    """Name, size and content of the files of a scene; of the log without its frames if it is given."""
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        passing = path.name in ("LOCK", "snapshots.kept") or path.suffix == ".tmp"
        if not path.is_file() or passing or (stripped is not None and path.suffix == ".seg"):
            continue
        yield name, path.stat().st_size, _chunks(path)
    if stripped is not None:
        for name, content in stripped.segments_without_payloads():
            yield f"log/{name}", len(content), [content]


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _write(archive: ZipFile, name: str, size: int, chunks: Iterable[bytes]) -> Member:
    info = ZipInfo(name)  # without times: the same scene gives the same bytes
    info.file_size, info.external_attr = size, 0o644 << 16
    digest = hashlib.sha256()
    with archive.open(info, "w") as member:
        for chunk in chunks:
            digest.update(chunk)
            member.write(chunk)
    return Member(name, size, digest.hexdigest())


@contextlib.contextmanager
def _appearing_whole(output: Path) -> Iterator[Path]:
    """A file to write to, which gets its name when it is whole and on disk, and is gone otherwise."""
    unfinished = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.rename(output)
        sync_directory(output.parent)
    finally:
        unfinished.unlink(missing_ok=True)
