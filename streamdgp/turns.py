"""In which frames charts have their turn, and what waits for it.

Evidence takes every frame. What a view sees through, its votes on what shows, anchors, fits and consistency
come once the view has moved by one and a half anchor radii since they came last, or after so many frames:
what a camera sees several times within a sixth of a second is the same surface. Nothing here depends on the
clock.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from streamdgp.errors import StorageError
from streamdgp.evidence.precision import WEIGHT_BITS, rounded
from streamdgp.evidence.surfels import SurfelMap, TouchedSurfels
from streamdgp.frames.orient import OrientedPoints
from streamdgp.frames.view import SensorView

__all__ = ["Turns"]

_SURFELS, _GAINED = "waiting_surfels", "waiting_gained"
# A chart reaches 1.6 anchor radii from its anchor: what comes into view by less mostly has charts.
_MOST_MOVED_RADII = 1.5


class Turns:
    """Whose turn it is, and the surfels that wait.

    Parameters
    ----------
    most_frames
        Charts have a turn at least in every so many frames; 1: in every one.
    anchor_radius_m
        And as soon as the view moved by one and a half of these: its place, and what it sees by its
        turning, together.
    """

    def __init__(self, most_frames: int, anchor_radius_m: float) -> None:
        self._most_frames = most_frames
        self._most_moved_m = _MOST_MOVED_RADII * anchor_radius_m
        self._frames = 0
        self._pose: npt.NDArray[np.float64] | None = None
        self._waiting = _nothing()

    def look_frames(self, points: OrientedPoints) -> int:
        """The frames since the charts' last turn, with this one, if it is their turn; else 0."""
        return self._frames + 1 if self._is_due(points) else 0

    def take(
        self, points: OrientedPoints, touched: TouchedSurfels, evidence: SurfelMap, look_frames: int
    ) -> TouchedSurfels | None:
        """Count a frame and add what it touched; given ``look_frames``, return all that waited."""
        self._frames += 1
        if self._frames > 1:
            touched = evidence.joined(self._waiting, touched)
        if not look_frames:
            gained = rounded(touched.gained.astype(np.float32), WEIGHT_BITS)
            self._waiting = TouchedSurfels(touched.index, gained.astype(np.float64))
            return None
        view = points.view
        self._pose = None if view is None else np.column_stack([view.rotation, view.origin_m])
        self._frames, self._waiting = 0, _nothing()
        return touched

    def _is_due(self, points: OrientedPoints) -> bool:
        view = points.view
        if view is None or self._pose is None or self._frames + 1 >= self._most_frames:
            return True
        # Pixels per radian times what lies between two pixels: how far the surface is.
        distance_m = points.spacing_m * float(np.sqrt(view.camera[0] * view.camera[1]))
        return _moved_m(self._pose, view, distance_m) > self._most_moved_m

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What waits, for a commit: surfels (K,) int32 and the weight each gained (K,) float32."""
        return {
            _SURFELS: self._waiting.index.astype(np.int32),
            _GAINED: self._waiting.gained.astype(np.float32),
        }

    def facts(self) -> dict[str, Any]:
        """What else a commit keeps, JSON-able."""
        return {"frames": self._frames, "pose": None if self._pose is None else self._pose.tolist()}

    def restore(self, facts: dict[str, Any], arrays: dict[str, npt.NDArray[Any]], surfels: int) -> None:
        """Continue from a commit of a map of so many surfels.

        Raises
        ------
        StorageError
            It is not what ``arrays`` and ``facts`` gave.
        """
        index, gained, pose = arrays.get(_SURFELS), arrays.get(_GAINED), facts.get("pose")
        if (
            index is None
            or gained is None
            or index.ndim != 1
            or index.shape != gained.shape
            or (len(index) and not (0 <= index.min() and index.max() < surfels))
            or (pose is not None and np.shape(pose) != (3, 4))
        ):
            raise StorageError(
                f"waiting surfels below {surfels}, their gains, and a pose",
                "something else",
                "The atlas is damaged; restore it from a copy.",
            )
        self._frames = int(facts["frames"])
        self._pose = None if pose is None else np.asarray(pose, np.float64)
        self._waiting = TouchedSurfels(index.astype(np.int64), gained.astype(np.float64))


def _nothing() -> TouchedSurfels:
    return TouchedSurfels(np.zeros(0, np.int64), np.zeros(0))


def _moved_m(pose: npt.NDArray[np.float64], view: SensorView, distance_m: float) -> float:
    """How far what a view sees at a distance has moved since a pose (3, 4): at most, and about."""
    chord = np.linalg.norm(pose[:, :3] - view.rotation) / np.sqrt(2.0)  # 2 sin(angle / 2)
    return float(np.linalg.norm(pose[:, 3] - view.origin_m) + chord * distance_m)
