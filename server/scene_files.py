"""A scene's directory: ``scene.json``, ``log/`` and ``atlas/``; made, listed and removed atomically."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c

from streamdgp.config import SceneConfig
from streamdgp.errors import AlreadyExistsError, InvalidConfigError, StorageError
from streamdgp.store import migrate_settings
from streamdgp.store._durable import sync_directory

__all__ = ["SceneFile", "create_scene", "remove_scene", "scene_ids", "sweep_unfinished"]

_FILE_NAME = "scene.json"
_FORMAT = "streamdgp-scene"
_VERSION = 2
_UNSEALED = 1
"""The version without a checksum."""


@dataclass(frozen=True)
class SceneFile:
    """What was decided when the scene was created."""

    config: SceneConfig
    created: datetime.datetime

    @classmethod
    def read(cls, directory: Path) -> SceneFile:
        """Read ``scene.json``; raises :class:`StorageError` when it is missing or damaged."""
        path = directory / _FILE_NAME
        try:
            content = json.loads(path.read_text("utf-8"))
            if content["format"] != _FORMAT or content["version"] not in (_UNSEALED, _VERSION):
                raise ValueError(f"format {content['format']} version {content['version']}")
            is_sealed = content["version"] == _VERSION or "crc32c" in content
            if is_sealed and content["crc32c"] != _checksum(content):
                raise ValueError("a wrong checksum")
            return cls(
                # Files hold all settings; those of before charts of several sizes go on with one.
                SceneConfig.from_dict({"largest_radius_ratio": 1.0} | migrate_settings(content["config"])),
                datetime.datetime.fromisoformat(content["created"]),
            )
        except (OSError, ValueError, KeyError, TypeError, InvalidConfigError) as error:
            raise StorageError(
                f"a readable {path}", str(error) or type(error).__name__, "Restore it from a copy."
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """The content of ``scene.json``."""
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "created": self.created.isoformat(),
            "config": self.config.to_dict(),
        }
        return {**content, "crc32c": _checksum(content)}


def _checksum(content: dict[str, Any]) -> int:
    text = json.dumps({key: value for key, value in content.items() if key != "crc32c"}, sort_keys=True)
    return int(google_crc32c.value(text.encode()))


def scene_ids(scenes: Path) -> Iterator[str]:
    """Names of the scenes in a directory, sorted."""
    for path in sorted(scenes.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            yield path.name


def create_scene(scenes: Path, scene_id: str, config: SceneConfig) -> Path:
    """Make a scene's directory: whole or not at all.

    Raises
    ------
    AlreadyExistsError
        The name is taken.
    StorageError
        The disk refused.
    """
    target = scenes / scene_id
    if target.exists():
        raise AlreadyExistsError(
            f"no scene named {scene_id}",
            "one that exists",
            "Stream into it, delete it, or choose another name.",
        )
    unfinished = scenes / f".new-{uuid.uuid4().hex}"
    try:
        unfinished.mkdir()
        content = SceneFile(config, datetime.datetime.now(datetime.UTC)).to_dict()
        with (unfinished / _FILE_NAME).open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        sync_directory(unfinished)
        unfinished.rename(target)
        sync_directory(scenes)
    except OSError as error:
        raise StorageError(
            f"a new directory {target}", str(error), "Check the disk and its free space."
        ) from error
    return target


def remove_scene(scenes: Path, scene_id: str) -> None:
    """Remove a scene's directory: it is gone at once, its content is deleted after that."""
    doomed = scenes / f".deleted-{uuid.uuid4().hex}"
    try:
        (scenes / scene_id).rename(doomed)
        sync_directory(scenes)
        shutil.rmtree(doomed)
    except OSError as error:
        raise StorageError(
            f"scene {scene_id} deleted", str(error), "Check the disk's permissions."
        ) from error


def sweep_unfinished(scenes: Path) -> None:
    """Delete what an interrupted creation or removal left."""
    for path in scenes.glob(".*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
