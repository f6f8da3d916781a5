"""The real scans open by themselves and hold what their notes say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from streamdgp.datasets import open_dataset
from streamdgp.errors import DatasetError
from streamdgp.frames import DepthFrame, PointFrame
from streamdgp.meshes import RayScene, read_mesh
from tests.data import data_folder


def test_kitchen() -> None:
    dataset = open_dataset(data_folder("rgbd-kitchen"))
    assert (dataset.format, len(dataset)) == ("7scenes", 300)
    frame = dataset.read(0)
    assert isinstance(frame, DepthFrame)
    assert frame.depth_m.shape == (480, 640)
    seen = frame.depth_m[frame.depth_m > 0]
    assert 0.4 < seen.min() < seen.max() < 10
    assert len({dataset.checksum(k) for k in range(0, 300, 30)}) == 10


@pytest.mark.parametrize("index", [0, 2, 5, 8])
def test_bunny_normals_turned_to_the_scanner_agree_with_the_labs_mesh(index: int) -> None:
    """At least 99 % (measured: 99.97 %), away from jumps; scan to mesh: median 0.06 mm."""
    frame = open_dataset(data_folder("scans", "stanford-bunny")).read(index)
    assert isinstance(frame, PointFrame)
    grid = frame.points_m.astype(np.float64)
    assert grid.shape == (400, 512, 3)
    along = [grid[1:-1, 2:], grid[1:-1, :-2], grid[2:, 1:-1], grid[:-2, 1:-1]]
    middle = grid[1:-1, 1:-1]
    with np.errstate(invalid="ignore"):
        smooth = np.all([np.linalg.norm(side - middle, axis=-1) < 0.0025 for side in along], axis=0)
    points = middle[smooth]
    normals = np.cross(along[0] - along[1], along[2] - along[3])[smooth]
    normals *= np.sign(((np.array(frame.sensor_origin_m) - points) * normals).sum(axis=1))[:, None]
    pose = frame.world_T_sensor
    reference = read_mesh(data_folder("scans", "stanford-bunny", "reconstruction", "bun_zipper.ply"))
    distances, mesh_normals = RayScene(reference).closest(points @ pose[:3, :3].T + pose[:3, 3])
    assert np.median(distances) < 1.5e-4
    assert (((normals @ pose[:3, :3].T) * mesh_normals).sum(axis=1) > 0).mean() > 0.99


def test_submaps_overlap_where_their_poses_put_them() -> None:
    """Neighbouring submaps see the same street: most points of one lie near the other."""
    dataset = open_dataset(data_folder("lidar", "kitti07-submaps"))
    assert (dataset.format, len(dataset)) == ("submaps", 5)
    clouds = []
    for frame in (dataset.read(0), dataset.read(1)):
        assert isinstance(frame, PointFrame)
        assert frame.is_lidar
        clouds.append(frame.points_m @ frame.world_T_sensor[:3, :3].T + frame.world_T_sensor[:3, 3])
    gap, _ = cKDTree(clouds[0]).query(clouds[1])
    assert (gap < 0.5).mean() > 0.7


def test_benchmark_cloud_with_normals() -> None:
    dataset = open_dataset(data_folder("scans", "srb", "anchor.ply"), unit="mm")
    frame = dataset.read(0)
    assert isinstance(frame, PointFrame)
    assert frame.points_m.shape == (85127, 3)
    assert frame.normals is not None
    assert not frame.has_origin
    assert np.ptp(frame.points_m, axis=0).max() == pytest.approx(0.075, rel=0.3)


def test_folders_that_are_no_scans_say_why() -> None:
    with pytest.raises(DatasetError, match="pose file"):
        open_dataset(data_folder("lidar", "kitti00-pair"))
    with pytest.raises(DatasetError, match=r"cow\.obj"):
        open_dataset(data_folder("meshes"))
