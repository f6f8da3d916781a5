"""The surfel map, slowly: a dictionary of voxels, one point at a time, in the steps that are kept."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from streamdgp.evidence.precision import NORMAL_STEP, OFFSET_STEP_VOX
from streamdgp.frames.orient import OrientedPoints
from tests.reference.precision import steps_by_turns, to_bits_by_turns, turn_of

__all__ = ["ReferenceSurfels", "Slot"]

_OPPOSES = -0.2
_WEIGHT_BITS = 9
_VIEWS = 4
_RANGES = {"offset": (-32768, 32767), "normal": (-127, 127), "color": (0, 255)}


def _no_steps() -> npt.NDArray[np.int64]:
    return np.zeros(3, np.int64)


@dataclass
class Slot:
    """One sheet in one voxel, as it is kept: offset, normal and colour in whole steps, a rounded weight.

    ``number`` is its place in the order of creation. ``views`` are the last viewpoints and how many
    observations each has added; ``gained`` is the sum of all weights, not rounded.
    """

    number: int = 0
    weight: float = 0.0
    gained: float = 0.0
    count: int = 0
    first: int = 0
    last: int = 0
    offset: npt.NDArray[np.int64] = field(default_factory=_no_steps)
    normal: npt.NDArray[np.int64] = field(default_factory=_no_steps)
    color: npt.NDArray[np.int64] = field(default_factory=_no_steps)
    views: list[tuple[Hashable, int]] = field(default_factory=lambda: [(None, 0)] * _VIEWS)

    def counts(self, view: Hashable, most: int) -> bool:
        """Whether one more observation from this viewpoint has weight; if so, it is noted."""
        seen = [n for _, n in self.views]
        known = [v for v, _ in self.views]
        place = known.index(view) if view in known else seen.index(min(seen))
        before = seen[place] if view in known else 0
        self.views[place] = (view, min(before + 1, most))
        return before < most

    def move(self, share: float, means: dict[str, npt.NDArray]) -> None:
        """Let the means go a share of the way to those of a frame, which is counted already."""
        turns = np.array([turn_of(self.count + self.number, channel) for channel in range(3)])
        for name, step in (("offset", OFFSET_STEP_VOX), ("normal", NORMAL_STEP), ("color", 1.0)):
            old = getattr(self, name) * step if self.weight > 0 else np.zeros(3)
            move = share * (means[name] - old)
            is_nearest = (np.abs(move) >= 8 * step) | (self.weight == 0)
            steps = steps_by_turns(old + move, step, np.where(is_nearest, 0.5, turns))
            setattr(self, name, np.clip(steps, *_RANGES[name]))


@dataclass
class _Sums:
    """What one frame says of one slot: observations, their weights, weighted sums."""

    observed: int = 0
    weight: float = 0.0
    of: dict[str, npt.NDArray] = field(
        default_factory=lambda: {name: np.zeros(3) for name in ("offset", "normal", "color")}
    )

    def add(self, w: float, **values: npt.NDArray) -> None:
        """One observation of a weight."""
        self.weight += w
        for name, value in values.items():
            self.of[name] += w * value


class ReferenceSurfels:
    """voxel -> at most two slots; the second one is for normals that oppose the first."""

    def __init__(self, voxel_m: float, most_per_view: int) -> None:
        self.voxel_m = voxel_m
        self.most_per_view = most_per_view
        self.count = 0
        self.voxels: dict[tuple[int, int, int], list[Slot]] = {}

    def integrate(self, points: OrientedPoints, frame: int, view: Hashable) -> None:
        """Fuse the points of one frame seen from viewpoint ``view``."""
        met: dict[int, tuple[Slot, _Sums]] = {}
        for i in range(len(points)):
            scaled = points.positions_m[i] / self.voxel_m
            normal = points.normals[i].astype(np.float64)
            x, y, z = (int(k) for k in np.floor(scaled))
            slot = self._slot(self.voxels.setdefault((x, y, z), []), normal, frame)
            _, sums = met.setdefault(slot.number, (slot, _Sums()))
            sums.observed += 1
            if not slot.counts(view, self.most_per_view):
                continue
            along = float(points.incidence_cos[i]) ** 2
            w = 1 / (float(points.sigma_m[i]) ** 2 * (along + 0.25 * (1 - along)))
            color = np.zeros(3) if points.color is None else points.color[i]
            sums.add(w, offset=(scaled - (x, y, z) - 0.5).astype(np.float32), normal=normal, color=color)
        for slot, sums in met.values():
            slot.last = frame
            slot.count += sums.observed
            if sums.weight == 0:
                continue
            total = slot.weight + sums.weight
            slot.move(sums.weight / total, {k: v / sums.weight for k, v in sums.of.items()})
            slot.weight = float(to_bits_by_turns(total, _WEIGHT_BITS, turn_of(slot.count + slot.number, 0)))
            slot.gained += sums.weight

    def _slot(self, slots: list[Slot], normal: npt.NDArray[np.float64], frame: int) -> Slot:
        """The sheet of a point, told by the mean normals before this frame, or by a new one's first."""
        for number, slot in enumerate(slots):
            opposes = slot.normal @ normal < _OPPOSES * np.linalg.norm(slot.normal)
            if not opposes or number == 1:
                return slot
        slots.append(Slot(self.count, first=frame, normal=np.floor(normal / NORMAL_STEP + 0.5)))
        self.count += 1
        return slots[-1]
