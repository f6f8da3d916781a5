"""Scans that several test files share, made once per session: the analytic shape and its reconstruction."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from streamdgp.config import SceneConfig
from streamdgp.frames import Frame, FrameReport
from streamdgp.reconstructor import Reconstructor
from streamdgp.surface import Mesh, weld_tiles
from tests.reference.shapes import Box, Plane, Saddle, Shape, Sphere, Torus, depth_frame, look_at, orbit

__all__ = ["SHAPES", "SIGMA_M", "VOXEL_M", "Scan", "scan", "scan_frames"]

VOXEL_M = 0.01
SIGMA_M = 0.0013
"""Sensor noise at the distance of these scans (0.6 to 0.7 m)."""

SHAPES: dict[str, Shape] = {
    "sphere": Sphere((0.013, -0.007, 0.004), 0.2),
    "torus": Torus(0.2, 0.09),
    "plane": Plane((0.0, 0.0, 0.003), (0.05, 0.03, 1.0)),
    "saddle": Saddle(2.0, 0.35),
    "crease": Box((-0.2, -0.2, -0.2), (0.2, 0.2, 0.2)),
    "slab": Box((-0.2, -0.2, -0.005), (0.2, 0.2, 0.005)),
}


@dataclass(frozen=True)
class Scan:
    """A finished reconstruction of a known shape."""

    shape: Shape
    reconstructor: Reconstructor
    reports: tuple[FrameReport, ...]
    mesh: Mesh

    def error_m(self) -> npt.NDArray[np.float64]:
        """Distance of every vertex to the true surface."""
        return self.shape.distance(self.mesh.vertices)


def _poses(name: str) -> list[npt.NDArray[np.float64]]:
    if name in ("plane", "saddle"):
        return [look_at((x, y, 0.65), (0.3 * x, 0.3 * y, 0)) for x in (-0.12, 0.15) for y in (-0.13, 0.11)]
    if name == "slab":
        return [
            look_at((0.25 * np.cos(a) + 0.01, 0.25 * np.sin(a), z), (0, 0, 0))
            for z in (0.5, -0.5)
            for a in (0, 1.6, 3.1, 4.7)
        ]
    if name == "crease":
        return orbit(14, 0.75)
    return orbit(12, 0.65)


def scan_frames(name: str, noisy: bool) -> list[Frame]:
    """The depth frames of a scan, 96 x 72 pixels."""
    rng = np.random.default_rng(7)
    return [
        depth_frame(SHAPES[name], pose, width=96, height=72, focal=100.0, rng=rng if noisy else None)
        for pose in _poses(name)
    ]


@lru_cache(maxsize=16)
def scan(name: str, noisy: bool) -> Scan:
    """Reconstruct a shape from its frames with defaults but for the voxel."""
    r = Reconstructor(SceneConfig(evidence_voxel_m=VOXEL_M, resolution_m=VOXEL_M))
    reports = tuple(r.integrate(frame) for frame in scan_frames(name, noisy))
    return Scan(SHAPES[name], r, reports, weld_tiles(r.surface().tiles()))
