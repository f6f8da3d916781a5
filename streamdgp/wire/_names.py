"""Resource names (AIP-122): ``scenes/NAME`` and ``scenes/NAME/tags/TAG``."""

from __future__ import annotations

import re
from typing import Final

from streamdgp.errors import InvalidInputError

__all__ = [
    "check_name",
    "check_tag_name",
    "parse_scene_name",
    "parse_tag_name",
    "scene_resource_name",
    "tag_resource_name",
]

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_COLLECTION: Final = "scenes/"
_TAGS: Final = "/tags/"


def check_name(name: str, what: str = "a scene name") -> str:
    """Return ``name`` if it is safe as a resource id and as a folder name.

    Raises
    ------
    InvalidInputError
        Anything but 1 to 63 letters, digits, '.', '_' or '-' that start with a letter or digit.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"{what} of 1 to 63 letters, digits, '.', '_' or '-' that starts with a letter or digit",
            repr(name[:80]),
            "Choose another name; '/' and other path characters are not allowed.",
        )
    return name


def scene_resource_name(name: str) -> str:
    """Return ``scenes/NAME`` (raises InvalidInputError as ``check_name`` does)."""
    return _COLLECTION + check_name(name)


def parse_scene_name(resource_name: str) -> str:
    """Return NAME of ``scenes/NAME``.

    Raises
    ------
    InvalidInputError
        Not of that form, or NAME is not allowed.
    """
    if not resource_name.startswith(_COLLECTION):
        raise InvalidInputError(
            "a scene's resource name 'scenes/NAME'",
            repr(resource_name[:80]),
            "Put 'scenes/' before the name.",
        )
    return check_name(resource_name.removeprefix(_COLLECTION))


def check_tag_name(tag: str) -> str:
    """Return ``tag`` if it is formed as a scene's name and cannot be taken for the number of a revision.

    Raises
    ------
    InvalidInputError
        It is not.
    """
    if check_name(tag, "a tag").isdigit():
        raise InvalidInputError(
            "a tag that is no number", tag, "Add a letter; numbers are those of revisions."
        )
    return tag


def tag_resource_name(scene: str, tag: str) -> str:
    """Return ``scenes/NAME/tags/TAG`` (raises InvalidInputError as ``check_tag_name`` does)."""
    return scene_resource_name(scene) + _TAGS + check_tag_name(tag)


def parse_tag_name(resource_name: str) -> tuple[str, str]:
    """Return NAME and TAG of ``scenes/NAME/tags/TAG``.

    Raises
    ------
    InvalidInputError
        Not of that form, or NAME or TAG is not allowed.
    """
    scene, found, tag = resource_name.partition(_TAGS)
    if not found:
        raise InvalidInputError(
            "a tag's resource name 'scenes/NAME/tags/TAG'",
            repr(resource_name[:80]),
            "Name the scene and the tag.",
        )
    return parse_scene_name(scene), check_tag_name(tag)
