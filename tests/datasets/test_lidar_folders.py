"""KITTI folders and submaps: transforms, counts, truncation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streamdgp.datasets import open_dataset
from streamdgp.errors import DatasetError
from streamdgp.frames import PointFrame
from tests.datasets.builders import kitti, rotation_z, submaps


def test_kitti_pose_is_camera_pose_times_calibration(tmp_path: Path) -> None:
    dataset = open_dataset(kitti(tmp_path / "scan"))
    assert (dataset.format, len(dataset)) == ("kitti", 3)
    frame = dataset.read(2)
    assert isinstance(frame, PointFrame)
    assert frame.is_lidar
    assert frame.has_origin
    np.testing.assert_array_equal(frame.points_m, np.arange(16.0).reshape(4, 4)[:, :3] + 2)
    # LiDAR forward (x) is the camera's z; after 2 m of driving a point 5 m ahead is at z = 7.
    ahead = frame.world_T_sensor @ [5.0, 0, 0, 1]
    np.testing.assert_allclose(ahead[:3], [0, -0.3, 7])


def test_kitti_poses_in_the_benchmarks_own_layout(tmp_path: Path) -> None:
    folder = kitti(tmp_path / "sequences" / "07")
    (tmp_path / "poses").mkdir()
    (folder / "poses.txt").rename(tmp_path / "poses" / "07.txt")
    assert len(open_dataset(folder)) == 3


def test_kitti_counts_must_agree(tmp_path: Path) -> None:
    folder = kitti(tmp_path / "scan")
    (folder / "velodyne" / "000002.bin").unlink()
    with pytest.raises(DatasetError, match=r"2 scans .* got 3 poses"):
        open_dataset(folder)


@pytest.mark.parametrize(("name", "message"), [("poses.txt", "poses.txt"), ("calib.txt", "calib.txt")])
def test_kitti_missing_files_are_named(tmp_path: Path, name: str, message: str) -> None:
    folder = kitti(tmp_path / "scan")
    (folder / name).unlink()
    with pytest.raises(DatasetError, match=message):
        open_dataset(folder)


def test_kitti_calibration_without_tr(tmp_path: Path) -> None:
    folder = kitti(tmp_path / "scan")
    (folder / "calib.txt").write_text("P0: 1 0 0 0 0 1 0 0 0 0 1 0\n")
    with pytest.raises(DatasetError, match="got the lines P0"):
        open_dataset(folder)
    (folder / "calib.txt").write_text("Tr: 1 0 0 0\n")
    with pytest.raises(DatasetError, match="got 4 numbers"):
        open_dataset(folder)


def test_kitti_truncated_scan_and_layout(tmp_path: Path) -> None:
    folder = kitti(tmp_path / "scan")
    (folder / "velodyne" / "000000.bin").write_bytes(b"\0" * 24)
    with pytest.raises(DatasetError, match="truncated"):
        open_dataset(folder).read(0)
    frame = open_dataset(folder, layout="xyz").read(0)
    assert isinstance(frame, PointFrame)
    assert frame.points_m.shape == (2, 3)


def test_kitti_without_scans(tmp_path: Path) -> None:
    (tmp_path / "velodyne").mkdir()
    with pytest.raises(DatasetError, match=r"velodyne/\*.bin"):
        open_dataset(tmp_path)


def test_submaps(tmp_path: Path) -> None:
    dataset = open_dataset(submaps(tmp_path / "scan"))
    assert (dataset.format, dataset.frame_names) == ("submaps", ["000000", "000001"])
    frame = dataset.read(1)
    assert isinstance(frame, PointFrame)
    assert frame.points_m.shape == (5, 3)
    assert frame.sensor_origin_m == (0.0, 0.0, 0.0)
    np.testing.assert_allclose(frame.world_T_sensor[:3, :3], rotation_z(np.pi / 2), atol=1e-7)
    np.testing.assert_allclose(frame.world_T_sensor[:3, 3], [1, 2, 3])


def test_submaps_must_match_the_graph(tmp_path: Path) -> None:
    folder = submaps(tmp_path / "scan")
    (folder / "000001" / "points.bin").unlink()
    with pytest.raises(DatasetError, match=r"vertices \[0, 1\] and submaps \[0\]"):
        open_dataset(folder)
