"""Folders of depth images: 7-Scenes and TUM RGB-D."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from streamdgp.datasets._dataset import Dataset, fingerprint
from streamdgp.datasets._images import read_color, read_depth_counts
from streamdgp.datasets._options import ReaderOptions
from streamdgp.datasets._poses import pose_from_quaternion
from streamdgp.datasets._text import parse_numbers, read_numbers, read_rows
from streamdgp.errors import DatasetError
from streamdgp.frames import DepthFrame, Intrinsics

__all__ = ["open_seven_scenes", "open_tum"]

_NO_RETURN_7SCENES = 65535
_TUM_MAX_DELAY_S = 0.02
# The intrinsics that TUM recommends for its pre-registered depth images of all three cameras.
_TUM_INTRINSICS = Intrinsics(525.0, 525.0, 319.5, 239.5)
_INTRINSICS_FILE = "camera-intrinsics.txt"


@dataclass(frozen=True)
class _DepthSource:
    """One depth image with its pose, given or in a file of its own."""

    name: str
    depth_file: Path
    pose: npt.NDArray[np.float64] | Path
    intrinsics: Intrinsics
    units_per_m: float
    no_return: int
    range_m: tuple[float, float]
    color_file: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.depth_file,) if self.color_file is None else (self.depth_file, self.color_file)

    @property
    def fingerprint(self) -> bytes:
        k = self.intrinsics
        settings = (k.fx, k.fy, k.cx, k.cy, self.units_per_m, *self.range_m)
        return fingerprint(self._world_T_camera(), *settings)

    def _world_T_camera(self) -> npt.NDArray[np.float64]:
        if isinstance(self.pose, Path):
            return read_numbers(self.pose, 16, "a 4x4 pose camera-to-world").reshape(4, 4)
        return self.pose

    def load(self) -> DepthFrame:
        counts = read_depth_counts(self.depth_file)
        depth_m = counts.astype(np.float32) / np.float32(self.units_per_m)
        depth_m[counts == self.no_return] = 0.0
        color = (
            None
            if self.color_file is None
            else read_color(self.color_file, (counts.shape[0], counts.shape[1]))
        )
        return DepthFrame(
            depth_m, self.intrinsics, self._world_T_camera(), self.range_m[0], self.range_m[1], color
        )


def _read_intrinsics(path: Path) -> Intrinsics:
    holds = "a 3x3 camera matrix"
    numbers = parse_numbers(" ".join(word for row in read_rows(path, holds) for word in row), path, holds)
    if numbers.size not in (9, 16):
        raise DatasetError(f"{holds} in {path}", f"{numbers.size} numbers", "Write 3 rows of 3 numbers.")
    side = 3 if numbers.size == 9 else 4
    matrix = numbers.reshape(side, side)
    return Intrinsics(matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2])


def open_seven_scenes(folder: Path, options: ReaderOptions) -> Dataset:
    """``frame-NNNNNN.depth.png`` (uint16 millimetres, 0 and 65535 = no return) with ``.pose.txt``.

    The pose is 4x4 camera-to-world; ``camera-intrinsics.txt`` lies in the folder or above it.
    ``NAME.color.jpg|png`` is read only with ``color=True``: it is not registered to depth in
    7-Scenes itself.

    Raises
    ------
    DatasetError
        No intrinsics, or a depth image without a pose file.
    """
    depth_files = sorted(folder.glob("*.depth.png"))
    if not depth_files:
        raise DatasetError(f"*.depth.png in {folder}", "none", "Check the folder and the format.")
    intrinsics = options.pinhole()
    if intrinsics is None:
        above = folder.parent / _INTRINSICS_FILE
        own = folder / _INTRINSICS_FILE
        intrinsics = _read_intrinsics(above if above.is_file() and not own.is_file() else own)
    frames = []
    for depth_file in depth_files:
        name = depth_file.name.removesuffix(".depth.png")
        pose_file = folder / f"{name}.pose.txt"
        if not pose_file.is_file():
            raise DatasetError(
                f"a pose file {pose_file.name} for {depth_file.name} in {folder}",
                "no such file",
                "Write the 4x4 pose camera-to-world there, or remove the depth image.",
            )
        colors = [folder / f"{name}.color.{suffix}" for suffix in ("png", "jpg")] if options.color else []
        color_file = next((path for path in colors if path.is_file()), None)
        scale = options.depth_scale or 1000.0
        range_m = options.range_m(0.1, 10.0)
        frames.append(
            _DepthSource(
                name, depth_file, pose_file, intrinsics, scale, _NO_RETURN_7SCENES, range_m, color_file
            )
        )
    return Dataset("7scenes", folder, frames)


def _read_stamped(path: Path, columns: int, holds: str) -> tuple[npt.NDArray[np.float64], list[list[str]]]:
    """Timestamps (N,) ascending and the words after them, of a TUM list file."""
    rows = read_rows(path, holds)
    if any(len(row) != columns + 1 for row in rows):
        bad = next(k for k, row in enumerate(rows) if len(row) != columns + 1)
        raise DatasetError(
            f"{holds} in {path}", f"{len(rows[bad])} words in data row {bad + 1}", "Restore the file."
        )
    stamps = parse_numbers(" ".join(row[0] for row in rows), path, holds)
    order = np.argsort(stamps, kind="stable")
    return stamps[order], [rows[k][1:] for k in order]


def _nearest(stamps_s: npt.NDArray[np.float64], stamp_s: float) -> int | None:
    """Index of the nearest timestamp within 20 ms, or None."""
    k = int(np.searchsorted(stamps_s, stamp_s))
    best = min(range(max(k - 1, 0), min(k + 1, len(stamps_s))), key=lambda j: abs(stamps_s[j] - stamp_s))
    return best if abs(stamps_s[best] - stamp_s) <= _TUM_MAX_DELAY_S else None


def open_tum(folder: Path, options: ReaderOptions) -> Dataset:
    """TUM RGB-D: ``depth.txt``, ``groundtruth.txt`` and ``rgb.txt``, depth counts of 1/5000 m.

    Poses (tx ty tz qx qy qz qw, camera to world) and colour go to the depth image of the nearest
    timestamp within 20 ms; depth images without a pose are listed in ``skipped``. Intrinsics are
    the option, else ``camera-intrinsics.txt``, else TUM's recommended 525, 525, 319.5, 239.5.

    Raises
    ------
    DatasetError
        A list or an image is missing or malformed, or no image has a pose.
    """
    depth_s, depth_names = _read_stamped(folder / "depth.txt", 1, "lines 'timestamp filename'")
    pose_s, pose_words = _read_stamped(
        folder / "groundtruth.txt", 7, "lines 'timestamp tx ty tz qx qy qz qw'"
    )
    color_list = folder / "rgb.txt"
    has_color = options.color is not False and color_list.is_file()
    color_s, color_names = (
        _read_stamped(color_list, 1, "lines 'timestamp filename'") if has_color else ([], [])
    )
    intrinsics = options.pinhole()
    if intrinsics is None:
        own = folder / _INTRINSICS_FILE
        intrinsics = _read_intrinsics(own) if own.is_file() else _TUM_INTRINSICS
    frames, skipped = [], []
    for stamp_s, (filename,) in zip(depth_s, depth_names, strict=True):
        k = _nearest(pose_s, stamp_s)
        if k is None:
            skipped.append(f"{filename}: no pose within {_TUM_MAX_DELAY_S * 1e3:.0f} ms")
            continue
        depth_file = folder / filename
        if not depth_file.is_file():
            raise DatasetError(
                f"the depth image {depth_file} that depth.txt lists", "no such file", "Restore it."
            )
        where = f"groundtruth.txt at {pose_s[k]:.6f} s"
        pose = pose_from_quaternion(
            parse_numbers(" ".join(pose_words[k]), folder / "groundtruth.txt", "poses"), where
        )
        c = _nearest(np.asarray(color_s), stamp_s) if has_color else None
        color_file = None if c is None else folder / color_names[c][0]
        scale = options.depth_scale or 5000.0
        frames.append(
            _DepthSource(
                depth_file.stem,
                depth_file,
                pose,
                intrinsics,
                scale,
                0,
                options.range_m(0.1, 10.0),
                color_file,
            )
        )
    if not frames:
        raise DatasetError(
            f"a pose within {_TUM_MAX_DELAY_S * 1e3:.0f} ms of a depth image in {folder}",
            f"none for {len(depth_s)} images ({depth_s[0]:.3f} to {depth_s[-1]:.3f} s, "
            f"poses {pose_s[0]:.3f} to {pose_s[-1]:.3f} s)",
            "Check that both files use the same clock.",
        )
    return Dataset("tum", folder, frames, tuple(skipped))
