"""In which frames charts have their turn, and what waits for it.

Evidence takes every frame; of a large depth image that waits, one pixel in sixteen while the view is slow.
What a view sees through, its votes on what shows, anchors, fits and consistency come once the view has
moved by two anchor radii since they came last, or by one since the frame before, or after so many frames:
what a camera sees several times within a sixth of a second is the same surface. After a view that shares
little with the last, so many are one, then two, and so on. Nothing here depends on the clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from streamdgp.errors import StorageError
from streamdgp.evidence.precision import WEIGHT_BITS, rounded
from streamdgp.evidence.surfels import SurfelMap, TouchedSurfels
from streamdgp.frames.orient import OrientedPoints, PreparedFrame

__all__ = ["Schedule", "Turns"]

_Seen: TypeAlias = PreparedFrame | OrientedPoints

_SURFELS, _GAINED = "waiting_surfels", "waiting_gained"
# A chart reaches 1.6 anchor radii from its anchor: what comes into view by these mostly has charts.
_MOST_MOVED_RADII = 2.0
# And a frame that shows so much else than the one before is not one of many that show the same.
_MOST_MOVED_AT_ONCE_RADII = 1.0
# A view is slow when so many turns in a row came without that.
_SLOW_TURNS = 2
# About what a chart is across, 3.2 radii: after more, every place of the view shows another one.
_JUMP_RADII = 3.0


@dataclass(frozen=True)
class Schedule:
    """What decides whose turn it is: nothing but the views and the distances of frames.

    Parameters
    ----------
    most_frames
        Charts have a turn at least in every so many frames, after a jump sooner; 1: in every one.
    anchor_radius_m
        And as soon as the view moved by two of these, or at once by one: its place, and what it sees by its
        turning, together.
    frames
        Since the last turn.
    next_after
        Then the next one comes at the latest; 0: after ``most_frames``.
    slow_turns
        In a row without the view's having moved by that much at once; counted up to two.
    pose, pose_before
        Rotation and origin (3, 4) of the last turn's view, and of the frame before.
    """

    most_frames: int
    anchor_radius_m: float
    frames: int = 0
    next_after: int = 0
    slow_turns: int = 0
    pose: npt.NDArray[np.float64] | None = None
    pose_before: npt.NDArray[np.float64] | None = None

    def look_frames(self, frame: _Seen) -> int:
        """The frames since the charts' last turn, with this one, if it is their turn; else 0."""
        is_due = (
            self.frames + 1 >= (self.next_after or self.most_frames)
            or _moved_m(self.pose, frame) > _MOST_MOVED_RADII * self.anchor_radius_m
            or self._is_fast(frame)
        )
        return self.frames + 1 if is_due else 0

    def _is_fast(self, frame: _Seen) -> bool:
        return _moved_m(self.pose_before, frame) > _MOST_MOVED_AT_ONCE_RADII * self.anchor_radius_m

    def is_repetition(self, frame: _Seen) -> bool:
        """Whether a frame waits and shows what the last turn has shown already, for the view is slow."""
        return self.slow_turns == _SLOW_TURNS and not self.look_frames(frame)

    def after(self, frame: _Seen, look_frames: int) -> Schedule:
        """The schedule once a frame has come, which is the charts' turn or waits."""
        view = frame.view
        pose = None if view is None else np.column_stack([view.rotation, view.origin_m])
        if not look_frames:
            return replace(self, frames=self.frames + 1, pose_before=pose)
        has_jumped = _JUMP_RADII * self.anchor_radius_m < _moved_m(self.pose, frame) < math.inf
        next_after = 1 if has_jumped else min(2 * (self.next_after or self.most_frames), self.most_frames)
        slow_turns = 0 if self._is_fast(frame) else min(self.slow_turns + 1, _SLOW_TURNS)
        return replace(
            self, frames=0, next_after=next_after, slow_turns=slow_turns, pose=pose, pose_before=pose
        )


class Turns:
    """Whose turn it is, and the surfels that wait."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self._waiting = _nothing()

    def take(
        self, points: OrientedPoints, touched: TouchedSurfels, evidence: SurfelMap, look_frames: int
    ) -> TouchedSurfels | None:
        """Count a frame and add what it touched; given ``look_frames``, return all that waited."""
        if self.schedule.frames:
            touched = evidence.joined(self._waiting, touched)
        self.schedule = self.schedule.after(points, look_frames)
        if not look_frames:
            gained = rounded(touched.gained.astype(np.float32), WEIGHT_BITS)
            self._waiting = TouchedSurfels(touched.index, gained.astype(np.float64))
            return None
        self._waiting = _nothing()
        return touched

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What waits, for a commit: surfels (K,) int32 and the weight each gained (K,) float32."""
        return {
            _SURFELS: self._waiting.index.astype(np.int32),
            _GAINED: self._waiting.gained.astype(np.float32),
        }

    def facts(self) -> dict[str, Any]:
        """What else a commit keeps, JSON-able."""
        schedule = self.schedule
        return {
            "frames": schedule.frames,
            "pose": _listed(schedule.pose),
            "pose_before": _listed(schedule.pose_before),
            "next_after": schedule.next_after or schedule.most_frames,
            "slow_turns": schedule.slow_turns,
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
        pose, pose_before = (None if pose is None else np.asarray(pose, np.float64) for pose in poses)
        self.schedule = replace(
            self.schedule,
            frames=int(facts["frames"]),
            # Commits of older versions do not say.
            next_after=int(facts.get("next_after", 0)),
            slow_turns=int(facts.get("slow_turns", 0)),
            pose=pose,
            pose_before=pose_before,
        )
        self._waiting = TouchedSurfels(index.astype(np.int64), gained.astype(np.float64))


def _listed(pose: npt.NDArray[np.float64] | None) -> list[list[float]] | None:
    return None if pose is None else pose.tolist()


def _nothing() -> TouchedSurfels:
    return TouchedSurfels(np.zeros(0, np.int64), np.zeros(0))


def _moved_m(pose: npt.NDArray[np.float64] | None, frame: _Seen) -> float:
    """How far what a frame shows has moved since a pose (3, 4); infinite where there is none, or no view."""
    view = frame.view
    if view is None or pose is None:
        return math.inf
    # Pixels per radian times what lies between two pixels: how far the surface is.
    distance_m = frame.spacing_m * math.sqrt(view.camera[0] * view.camera[1])
    chord = np.linalg.norm(pose[:, :3] - view.rotation) / math.sqrt(2.0)  # 2 sin(angle / 2)
    return float(np.linalg.norm(pose[:, 3] - view.origin_m) + chord * distance_m)
