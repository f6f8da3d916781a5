"""Finding the format of a scan by what lies in its folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from streamdgp.datasets._dataset import Dataset
from streamdgp.datasets._depth_folders import open_seven_scenes, open_tum
from streamdgp.datasets._lidar_folders import open_kitti, open_submaps
from streamdgp.datasets._options import ReaderOptions, parse_options
from streamdgp.datasets._points import CLOUD_SUFFIXES, find_clouds, open_points
from streamdgp.datasets._stanford import find_conf, open_stanford
from streamdgp.errors import DatasetError

__all__ = ["FORMATS", "open_dataset"]

_RANGE: Final = frozenset({"min_range_m", "max_range_m"})
_DEPTH: Final = _RANGE | {"intrinsics", "depth_scale", "color"}


@dataclass(frozen=True)
class _Format:
    """A format: how it is recognised, read, and which options it takes."""

    looks_for: str
    recognises: Callable[[Path], bool]
    open: Callable[[Path, ReaderOptions], Dataset]
    options: frozenset[str]


def _is_cloud_scan(path: Path) -> bool:
    return path.suffix.lower() in CLOUD_SUFFIXES if path.is_file() else bool(find_clouds(path))


# In the order of the test: a depth folder may also hold a truth.ply, so clouds come last.
_FORMATS: Final = {
    "7scenes": _Format(
        "*.depth.png with *.pose.txt", lambda path: any(path.glob("*.depth.png")), open_seven_scenes, _DEPTH
    ),
    "tum": _Format(
        "depth.txt with groundtruth.txt", lambda path: (path / "depth.txt").is_file(), open_tum, _DEPTH
    ),
    "kitti": _Format(
        "velodyne/*.bin with poses.txt and calib.txt",
        lambda path: (path / "velodyne").is_dir(),
        open_kitti,
        _RANGE | {"layout", "poses"},
    ),
    "submaps": _Format(
        "graph.txt with NNNNNN/points.bin",
        lambda path: (path / "graph.txt").is_file(),
        open_submaps,
        _RANGE | {"layout"},
    ),
    "stanford": _Format(
        "*.conf with range-grid PLY", lambda path: find_conf(path) is not None, open_stanford, _RANGE
    ),
    "points": _Format(
        "*.ply, *.pcd, *.xyz or *.bin with poses.txt, or one such file with normals",
        _is_cloud_scan,
        open_points,
        _RANGE | {"unit", "layout", "lidar", "poses", "color"},
    ),
}
FORMATS: Final = tuple(_FORMATS)


def _recognise(path: Path) -> str:
    for name, entry in _FORMATS.items():
        if entry.recognises(path):
            return name
    looked_for = "; ".join(f"{name}: {entry.looks_for}" for name, entry in _FORMATS.items())
    got = f"a file of kind {path.suffix or '(none)'}"
    if path.is_dir():
        names = sorted(child.name for child in path.iterdir())
        got = f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else "an empty folder"
    raise DatasetError(f"a scan in {path} ({looked_for})", got, "Check the path, or name the format.")


def open_dataset(path: str | Path, format: str = "auto", **options: Any) -> Dataset:  # noqa: ANN401
    """Open a recorded scan; frames are read later, one at a time.

    Parameters
    ----------
    path
        A folder, or for ``stanford`` and ``points`` also a file.
    format
        One of ``FORMATS``, or ``auto``: by what lies in the folder.
    options
        See ``ReaderOptions``; each format takes some of them.

    Raises
    ------
    DatasetError
        No such path, nothing that looks like a scan, files missing, or an option the format lacks.
    """
    path = Path(path)
    if format != "auto" and format not in _FORMATS:
        raise DatasetError(f"a format: auto, {', '.join(FORMATS)}", repr(format), "Choose one of them.")
    if not path.exists():
        raise DatasetError(f"a scan at {path}", "no such file or folder", "Check the path.")
    name = _recognise(path) if format == "auto" else format
    entry = _FORMATS[name]
    if path.is_file() and name not in ("stanford", "points"):
        raise DatasetError(f"a folder for the format {name}", f"the file {path}", "Give its folder.")
    return entry.open(path, parse_options(name, entry.options, options))
