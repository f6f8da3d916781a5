"""A few frames of real scans: no error, a plausible surface."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from streamdgp.config import SceneConfig
from streamdgp.datasets import open_dataset
from streamdgp.frames.orient import orient
from streamdgp.reconstructor import Reconstructor
from streamdgp.surface import weld_tiles
from tests.data import data_folder


def test_kitchen() -> None:
    """Every hundredth frame at a coarse voxel; the mesh lies on the points it came from."""
    frames = list(open_dataset(data_folder("rgbd-kitchen")).subset(every=100))
    r = Reconstructor(SceneConfig(evidence_voxel_m=0.04))
    points = []
    for frame in frames[:3]:
        report = r.integrate(frame)
        assert report.points > 50_000
        assert report.charts_created > 0
        points.append(orient(frame, 0.1).positions_m[::7])
    mesh = weld_tiles(r.surface().tiles())
    assert len(mesh.triangles) > 5_000
    assert np.isfinite(mesh.vertices).all()
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1, atol=1e-4)
    gap, _ = cKDTree(np.concatenate(points)).query(mesh.vertices)
    assert np.median(gap) < 0.02
    assert np.quantile(gap, 0.95) < 0.08
    back, _ = cKDTree(mesh.vertices).query(np.concatenate(points)[::11])
    assert np.quantile(back, 0.9) < 0.06


def test_kitchen_defaults_choose_a_sensible_scale() -> None:
    frame = open_dataset(data_folder("rgbd-kitchen")).read(0)
    r = Reconstructor(SceneConfig())
    r.integrate(frame)
    voxel = r.config.evidence_voxel_m
    assert voxel is not None
    # 640 x 480 at one to four metres: pixels of 2 to 7 mm, sigma of 2 to 25 mm.
    assert 0.004 < voxel < 0.03
