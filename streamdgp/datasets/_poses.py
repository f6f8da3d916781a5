"""Poses from quaternions and from the usual pose files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from streamdgp.datasets._text import parse_numbers, read_rows
from streamdgp.errors import DatasetError

__all__ = ["pose_from_quaternion", "read_pose_file", "rotation_from_quaternion"]

_NORM_TOLERANCE = 0.01


def rotation_from_quaternion(quaternion_xyzw: npt.NDArray[np.float64], where: str) -> npt.NDArray[np.float64]:
    """Rotation matrix (3, 3) of a quaternion (qx, qy, qz, qw) of norm 1 (to 1 %: files are rounded).

    Raises
    ------
    DatasetError
        The norm is off; ``where`` names the place.
    """
    norm = float(np.linalg.norm(quaternion_xyzw))
    if not abs(norm - 1.0) <= _NORM_TOLERANCE:
        raise DatasetError(
            f"a unit quaternion qx qy qz qw in {where}", f"norm {norm:.4g}", "Check the order of the columns."
        )
    x, y, z, w = quaternion_xyzw / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def pose_from_quaternion(numbers: npt.NDArray[np.float64], where: str) -> npt.NDArray[np.float64]:
    """``world_T_sensor`` (4, 4) from tx ty tz qx qy qz qw."""
    pose = np.eye(4)
    pose[:3, :3] = rotation_from_quaternion(numbers[3:7], where)
    pose[:3, 3] = numbers[:3]
    return pose


def read_pose_file(path: Path) -> list[npt.NDArray[np.float64]]:
    """Poses ``world_T_sensor``, one per row, in any of the usual row formats.

    12 numbers are a 3x4 matrix (KITTI), 16 a 4x4 matrix, 7 are tx ty tz qx qy qz qw, 8 the same
    after a timestamp (TUM); rows of 4 numbers are 4x4 matrices one below the other.

    Raises
    ------
    DatasetError
        Missing file, rows of different or other lengths, tokens that are no numbers.
    """
    holds = "poses (rows of 12, 16, 7 or 8 numbers, or 4x4 matrices)"
    rows = read_rows(path, holds)
    widths = {len(row) for row in rows}
    if len(widths) != 1 or next(iter(widths)) not in (4, 7, 8, 12, 16):
        raise DatasetError(f"{holds} in {path}", f"rows of {sorted(widths)} numbers", "Restore the file.")
    width = widths.pop()
    table = parse_numbers(" ".join(word for row in rows for word in row), path, holds).reshape(-1, width)
    if width in (7, 8):
        return [pose_from_quaternion(row[-7:], f"{path} row {k + 1}") for k, row in enumerate(table)]
    if width == 12:
        last = np.broadcast_to([0.0, 0.0, 0.0, 1.0], (len(table), 1, 4))
        return list(np.concatenate([table.reshape(-1, 3, 4), last], axis=1))
    if len(table) % 4 and width == 4:
        raise DatasetError(f"{holds} in {path}", f"{len(table)} rows of 4 numbers", "Restore the file.")
    return list(table.reshape(-1, 4, 4))
