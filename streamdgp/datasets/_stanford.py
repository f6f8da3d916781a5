"""Range scans of the Stanford 3D Scanning Repository: a ``.conf`` and range-grid PLY files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from streamdgp.datasets._dataset import Dataset, fingerprint
from streamdgp.datasets._options import ReaderOptions
from streamdgp.datasets._ply import read_ply
from streamdgp.datasets._poses import rotation_from_quaternion
from streamdgp.datasets._text import parse_numbers, read_rows
from streamdgp.errors import DatasetError
from streamdgp.frames import PointFrame

__all__ = ["open_stanford"]

# The scanner sweeps a laser sheet along x and looks along -z from about this far (the files'
# echo_rgb_frontfocus is 0.93 m). On the bunny's ten scans at least 99.97 % of the grid normals
# turned towards this point agree in sign with the lab's own mesh.
_SCANNER_DISTANCE_M = 1.0


@dataclass(frozen=True)
class _RangeGridSource:
    """One range grid with its registration."""

    name: str
    file: Path
    world_T_scan: npt.NDArray[np.float64]
    range_m: tuple[float, float]

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.file,)

    @property
    def fingerprint(self) -> bytes:
        return fingerprint(self.world_T_scan, *self.range_m)

    def load(self) -> PointFrame:
        points_m = _read_grid(self.file)
        seen = points_m[np.isfinite(points_m).all(axis=-1)]
        low, high = (seen.min(axis=0), seen.max(axis=0)) if len(seen) else (np.zeros(3), np.zeros(3))
        x, y, z = (float(value) for value in (low + high) / 2)
        return PointFrame(
            points_m,
            self.world_T_scan,
            sensor_origin_m=(x, y, z + _SCANNER_DISTANCE_M),
            min_range_m=self.range_m[0],
            max_range_m=self.range_m[1],
        )


def _read_grid(path: Path) -> npt.NDArray[np.float32]:
    """Points (rows, columns, 3) of the range grid, NaN where the laser gave no return."""
    ply = read_ply(path)
    vertices = ply.columns("x", "y", "z")
    try:
        rows, columns = int(ply.info["num_rows"]), int(ply.info["num_cols"])
    except (KeyError, ValueError) as error:
        raise DatasetError(
            f"obj_info num_rows and num_cols in {path}", f"{sorted(ply.info)}", "Use the scans, not the mesh."
        ) from error
    if vertices is None or ply.range_grid is None or ply.range_grid.size != rows * columns:
        cells = 0 if ply.range_grid is None else ply.range_grid.size
        raise DatasetError(
            f"x y z and a range grid of {rows} × {columns} cells in {path}",
            f"{cells} cells",
            "Copy the file again.",
        )
    with_gap = np.vstack([vertices, np.full((1, 3), np.nan, np.float32)])  # index -1 is the gap
    return with_gap[ply.range_grid].reshape(rows, columns, 3)


def find_conf(path: Path) -> Path | None:
    """The one ``.conf`` of a folder or of its ``data/``, or None."""
    if path.suffix == ".conf":
        return path
    found = sorted([*path.glob("*.conf"), *path.glob("data/*.conf")])
    if len(found) > 1:
        raise DatasetError(
            f"one .conf in {path}", ", ".join(conf.name for conf in found), "Name the .conf file itself."
        )
    return found[0] if found else None


def open_stanford(path: Path, options: ReaderOptions) -> Dataset:
    """A ``.conf`` with lines ``bmesh file tx ty tz qx qy qz qw`` and the range grids it names.

    A point maps to world as ``p_world = R(q)ᵀ p + t``: the quaternion is the inverse rotation.
    The sensor stands 1 m along +z of the scan's centre. Lengths are metres.

    Raises
    ------
    DatasetError
        No ``.conf``, malformed lines, or a scan that is missing.
    """
    conf = find_conf(path)
    holds = "lines 'bmesh file tx ty tz qx qy qz qw'"
    if conf is None:
        raise DatasetError(f"a .conf with {holds} in {path}", "none", "Check the folder and the format.")
    frames = []
    for row in read_rows(conf, holds):
        if row[0] != "bmesh":
            continue
        if len(row) != 9:
            raise DatasetError(
                f"{holds} in {conf}", f"{len(row)} words: {' '.join(row[:2])} ...", "Restore it."
            )
        scan = conf.parent / row[1]
        if not scan.is_file():
            raise DatasetError(f"the scan {scan} that {conf.name} lists", "no such file", "Restore it.")
        numbers = parse_numbers(" ".join(row[2:]), conf, holds)
        pose = np.eye(4)
        pose[:3, :3] = rotation_from_quaternion(numbers[3:], f"{conf} {row[1]}").T
        pose[:3, 3] = numbers[:3]
        frames.append(_RangeGridSource(scan.stem, scan, pose, options.range_m(0.0, 1e4)))
    if not frames:
        raise DatasetError(f"{holds} in {conf}", "none", "Restore the file.")
    return Dataset("stanford", path, frames)
