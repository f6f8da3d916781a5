"""Makes a scene of the file that an export wrote."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from streamdgp.errors import AlreadyExistsError, NotFoundError, StorageError
from streamdgp.store import DirectoryLock
from streamdgp.store._durable import sync_directory, sync_filesystem
from streamdgp.wire import check_name
from streamdgp_server.archive_manifest import Manifest, Member, foreign, read_manifest
from streamdgp_server.check import check_scene

__all__ = ["import_scene"]

_CHUNK_BYTES = 1 << 20


def import_scene(
    data: Path,
    path: Path,
    *,
    scene_id: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[str, Manifest]:
    """Make a scene of an exported file, whole or not at all; returns its name and what was in the file.

    Parameters
    ----------
    data
        Data directory of a stopped server; made if missing.
    scene_id
        Name of the new scene; None: the name it had.
    on_progress
        Called with bytes written and bytes in all.

    Raises
    ------
    NotFoundError
        No such file.
    AlreadyExistsError
        There is a scene of that name.
    StorageError
        The file is foreign, newer or damaged, a server holds the directory, or the disk refused.
    """
    if not path.is_file():
        raise NotFoundError(f"an exported scene in {path}", "no file", "Check the path.")
    try:
        with ZipFile(path) as archive:
            manifest = read_manifest(archive, path)
            name = check_name(scene_id or manifest.scene_id)
            with DirectoryLock(data):
                _unpack(archive, path, manifest, data / "scenes", name, on_progress)
    # Of zipfile: a damaged file, one that ends within a member, one written in a way it does not know.
    except (BadZipFile, EOFError, NotImplementedError) as error:
        raise foreign(path, f"{error}" or type(error).__name__) from error
    except OSError as error:
        raise StorageError(
            f"the scene of {path} in {data}", str(error), "Check the disk, its permissions and free space."
        ) from error
    return name, manifest


def _unpack(
    archive: ZipFile,
    path: Path,
    manifest: Manifest,
    scenes: Path,
    name: str,
    on_progress: Callable[[int, int], None],
) -> None:
    scenes.mkdir(exist_ok=True)
    if (scenes / name).exists():
        raise AlreadyExistsError(
            f"no scene named {name} in {scenes.parent}", "one that exists", "Choose another name with --as."
        )
    free_bytes = shutil.disk_usage(scenes).free
    if free_bytes < manifest.byte_count:
        raise StorageError(
            f"{manifest.byte_count / 1e6:.0f} MB free under {scenes}",
            f"{free_bytes / 1e6:.0f} MB",
            "Free some space, or use another disk.",
        )
    unfinished = scenes / f".new-{uuid.uuid4().hex}"  # a start of the server removes what a crash leaves
    try:
        done = 0
        for member in manifest.members:
            _unpack_member(archive, path, member, unfinished / member.name)
            done += member.byte_count
            on_progress(done, manifest.byte_count)
        # Also the newest revision and every record: the file may be whole and of something broken.
        fault = check_scene(unfinished).fault
        if fault:
            raise foreign(path, f"a scene that is damaged: {fault.replace(str(unfinished), name)}")
        sync_filesystem(scenes)
        unfinished.rename(scenes / name)
        sync_directory(scenes)
        sync_directory(scenes.parent)
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(unfinished)


def _unpack_member(archive: ZipFile, path: Path, member: Member, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, left = hashlib.sha256(), member.byte_count
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with archive.open(member.name) as packed, os.fdopen(descriptor, "wb") as file:
        while chunk := packed.read(min(_CHUNK_BYTES, left + 1)):
            left -= len(chunk)
            digest.update(chunk)
            file.write(chunk)
    if left or digest.hexdigest() != member.sha256:
        raise foreign(path, f"{member.name} with another checksum than the manifest's")
