"""Resource names (AIP-122): ``scenes/NAME``."""

from __future__ import annotations

import re
from typing import Final

from streamdgp.errors import InvalidInputError

__all__ = ["check_name", "parse_scene_name", "scene_resource_name"]

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_COLLECTION: Final = "scenes/"


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
