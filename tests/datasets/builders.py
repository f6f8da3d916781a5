"""Tiny scans on disk, one builder per format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

QUARTER_TURN = "0 0 0.70710678 0.70710678"  # about z, as qx qy qz qw


def rotation_z(angle_rad: float) -> npt.NDArray[np.float64]:
    """A rotation about z."""
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def write_png(path: Path, counts: npt.NDArray[np.uint16]) -> None:
    """A 16-bit grey PNG."""
    Image.fromarray(counts.astype(np.uint16)).save(path)


def seven_scenes(folder: Path, frames: int = 3) -> Path:
    """Depth 1000, 1001, ... mm with an empty column on both kinds of no return."""
    folder.mkdir(exist_ok=True)
    np.savetxt(folder / "camera-intrinsics.txt", [[100, 0, 3.5], [0, 110, 2.5], [0, 0, 1]])
    for i in range(frames):
        counts = np.full((6, 8), 1000 + i, np.uint16)
        counts[:, 0], counts[:, 1] = 0, 65535
        write_png(folder / f"frame-{i:06d}.depth.png", counts)
        pose = np.eye(4)
        pose[0, 3] = i
        np.savetxt(folder / f"frame-{i:06d}.pose.txt", pose)
    return folder


def tum(folder: Path) -> Path:
    """Three depth images; poses 5 ms, 15 ms and 500 ms away, colour for the first."""
    (folder / "depth").mkdir(parents=True)
    (folder / "rgb").mkdir()
    rows = []
    for i, stamp in enumerate(("10.000000", "10.100000", "11.000000")):
        write_png(folder / "depth" / f"{stamp}.png", np.full((6, 8), 5000 * (i + 1), np.uint16))
        rows.append(f"{stamp} depth/{stamp}.png")
    (folder / "depth.txt").write_text("# depth maps\n" + "\n".join(rows) + "\n")
    Image.new("RGB", (8, 6), (10, 20, 30)).save(folder / "rgb" / "10.01.png")
    (folder / "rgb.txt").write_text("# colour\n10.01 rgb/10.01.png\n")
    poses = [f"10.005 1 2 3 {QUARTER_TURN}", f"10.085 4 5 6 {QUARTER_TURN}", f"11.5 7 8 9 {QUARTER_TURN}"]
    (folder / "groundtruth.txt").write_text("# truth\n" + "\n".join(poses) + "\n")
    return folder


def kitti(folder: Path, scans: int = 3) -> Path:
    """Scans of four points; the camera looks along the LiDAR's x, 0.3 m below it."""
    (folder / "velodyne").mkdir(parents=True)
    rows = []
    for i in range(scans):
        points = np.arange(16, dtype="<f4").reshape(4, 4) + i
        points.tofile(folder / "velodyne" / f"{i:06d}.bin")
        pose = np.eye(4)[:3]
        pose[2, 3] = i  # the camera moves along its z, forward
        rows.append(" ".join(map(str, pose.ravel())))
    (folder / "poses.txt").write_text("\n".join(rows) + "\n")
    (folder / "calib.txt").write_text("P0: 1 0 0 0 0 1 0 0 0 0 1 0\nTr: 0 -1 0 0 0 0 -1 -0.3 1 0 0 0\n")
    return folder


def submaps(folder: Path) -> Path:
    """Two submaps and an edge that readers leave alone."""
    for i in range(2):
        (folder / f"{i:06d}").mkdir(parents=True)
        np.full((5, 3), i, "<f4").tofile(folder / f"{i:06d}" / "points.bin")
    (folder / "graph.txt").write_text(f"v0 0 0 0 0 0 0 1\nv1 1 2 3 {QUARTER_TURN}\ne 0 1\n")
    return folder


def stanford(folder: Path) -> Path:
    """One 2 × 3 range grid with a gap, turned by a quarter about z and moved."""
    folder.mkdir(parents=True)
    vertices = "0 0 0\n1 0 0\n2 0 0.1\n0 1 0\n2 1 0\n"
    (folder / "scan.ply").write_text(
        "ply\nformat ascii 1.0\nobj_info num_cols 3\nobj_info num_rows 2\nelement vertex 5\n"
        "property float x\nproperty float y\nproperty float z\nelement range_grid 6\n"
        "property list uchar int vertex_indices\nend_header\n" + vertices + "1 0\n1 1\n1 2\n1 3\n0\n1 4\n"
    )
    (folder / "one.conf").write_text(f"camera 0 0 0 0 0 0 1\nbmesh scan.ply 10 20 30 {QUARTER_TURN}\n")
    return folder


def ply_header(count: int, form: str = "binary_little_endian", normals: bool = True) -> bytes:
    """Header of a cloud with x y z and normals."""
    names = ("x", "y", "z", "nx", "ny", "nz") if normals else ("x", "y", "z")
    lines = [f"property float {name}" for name in names]
    return "\n".join(
        ["ply", f"format {form} 1.0", f"element vertex {count}", *lines, "end_header", ""]
    ).encode()
