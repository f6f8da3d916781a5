"""What the server says, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from streamdgp.errors import StreamdgpError
from streamdgp.v1 import common_pb2, ingest_service_pb2, scene_service_pb2
from streamdgp.wire import config_from_proto, parse_scene_name, struct_to_dict

__all__ = [
    "ConnectionChange",
    "FrameRecord",
    "IngestStatus",
    "Progress",
    "Rejection",
    "RevisionInfo",
    "SceneInfo",
    "SceneStatistics",
]

Bounds = tuple[float, float, float, float, float, float]
"""x0, y0, z0, x1, y1, z1 in metres, world frame."""


def _time(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)


def _bounds(box: common_pb2.Box) -> Bounds:
    low, high = box.min_m, box.max_m
    return (low.x, low.y, low.z, high.x, high.y, high.z)


@dataclass(frozen=True)
class SceneInfo:
    """A scene as of ``revision``; see ``Scene`` of the wire contract."""

    name: str
    frame_count: int
    chart_count: int
    bounds_m: Bounds | None
    created: datetime
    config: dict[str, Any] = field(default_factory=dict)
    """What was asked for at creation."""
    resolved_config: dict[str, Any] = field(default_factory=dict)
    """What is in force; empty before the first frame."""
    revision: int | None = None
    """Revision described; None where a listing does not say."""

    @classmethod
    def from_proto(cls, message: scene_service_pb2.Scene, revision: int | None = None) -> SceneInfo:
        """Build from the message."""
        return cls(
            name=parse_scene_name(message.name),
            frame_count=message.frame_count,
            chart_count=message.chart_count,
            bounds_m=_bounds(message.bounds) if message.HasField("bounds") else None,
            created=_time(message.create_time),
            config=config_from_proto(message.config),
            resolved_config=struct_to_dict(message.resolved_config),
            revision=revision,
        )


@dataclass(frozen=True)
class RevisionInfo:
    """One atomic commit."""

    number: int
    committed: datetime
    frame_count: int
    chart_count: int
    tags: tuple[str, ...] = ()
    """Names given to it, sorted."""
    message: str = ""
    """What the commit says about itself."""

    @classmethod
    def from_proto(cls, message: scene_service_pb2.Revision) -> RevisionInfo:
        """Build from the message."""
        return cls(
            message.number,
            _time(message.commit_time),
            message.frame_count,
            message.chart_count,
            tuple(message.tags),
            message.message,
        )


@dataclass(frozen=True)
class SceneStatistics:
    """Counts and sizes of one revision."""

    revision: int
    frame_count: int
    rejected_frame_count: int
    chart_count: int
    surfel_count: int
    bounds_m: Bounds | None
    resolution_m: float
    atlas_bytes: int
    log_bytes: int

    @classmethod
    def from_proto(cls, message: scene_service_pb2.SceneStatistics, revision: int) -> SceneStatistics:
        """Build from the message."""
        return cls(
            revision=revision,
            frame_count=message.frame_count,
            rejected_frame_count=message.rejected_frame_count,
            chart_count=message.chart_count,
            surfel_count=message.surfel_count,
            bounds_m=_bounds(message.bounds) if message.HasField("bounds") else None,
            resolution_m=message.resolution_m,
            atlas_bytes=message.atlas_bytes,
            log_bytes=message.log_bytes,
        )


@dataclass(frozen=True)
class Progress:
    """How far a producer's stream has come; all numbers are sequence numbers."""

    sent: int = 0
    """Last frame handed to the network."""
    durable: int = 0
    """Every frame up to this one survives a crash of the server."""
    applied: int = 0
    """Every frame up to this one is part of ``revision``."""
    revision: int = 0

    @property
    def lag(self) -> int:
        """Frames that are durable but not yet part of the surface."""
        return self.durable - self.applied


@dataclass(frozen=True)
class ConnectionChange:
    """A stream's connection was opened or lost."""

    next_sequence_number: int
    """Frames are sent from this number on."""
    error: StreamdgpError | None
    """Why it was lost, or could not be opened; None: it is open."""
    attempt: int
    """Attempts since the last progress; 0: the first one of all succeeded."""


@dataclass(frozen=True)
class Rejection:
    """A frame that the server refused."""

    sequence_number: int
    error: StreamdgpError


@dataclass(frozen=True)
class FrameRecord:
    """What a sequence number was."""

    sequence_number: int
    source_id: str
    source_crc32c: int
    rejected_reason: str = ""

    @classmethod
    def from_proto(cls, message: ingest_service_pb2.FrameRecord) -> FrameRecord:
        """Build from the message."""
        return cls(message.sequence_number, message.source_id, message.source_crc32c, message.rejected_reason)


@dataclass(frozen=True)
class IngestStatus:
    """Where a producer's stream stands on the server."""

    durable: int = 0
    applied: int = 0
    revision: int = 0
    epoch: int = 0
    records: tuple[FrameRecord, ...] = ()
