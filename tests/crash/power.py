"""Records what a program writes and syncs, to see what a power cut at any moment would leave."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from streamdgp.store import _clearing, _opening, atlas_store

__all__ = ["Cut", "PowerRecorder"]


@dataclass(frozen=True)
class Cut:
    """What is on disk for sure at one moment.

    files: content by path, as far as file and name were synced. objects: a copy of the atlas's folders as of
    the last sync. torn: None, or the folders as they are with everything empty that was not synced, as file
    systems leave it that write names before data. acknowledged: log records promised by then.
    """

    files: dict[Path, bytes]
    objects: Path | None
    torn: Path | None
    acknowledged: int


class PowerRecorder:
    """Watches files under ``root`` that Python code writes, and the Icechunk repository in it.

    Python's file operations are wrapped; the repository is written by other code, of which nothing is known
    to be on disk before the file system is synced.
    """

    def __init__(self, root: Path, scratch: Path, patch: pytest.MonkeyPatch) -> None:
        self.cuts: list[Cut] = []
        self.acknowledged = 0
        self._root, self._scratch = root, scratch
        self._guard = threading.RLock()
        self._files: dict[int, Path | int] = {}  # descriptor: directory, or number of a file
        self._names: dict[Path, int] = {}
        self._content: dict[int, bytes] = {}
        self._synced_names: dict[Path, int] = {}
        self._synced_content: dict[int, bytes] = {}
        self._objects: Path | None = None
        self._torn: Path | None = None
        for name in (
            "open",
            "close",
            "write",
            "pwrite",
            "ftruncate",
            "fsync",
            "fdatasync",
            "rename",
            "unlink",
        ):
            patch.setattr(os, name, self._watched(getattr(os, name), getattr(self, f"_{name}")))
        self._sync_for_real = atlas_store.sync_filesystem
        for module in (atlas_store, _clearing, _opening):
            patch.setattr(module, "sync_filesystem", self._syncfs)

    def _watched(self, function: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            with self._guard:
                result = function(*arguments, **named)
                note(result, *arguments)
            return result

        return call

    def _cut(self) -> None:
        files = {path: self._synced_content.get(file, b"") for path, file in self._synced_names.items()}
        self.cuts.append(Cut(files, self._objects, self._torn, self.acknowledged))

    def _open(self, descriptor: int, path: Any, flags: int, *_: Any, **__: Any) -> None:
        where = Path(path)
        if not where.is_relative_to(self._root) or "icechunk" in where.parts[:-1]:
            return
        if where.is_dir():
            self._files[descriptor] = where
            return
        if where not in self._names:
            self._names[where] = len(self._content)
            self._content[self._names[where]] = b""
        elif flags & os.O_TRUNC:
            self._content[self._names[where]] = b""
        self._files[descriptor] = self._names[where]

    def _close(self, _: None, descriptor: int) -> None:
        self._files.pop(descriptor, None)

    def _put(self, descriptor: int, data: Any, offset: int) -> None:
        file = self._files.get(descriptor)
        if isinstance(file, int):
            old = self._content[file].ljust(offset, b"\0")
            self._content[file] = old[:offset] + bytes(data) + old[offset + len(data) :]
            self._cut()

    def _pwrite(self, written: int, descriptor: int, data: Any, offset: int) -> None:
        self._put(descriptor, memoryview(data)[:written], offset)

    def _write(self, written: int, descriptor: int, data: Any) -> None:
        file = self._files.get(descriptor)
        if isinstance(file, int):
            self._put(descriptor, memoryview(data)[:written], len(self._content[file]))

    def _ftruncate(self, _: None, descriptor: int, length: int) -> None:
        file = self._files.get(descriptor)
        if isinstance(file, int):
            self._content[file] = self._content[file][:length]

    def _fsync(self, _: None, descriptor: int) -> None:
        file = self._files.get(descriptor)
        if isinstance(file, int):
            self._synced_content[file] = self._content[file]
        elif file is not None:
            kept = {p: k for p, k in self._synced_names.items() if p.parent != file}
            self._synced_names = kept | {p: k for p, k in self._names.items() if p.parent == file}
        self._cut()

    _fdatasync = _fsync

    def _rename(self, _: None, source: Any, target: Any) -> None:
        if Path(source) in self._names:
            self._names[Path(target)] = self._names.pop(Path(source))
            self._cut()

    def _unlink(self, _: None, path: Any, **__: Any) -> None:
        if self._names.pop(Path(path), None) is not None:
            self._cut()

    def _syncfs(self, directory: Path) -> None:
        with self._guard:
            self._torn = self._copy(directory, empty_beyond=self._objects)
            self._cut()
            self._sync_for_real(directory)
            self._synced_content, self._synced_names = dict(self._content), dict(self._names)
            self._objects, self._torn = self._copy(directory), None
            self._cut()

    def _copy(self, atlas: Path, empty_beyond: Path | None = None) -> Path:
        """A copy of an atlas's folders, in which files are empty that ``empty_beyond``, if given, has not."""
        synced = None
        if empty_beyond is not None:
            synced = {(one.name, one.read_bytes()) for one in empty_beyond.rglob("*") if one.is_file()}
        target = self._scratch / f"{len(list(self._scratch.iterdir())):04d}"
        target.mkdir()
        for path in sorted(inner for folder in atlas.glob("*/") for inner in (folder, *folder.rglob("*"))):
            copy = target / path.relative_to(atlas)
            if path.is_dir():
                copy.mkdir(parents=True, exist_ok=True)
                continue
            copy.parent.mkdir(parents=True, exist_ok=True)
            # By name and content: a folder that was renamed takes along what was synced.
            if synced is None or (path.name, path.read_bytes()) in synced:
                shutil.copyfile(path, copy)
            else:
                copy.touch()
        return target
