"""Frames: what a sensor delivers (``types``, numpy only) and the oriented points made of it."""

from streamdgp.frames.types import (
    DepthFrame,
    Frame,
    FrameReport,
    Intrinsics,
    PointFrame,
    RangeImageFrame,
    validate_pose,
)

__all__ = [
    "DepthFrame",
    "Frame",
    "FrameReport",
    "Intrinsics",
    "PointFrame",
    "RangeImageFrame",
    "validate_pose",
]
