"""Compile the kernels ahead of time: python -m streamdgp.warmup.

The first call of every compiled kernel takes seconds. A server calls this before it says it is ready,
and `make install` runs it once, so that the compiled code is on disk for everybody.
"""

from __future__ import annotations

import numpy as np

from streamdgp.atlas.changes import AtlasState
from streamdgp.frames import DepthFrame, Intrinsics, PointFrame
from streamdgp.reconstructor import Reconstructor

__all__ = ["warm_up"]


def warm_up() -> None:
    """Run a tiny scene through every compiled kernel: two views, tiles, commit and restore."""
    intrinsics = Intrinsics(40.0, 40.0, 19.5, 14.5)
    u = np.linspace(-1, 1, 40)[None] ** 2
    depth = (1.0 + 0.1 * u + np.zeros((30, 1))).astype(np.float32)
    reconstructor = Reconstructor()
    for step in range(2):
        pose = np.eye(4)
        pose[0, 3] = 0.05 * step
        reconstructor.integrate(DepthFrame(depth, intrinsics, pose))
    list(reconstructor.surface().tiles())
    changes = reconstructor.changes()
    tables = {name: {k: v.copy() for k, v in table.columns.items()} for name, table in changes.tables.items()}
    Reconstructor.restore(AtlasState(tables, changes.arrays, changes.metadata))
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    ring = np.stack([4 * np.cos(angle), 4 * np.sin(angle), np.zeros_like(angle)], 1)
    scan = np.concatenate([ring + np.array([0.0, 0.0, z]) for z in np.linspace(-0.5, 0.5, 12)]).astype(
        np.float32
    )
    Reconstructor().integrate(PointFrame(scan, np.eye(4), is_lidar=True))


if __name__ == "__main__":
    warm_up()
