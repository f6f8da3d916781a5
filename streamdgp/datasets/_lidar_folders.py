"""Folders of LiDAR scans: KITTI odometry and submaps with a pose graph."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from streamdgp.datasets._dataset import Dataset, fingerprint
from streamdgp.datasets._options import ReaderOptions
from streamdgp.datasets._poses import pose_from_quaternion, read_pose_file
from streamdgp.datasets._text import parse_numbers, read_rows
from streamdgp.errors import DatasetError
from streamdgp.frames import PointFrame

__all__ = ["open_kitti", "open_submaps", "read_bin"]

_VERTEX_NAME = re.compile(r"v(\d+)")


def read_bin(path: Path, columns: int) -> npt.NDArray[np.float32]:
    """Points (N, 3) of a headerless file of little-endian float32 rows of ``columns`` values.

    Raises
    ------
    DatasetError
        Missing, or its size is no whole number of rows.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"a readable scan {path}", str(error), "Restore it.") from error
    row_bytes = 4 * columns
    if len(data) % row_bytes:
        raise DatasetError(
            f"whole rows of {columns} float32 ({row_bytes} bytes) in {path}",
            f"{len(data)} bytes",
            "The file is truncated, or its layout (xyz or xyzi) is another one.",
        )
    return np.ascontiguousarray(
        np.frombuffer(data, dtype="<f4").reshape(-1, columns)[:, :3], dtype=np.float32
    )


@dataclass(frozen=True)
class _LidarSource:
    """One headerless scan with its pose."""

    name: str
    file: Path
    columns: int
    world_T_lidar: npt.NDArray[np.float64]
    range_m: tuple[float, float]

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.file,)

    @property
    def fingerprint(self) -> bytes:
        return fingerprint(self.world_T_lidar, self.columns, *self.range_m)

    def load(self) -> PointFrame:
        return PointFrame(
            read_bin(self.file, self.columns),
            self.world_T_lidar,
            min_range_m=self.range_m[0],
            max_range_m=self.range_m[1],
            is_lidar=True,
        )


def _read_cam0_T_velo(path: Path) -> npt.NDArray[np.float64]:
    holds = "a line 'Tr:' with the 3x4 transform LiDAR to camera 0"
    rows = {row[0].rstrip(":"): row[1:] for row in read_rows(path, holds)}
    words = rows.get("Tr") or rows.get("Tr_velo_to_cam")
    if words is None:
        raise DatasetError(
            f"{holds} in {path}",
            f"the lines {', '.join(rows)}",
            "Add it: '1 0 0 0 0 1 0 0 0 0 1 0' if none is needed.",
        )
    numbers = parse_numbers(" ".join(words), path, holds)
    if numbers.size != 12:
        raise DatasetError(f"{holds} (12 numbers) in {path}", f"{numbers.size} numbers", "Restore the file.")
    return np.vstack([numbers.reshape(3, 4), [0.0, 0.0, 0.0, 1.0]])


def open_kitti(folder: Path, options: ReaderOptions) -> Dataset:
    """KITTI odometry: ``velodyne/*.bin`` (xyzi float32), ``poses.txt`` and ``calib.txt``.

    ``poses.txt`` (or ``../../poses/NN.txt``) holds one 3x4 matrix per scan, camera 0 of frame i in
    the frame of the first camera 0, which is the world; ``Tr`` of ``calib.txt`` maps the LiDAR to
    camera 0, hence ``world_T_lidar = poses[i] @ Tr``. Range 0.5 to 200 m.

    Raises
    ------
    DatasetError
        No scans, no poses, no ``Tr``, or not as many poses as scans.
    """
    scans = sorted((folder / "velodyne").glob("*.bin"))
    if not scans:
        raise DatasetError(f"scans velodyne/*.bin in {folder}", "none", "Check the folder and the format.")
    pose_file = options.poses or folder / "poses.txt"
    beside = folder.parent.parent / "poses" / f"{folder.resolve().name}.txt"
    if options.poses is None and not pose_file.is_file() and beside.is_file():
        pose_file = beside
    poses = read_pose_file(pose_file)
    if len(poses) != len(scans):
        raise DatasetError(
            f"one pose per scan: {len(scans)} scans in {folder / 'velodyne'}",
            f"{len(poses)} poses in {pose_file}",
            "Cut both to the same frames.",
        )
    cam0_T_velo = _read_cam0_T_velo(folder / "calib.txt")
    columns = options.bin_columns() or 4
    range_m = options.range_m(0.5, 200.0)
    frames = [
        _LidarSource(scan.stem, scan, columns, world_T_cam0 @ cam0_T_velo, range_m)
        for scan, world_T_cam0 in zip(scans, poses, strict=True)
    ]
    return Dataset("kitti", folder, frames)


def open_submaps(folder: Path, options: ReaderOptions) -> Dataset:
    """Submaps of a LiDAR SLAM: ``graph.txt`` and ``NNNNNN/points.bin`` (xyz float32).

    A line ``v<i> tx ty tz qx qy qz qw`` is the pose submap-to-world of ``%06d`` % i; other lines
    (edges) are not used. Points carry no origin of their own: the submap's stands for it.

    Raises
    ------
    DatasetError
        No graph, a submap without points or points without a vertex, malformed lines.
    """
    graph = folder / "graph.txt"
    holds = "lines 'v<i> tx ty tz qx qy qz qw'"
    poses: dict[int, npt.NDArray[np.float64]] = {}
    for row in read_rows(graph, holds):
        match = _VERTEX_NAME.fullmatch(row[0])
        if match is None:
            continue
        if len(row) != 8:
            raise DatasetError(f"{holds} in {graph}", f"{len(row)} words after {row[0]}", "Restore the file.")
        numbers = parse_numbers(" ".join(row[1:]), graph, holds)
        poses[int(match[1])] = pose_from_quaternion(numbers, f"{graph} {row[0]}")
    on_disk = {
        int(path.parent.name): path for path in folder.glob("*/points.bin") if path.parent.name.isdigit()
    }
    if not poses or poses.keys() != on_disk.keys():
        raise DatasetError(
            f"one NNNNNN/points.bin per vertex of {graph}",
            f"vertices {sorted(poses)} and submaps {sorted(on_disk)}",
            "Restore the missing ones.",
        )
    columns = options.bin_columns() or 3
    range_m = options.range_m(0.0, 1e4)
    frames = [_LidarSource(f"{i:06d}", on_disk[i], columns, poses[i], range_m) for i in sorted(poses)]
    return Dataset("submaps", folder, frames)
