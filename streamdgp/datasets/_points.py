"""Point clouds: a folder of them with poses, or a single one with normals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from streamdgp.datasets._dataset import Dataset, fingerprint
from streamdgp.datasets._lidar_folders import read_bin
from streamdgp.datasets._options import ReaderOptions
from streamdgp.datasets._pcd import read_pcd
from streamdgp.datasets._ply import read_ply
from streamdgp.datasets._poses import read_pose_file
from streamdgp.datasets._text import parse_numbers, read_rows
from streamdgp.errors import DatasetError
from streamdgp.frames import PointFrame

__all__ = ["CLOUD_SUFFIXES", "POSE_FILES", "open_points"]

CLOUD_SUFFIXES: Final = (".ply", ".pcd", ".xyz", ".bin")
POSE_FILES: Final = ("poses.txt", "trajectory.txt", "groundtruth.txt")

_Floats = npt.NDArray[np.float32]
_Cloud = tuple[_Floats, _Floats | None, npt.NDArray[np.uint8] | None]


def _read_cloud(path: Path, columns: int | None) -> _Cloud:
    """Points, normals or None, colour or None, in the file's unit."""
    suffix = path.suffix.lower()
    if suffix == ".ply":
        ply = read_ply(path)
        points = ply.columns("x", "y", "z")
        if points is None:
            raise DatasetError(f"vertex properties x y z in {path}", ", ".join(ply.vertex), "Export them.")
        color = ply.columns("red", "green", "blue")
        has_bytes = color is not None and ply.vertex["red"].dtype == np.uint8
        return (
            points,
            ply.columns("nx", "ny", "nz"),
            color.astype(np.uint8) if color is not None and has_bytes else None,
        )
    if suffix == ".pcd":
        return (*read_pcd(path), None)
    if suffix == ".xyz":
        return (*_read_xyz(path), None)
    if columns is None:
        raise DatasetError(
            f"the layout of {path.name}, xyz or xyzi (a .bin does not say)",
            "none",
            "Give layout='xyz' or 'xyzi'.",
        )
    return read_bin(path, columns), None, None


def _read_xyz(path: Path) -> tuple[_Floats, _Floats | None]:
    """Text rows x y z, or x y z nx ny nz."""
    holds = "rows 'x y z' or 'x y z nx ny nz'"
    rows = read_rows(path, holds)
    widths = {len(row) for row in rows}
    if widths not in ({3}, {6}):
        raise DatasetError(f"{holds} in {path}", f"rows of {sorted(widths)} numbers", "Export those columns.")
    table = parse_numbers(" ".join(word for row in rows for word in row), path, holds)
    table = table.reshape(len(rows), -1)
    points = table[:, :3].astype(np.float32)
    return points, table[:, 3:].astype(np.float32) if table.shape[1] == 6 else None


@dataclass(frozen=True)
class _CloudSource:
    """One cloud; ``world_T_sensor`` None means that no sensor position is known."""

    name: str
    file: Path
    world_T_sensor: npt.NDArray[np.float64] | None
    columns: int | None
    unit_m: float
    range_m: tuple[float, float]
    is_lidar: bool
    with_color: bool

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.file,)

    @property
    def fingerprint(self) -> bytes:
        pose = np.eye(4) if self.world_T_sensor is None else self.world_T_sensor
        return fingerprint(
            pose, self.columns or 0, self.unit_m, *self.range_m, self.is_lidar, self.with_color
        )

    def load(self) -> PointFrame:
        points, normals, color = _read_cloud(self.file, self.columns)
        has_origin = self.world_T_sensor is not None
        if not has_origin and normals is None:
            raise DatasetError(
                f"normals (nx ny nz) in {self.file}, as there is no pose to say where the sensor was",
                "none",
                f"Export normals, or put the cloud in a folder with {POSE_FILES[0]}.",
            )
        return PointFrame(
            points * np.float32(self.unit_m),
            np.eye(4) if self.world_T_sensor is None else self.world_T_sensor,
            has_origin=has_origin,
            normals=normals,
            color=color if self.with_color else None,
            min_range_m=self.range_m[0],
            max_range_m=self.range_m[1],
            is_lidar=self.is_lidar,
        )


def find_clouds(folder: Path) -> list[Path]:
    """The folder's clouds, which must all be of one kind."""
    clouds = sorted(path for path in folder.iterdir() if path.suffix.lower() in CLOUD_SUFFIXES)
    kinds = {path.suffix.lower() for path in clouds}
    if len(kinds) > 1:
        raise DatasetError(
            f"clouds of one kind in {folder}", ", ".join(sorted(kinds)), "Move those that are no frames away."
        )
    return clouds


def _read_poses(folder: Path, clouds: list[Path], options: ReaderOptions) -> list[npt.NDArray[np.float64]]:
    found = [folder / name for name in POSE_FILES if (folder / name).is_file()]
    pose_file = options.poses or (found[0] if found else None)
    if pose_file is None:
        raise DatasetError(
            f"a pose file ({', '.join(POSE_FILES)}) for the {len(clouds)} clouds in {folder}",
            "none",
            "Add one with a row per cloud, or open a single cloud with normals by its file name.",
        )
    poses = read_pose_file(pose_file)
    if len(poses) != len(clouds):
        raise DatasetError(
            f"one pose per cloud: {len(clouds)} clouds in {folder}",
            f"{len(poses)} poses in {pose_file}",
            "Cut both to the same frames.",
        )
    return poses


def open_points(path: Path, options: ReaderOptions) -> Dataset:
    """A folder of clouds (PLY, PCD, XYZ, BIN) with a pose file, or a single cloud with normals.

    The n-th row of the pose file is ``world_T_sensor`` of the n-th cloud by name. A single cloud
    (a file) has no sensor position: its normals orient the surface. ``unit`` scales coordinates
    and pose translations to metres.

    Raises
    ------
    DatasetError
        No clouds, clouds of several kinds, no poses, or not as many poses as clouds.
    """
    unit_m = options.unit_m()
    poses: list[npt.NDArray[np.float64]] | list[None]
    if path.is_file():
        clouds, poses = [path], [None]
    else:
        clouds = find_clouds(path)
        if not clouds:
            raise DatasetError(
                f"point clouds (*{', *'.join(CLOUD_SUFFIXES)}) in {path}",
                "none",
                "Check the folder and the format.",
            )
        poses = _read_poses(path, clouds, options)
        for pose in poses:
            pose[:3, 3] *= unit_m
    columns = options.bin_columns()
    if columns is None and clouds[0].suffix.lower() == ".bin":
        raise DatasetError(
            f"the layout of the .bin files in {path}, xyz or xyzi (they do not say)",
            "none",
            "Give layout='xyz' or 'xyzi'.",
        )
    range_m, is_lidar, with_color = options.range_m(0.0, 1e4), bool(options.lidar), options.color is not False
    frames = [
        _CloudSource(cloud.stem, cloud, pose, columns, unit_m, range_m, is_lidar, with_color)
        for cloud, pose in zip(clouds, poses, strict=True)
    ]
    return Dataset("points", path, frames)
