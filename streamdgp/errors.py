"""Every error this project raises on purpose.

Each message has three parts: what was wanted, what came, what to do. ``reason`` is the stable
machine-readable name that crosses the wire (``ErrorInfo.reason``); the client maps it back to the
same class.

    StreamdgpError
    ├── InvalidInputError        a value is unusable (also a ValueError)
    │   ├── InvalidFrameError    a frame cannot be used; the stream goes on without it
    │   └── InvalidConfigError   a setting is out of range or contradicts another
    ├── DatasetError             a file or folder cannot be read as a scan
    ├── NotFoundError            no such scene, revision or file (also a LookupError)
    ├── AlreadyExistsError       the name is taken
    ├── SequenceError            a gap, a changed source, or a stale producer epoch
    ├── ResourceLimitError       the answer would cost more than the limit; says both
    ├── StorageError             stored data is damaged, locked or cannot be written
    └── ServerUnavailableError   the server cannot be reached or is shutting down
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AlreadyExistsError",
    "DatasetError",
    "InvalidConfigError",
    "InvalidFrameError",
    "InvalidInputError",
    "NotFoundError",
    "ResourceLimitError",
    "SequenceError",
    "ServerUnavailableError",
    "StorageError",
    "StreamdgpError",
]


class StreamdgpError(Exception):
    """Root of all errors raised on purpose.

    Parameters
    ----------
    wanted, got, remedy
        The three parts of the message: what would have been right, what came instead, what to do.
    metadata
        Facts a program can use (for example ``{"expected_sequence": "12"}``); values are strings.
    """

    reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self, wanted: str, got: str = "", remedy: str = "", *, metadata: dict[str, str] | None = None
    ) -> None:
        self.wanted = wanted
        self.got = got
        self.remedy = remedy
        self.metadata = dict(metadata or {})
        parts = [wanted]
        if got:
            parts.append(f"got {got}")
        message = "; ".join(parts)
        super().__init__(f"{message}. {remedy}" if remedy else message)


class InvalidInputError(StreamdgpError, ValueError):
    """A value is unusable."""

    reason = "INVALID_INPUT"


class InvalidFrameError(InvalidInputError):
    """A frame cannot be used; the stream goes on without it."""

    reason = "INVALID_FRAME"


class InvalidConfigError(InvalidInputError):
    """A setting is out of range or contradicts another."""

    reason = "INVALID_CONFIG"


class DatasetError(StreamdgpError):
    """A file or folder cannot be read as a scan."""

    reason = "DATASET"


class NotFoundError(StreamdgpError, LookupError):
    """No such scene, revision or file."""

    reason = "NOT_FOUND"


class AlreadyExistsError(StreamdgpError):
    """The name is taken."""

    reason = "ALREADY_EXISTS"


class SequenceError(StreamdgpError):
    """A gap in the sequence, a number whose source changed, or a stale producer epoch."""

    reason = "SEQUENCE"


class ResourceLimitError(StreamdgpError):
    """The answer would cost more than the limit allows."""

    reason = "RESOURCE_LIMIT"


class StorageError(StreamdgpError):
    """Stored data is damaged, locked or cannot be written."""

    reason = "STORAGE"


class ServerUnavailableError(StreamdgpError):
    """The server cannot be reached or is shutting down."""

    reason = "UNAVAILABLE"
