"""What is in the file of an exported scene: an uncompressed zip of the scene's directory, and this list.

The list is the member ``manifest.json``, written last: a file that was cut short has none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from streamdgp.errors import StorageError, StreamdgpError
from streamdgp.wire import check_name

__all__ = ["MANIFEST_NAME", "Manifest", "Member", "foreign", "read_manifest"]

MANIFEST_NAME = "manifest.json"
_FORMAT = "streamdgp-scene-archive"
_VERSION = 1
_MAX_MANIFEST_BYTES = 256 * 1024 * 1024
_ENCRYPTED = 1
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_PATH = re.compile(rf"scene\.json|(?:log|atlas)(?:/{_PART})+")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Member:
    """One file of the scene. ``name`` is its path in the scene's directory."""

    name: str
    byte_count: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The list. ``config``: the settings asked for at creation, for people; the scene has a file of them."""

    scene_id: str
    config: Mapping[str, Any]
    revision: int
    has_frames: bool
    members: tuple[Member, ...]

    @property
    def byte_count(self) -> int:
        """Size of all members."""
        return sum(member.byte_count for member in self.members)

    def to_json(self) -> bytes:
        """The content of the member ``manifest.json``."""
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "scene": self.scene_id,
            "config": self.config,
            "revision": self.revision,
            "has_frames": self.has_frames,
            "members": [
                {"name": member.name, "bytes": member.byte_count, "sha256": member.sha256}
                for member in self.members
            ],
        }
        return (json.dumps(content, indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, path: Path) -> Manifest:
        """Check and read; raises :class:`StorageError` for what is foreign, newer or makes no sense."""
        try:
            content = json.loads(data)
            if content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']!r}")
            version = int(content["version"])
            if version > _VERSION:
                raise StorageError(
                    f"an archive of version {_VERSION} or older in {path}",
                    f"version {version}",
                    "Use the release that wrote it, or a newer one.",
                )
            members = tuple(
                Member(str(one["name"]), int(one["bytes"]), str(one["sha256"])) for one in content["members"]
            )
            for member in members:
                if member.byte_count < 0 or not _SHA256.fullmatch(member.sha256):
                    raise ValueError(f"size or checksum of member {member.name!r}")
            return cls(
                check_name(content["scene"]),
                dict(content["config"]),
                int(content["revision"]),
                bool(content["has_frames"]),
                members,
            )
        except StorageError:
            raise
        except (ValueError, KeyError, TypeError, RecursionError, StreamdgpError) as error:
            raise foreign(path, f"a manifest that is none ({type(error).__name__}: {error})") from error


def read_manifest(archive: ZipFile, path: Path) -> Manifest:
    """The list of an open archive, once every member is what the list says and harmless to unpack.

    Nothing is allocated or written for what a member claims: members are not compressed, so all of them
    together cannot be larger than the file.

    Raises
    ------
    StorageError
        The file is foreign, newer, damaged, or made to do harm.
    BadZipFile, EOFError, NotImplementedError
        zipfile cannot read the list itself.
    """
    infos = {info.filename: info for info in archive.infolist()}
    if len(infos) != len(archive.infolist()):
        raise foreign(path, "two members of one name")
    total = 0
    for info in infos.values():
        if info.compress_type != ZIP_STORED or info.file_size != info.compress_size:
            raise foreign(path, f"the compressed member {info.filename!r:.100}")
        if info.flag_bits & _ENCRYPTED:
            raise foreign(path, f"the encrypted member {info.filename!r:.100}")
        total += info.file_size
    if total > path.stat().st_size:
        raise foreign(path, f"members of {total} bytes in a file of {path.stat().st_size}")
    manifest = _read(archive, infos.pop(MANIFEST_NAME, None), path)
    for member in manifest.members:
        if not _PATH.fullmatch(member.name):
            raise foreign(path, f"the member {member.name!r:.100}, which is no file of a scene")
        found = infos.pop(member.name, None)
        if found is None or found.file_size != member.byte_count:
            raise foreign(path, f"no member {member.name!r:.100} as the manifest lists it")
    if infos:
        raise foreign(path, f"the member {next(iter(infos))!r:.100}, which the manifest does not list")
    return manifest


def _read(archive: ZipFile, info: ZipInfo | None, path: Path) -> Manifest:
    if info is None:
        raise foreign(path, "a zip file without a manifest")
    if info.file_size > _MAX_MANIFEST_BYTES:
        raise foreign(path, f"a manifest of {info.file_size} bytes")
    return Manifest.from_json(archive.read(info), path)


def foreign(path: Path, found: str) -> StorageError:
    """What to raise for a file that no export wrote, or not like this."""
    return StorageError(
        f"an exported scene in {path}", found, "Export the scene again with streamdgp-server export."
    )
