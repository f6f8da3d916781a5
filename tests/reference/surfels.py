"""The surfel map, slowly: a dictionary of voxels, float64, one point at a time."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from streamdgp.frames.orient import OrientedPoints

__all__ = ["ReferenceSurfels", "Slot"]

_OPPOSES = -0.2


@dataclass
class Slot:
    """One sheet in one voxel: plain sums, divided only when asked."""

    weight: float = 0.0
    count: int = 0
    first: int = 0
    last: int = 0
    view: Hashable = None
    view_mass: float = 0.0
    position_sum: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    normal_sum: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    color_sum: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))

    @property
    def position_m(self) -> npt.NDArray[np.float64]:
        return self.position_sum / self.weight

    @property
    def normal(self) -> npt.NDArray[np.float64]:
        return self.normal_sum / self.weight

    @property
    def color(self) -> npt.NDArray[np.float64]:
        return self.color_sum / self.weight


class ReferenceSurfels:
    """voxel -> at most two slots; the second one is for normals that oppose the first."""

    def __init__(self, voxel_m: float, view_mass_cap: float) -> None:
        self.voxel_m = voxel_m
        self.cap = view_mass_cap
        self.voxels: dict[tuple[int, int, int], list[Slot]] = {}

    def integrate(self, points: OrientedPoints, frame: int, view: Hashable) -> None:
        """Fuse the points of one frame seen from viewpoint ``view``."""
        for i in range(len(points)):
            position = points.positions_m[i]
            normal = points.normals[i].astype(np.float64)
            x, y, z = (int(k) for k in np.floor(position / self.voxel_m))
            slots = self.voxels.setdefault((x, y, z), [])
            slot = self._slot(slots, normal, frame)
            if slot.view != view:
                slot.view, slot.view_mass = view, 0.0
            w = float(points.incidence_cos[i]) / float(points.sigma_m[i]) ** 2
            w = min(w, max(self.cap * w - slot.view_mass, 0.0))
            slot.view_mass += w
            slot.last = frame
            slot.count += 1
            slot.weight += w
            slot.position_sum += w * position
            slot.normal_sum += w * normal
            if points.color is not None:
                slot.color_sum += w * points.color[i].astype(np.float64)

    @staticmethod
    def _slot(slots: list[Slot], normal: npt.NDArray[np.float64], frame: int) -> Slot:
        for number, slot in enumerate(slots):
            opposes = slot.normal_sum @ normal < _OPPOSES * np.linalg.norm(slot.normal_sum)
            if not opposes or number == 1:
                return slot
        slots.append(Slot(first=frame))
        return slots[-1]
