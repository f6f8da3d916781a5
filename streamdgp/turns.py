"""In which frames charts have their turn, and what waits for it.

Evidence takes every frame; of a depth image that waits beside another, the pixels that planes were fitted at.
What a view sees through, its votes on what shows, anchors, fits and consistency come once the view has moved
by two anchor radii since they came last, or by one since the frame before, or after so many frames: what a
camera sees several times within a sixth of a second is the same surface. After a view that shares little with
the last, so many are one, then two, and so on. Nothing here depends on the clock.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from streamdgp.errors import StorageError
from streamdgp.evidence.precision import WEIGHT_BITS, rounded
from streamdgp.evidence.surfels import SurfelMap, TouchedSurfels
from streamdgp.frames.orient import OrientedPoints, PreparedFrame

__all__ = ["Turns"]

_SURFELS, _GAINED = "waiting_surfels", "waiting_gained"
# A chart reaches 1.6 anchor radii from its anchor: what comes into view by these mostly has charts.
_MOST_MOVED_RADII = 2.0
# And a frame that shows so much else than the one before is not one of many that show the same.
_MOST_MOVED_AT_ONCE_RADII = 1.0
# About what a chart is across, 3.2 radii: after more, every place of the view shows another one.
_JUMP_RADII = 3.0


class Turns:
    """Whose turn it is, and the surfels that wait.

    Parameters
    ----------
    most_frames
        Charts have a turn at least in every so many frames, after a jump sooner; 1: in every one.
    anchor_radius_m
        And as soon as the view moved by two of these, or at once by one: its place, and what it sees by its
        turning, together.
    """

    def __init__(self, most_frames: int, anchor_radius_m: float) -> None:
        self._most_frames = most_frames
        self._most_moved_m = _MOST_MOVED_RADII * anchor_radius_m
        self._most_at_once_m = _MOST_MOVED_AT_ONCE_RADII * anchor_radius_m
        self._jump_m = _JUMP_RADII * anchor_radius_m
        self._frames = 0
        self._next_after = most_frames
        # Of the last turn, and of the frame before.
        self._pose: npt.NDArray[np.float64] | None = None
        self._pose_before: npt.NDArray[np.float64] | None = None
        self._waiting = _nothing()

    def look_frames(self, frame: PreparedFrame) -> int:
        """The frames since the charts' last turn, with this one, if it is their turn; else 0."""
        is_due = (
            self._frames + 1 >= self._next_after
            or _moved_m(self._pose, frame) > self._most_moved_m
            or _moved_m(self._pose_before, frame) > self._most_at_once_m
        )
        return self._frames + 1 if is_due else 0

    def is_repetition(self, look_frames: int) -> bool:
        """Whether what a frame shows has been shown by its turn and by a frame that waits already."""
        return not look_frames and self._frames > 0

    def take(
        self, points: OrientedPoints, touched: TouchedSurfels, evidence: SurfelMap, look_frames: int
    ) -> TouchedSurfels | None:
        """Count a frame and add what it touched; given ``look_frames``, return all that waited."""
        view = points.view
        self._pose_before = None if view is None else np.column_stack([view.rotation, view.origin_m])
        self._frames += 1
        if self._frames > 1:
            touched = evidence.joined(self._waiting, touched)
        if not look_frames:
            gained = rounded(touched.gained.astype(np.float32), WEIGHT_BITS)
            self._waiting = TouchedSurfels(touched.index, gained.astype(np.float64))
            return None
        has_jumped = self._jump_m < _moved_m(self._pose, points) < math.inf
        self._next_after = 1 if has_jumped else min(2 * self._next_after, self._most_frames)
        self._pose = self._pose_before
        self._frames, self._waiting = 0, _nothing()
        return touched

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What waits, for a commit: surfels (K,) int32 and the weight each gained (K,) float32."""
        return {
            _SURFELS: self._waiting.index.astype(np.int32),
            _GAINED: self._waiting.gained.astype(np.float32),
        }

    def facts(self) -> dict[str, Any]:
        """What else a commit keeps, JSON-able."""
        return {
            "frames": self._frames,
            "pose": _listed(self._pose),
            "pose_before": _listed(self._pose_before),
            "next_after": self._next_after,
        }

    def restore(self, facts: dict[str, Any], arrays: dict[str, npt.NDArray[Any]], surfels: int) -> None:
        """Continue from a commit of a map of so many surfels.

        Raises
        ------
        StorageError
            It is not what ``arrays`` and ``facts`` gave.
        """
        index, gained = arrays.get(_SURFELS), arrays.get(_GAINED)
        poses = [facts.get("pose"), facts.get("pose_before")]
        if (
            index is None
            or gained is None
            or index.ndim != 1
            or index.shape != gained.shape
            or (len(index) and not (0 <= index.min() and index.max() < surfels))
            or any(pose is not None and np.shape(pose) != (3, 4) for pose in poses)
        ):
            raise StorageError(
                f"waiting surfels below {surfels}, their gains, and poses",
                "something else",
                "The atlas is damaged; restore it from a copy.",
            )
        self._frames = int(facts["frames"])
        self._pose, self._pose_before = (
            None if pose is None else np.asarray(pose, np.float64) for pose in poses
        )
        # Commits of older versions do not say.
        self._next_after = int(facts.get("next_after", self._most_frames))
        self._waiting = TouchedSurfels(index.astype(np.int64), gained.astype(np.float64))


def _listed(pose: npt.NDArray[np.float64] | None) -> list[list[float]] | None:
    return None if pose is None else pose.tolist()


def _nothing() -> TouchedSurfels:
    return TouchedSurfels(np.zeros(0, np.int64), np.zeros(0))


def _moved_m(pose: npt.NDArray[np.float64] | None, frame: PreparedFrame | OrientedPoints) -> float:
    """How far what a frame shows has moved since a pose (3, 4); infinite where there is none, or no view."""
    view = frame.view
    if view is None or pose is None:
        return math.inf
    # Pixels per radian times what lies between two pixels: how far the surface is.
    distance_m = frame.spacing_m * math.sqrt(view.camera[0] * view.camera[1])
    chord = np.linalg.norm(pose[:, :3] - view.rotation) / math.sqrt(2.0)  # 2 sin(angle / 2)
    return float(np.linalg.norm(pose[:, 3] - view.origin_m) + chord * distance_m)
