"""Clouds (PLY, PCD, XYZ, BIN), range grids, and how a format is found."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from streamdgp.datasets import open_dataset
from streamdgp.errors import DatasetError
from streamdgp.frames import PointFrame
from tests.datasets.builders import ply_header, rotation_z, stanford

_ROWS = np.arange(24, dtype=np.float32).reshape(4, 6)


def _read(path: Path, **options: object) -> PointFrame:
    frame = open_dataset(path, "points", **options).read(0)
    assert isinstance(frame, PointFrame)
    return frame


def _ply(path: Path, body: bytes, form: str = "binary_little_endian", count: int = 4) -> Path:
    path.write_bytes(ply_header(count, form) + body)
    return path


@pytest.mark.parametrize(
    ("form", "body"),
    [
        ("binary_little_endian", _ROWS.astype("<f4").tobytes()),
        ("binary_big_endian", _ROWS.astype(">f4").tobytes()),
        ("ascii", "\n".join(" ".join(map(str, row)) for row in _ROWS).encode() + b"\n"),
    ],
    ids=["little", "big", "ascii"],
)
def test_single_ply_with_normals(tmp_path: Path, form: str, body: bytes) -> None:
    frame = _read(_ply(tmp_path / "a.ply", body, form), unit="mm")
    assert not frame.has_origin
    assert frame.normals is not None
    np.testing.assert_allclose(frame.points_m, _ROWS[:, :3] / 1000, rtol=1e-6)
    np.testing.assert_array_equal(frame.normals, _ROWS[:, 3:])
    for broken in (body[:-5], body[:50], body + b"\n1", b""):
        with pytest.raises(DatasetError, match="truncated or damaged"):
            _read(_ply(tmp_path / "b.ply", broken, form))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"solid",
        b"ply\nformat ascii 1.0\n",
        ply_header(1, "ascii 2"),
        ply_header(1).replace(b"float z", b"half z"),
        ply_header(-4),
        ply_header(10**12),
        ply_header(1).replace(b"vertex", b"face"),
        ply_header(4).replace(b"float nz", b"list uchar int nz"),
    ],
)
def test_broken_ply_headers(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.ply"
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"a\.ply"):
        _read(path)


def test_single_cloud_without_normals_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    path.write_bytes(ply_header(2, normals=False) + bytes(24))
    with pytest.raises(DatasetError, match="normals"):
        _read(path)


def _folder_of(folder: Path, name: str, data: bytes, poses: str = "1 2 3 0 0 0 1\n") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    (folder / "poses.txt").write_text(poses)
    return folder


def test_folder_of_clouds_with_poses_in_every_row_format(tmp_path: Path) -> None:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation_z(np.pi / 2), [1, 2, 3]
    quaternion = "1 2 3 0 0 0.70710678 0.70710678"
    flat = " ".join(map(str, pose.ravel()))
    rows = [quaternion, f"17.5 {quaternion}", " ".join(map(str, pose[:3].ravel())), flat]
    rows.append("\n".join(" ".join(map(str, row)) for row in pose))
    for k, text in enumerate(rows):
        folder = _folder_of(tmp_path / str(k), "a.ply", ply_header(4) + _ROWS.tobytes(), text + "\n")
        frame = _read(folder, unit="cm")
        assert frame.has_origin
        expected = pose.copy()
        expected[:3, 3] /= 100
        np.testing.assert_allclose(frame.world_T_sensor, expected, atol=1e-7)


def test_folder_needs_as_many_poses_as_clouds(tmp_path: Path) -> None:
    folder = _folder_of(tmp_path / "a", "a.ply", ply_header(0), "0 0 0 0 0 0 1\n" * 2)
    with pytest.raises(DatasetError, match=r"1 clouds .* got 2 poses"):
        open_dataset(folder)
    (folder / "poses.txt").unlink()
    with pytest.raises(DatasetError, match=r"a pose file \(poses.txt"):
        open_dataset(folder)
    (folder / "b.xyz").write_text("1 2 3\n")
    with pytest.raises(DatasetError, match="one kind"):
        open_dataset(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3\n", r"rows of \[3\]"),
        ("1 2 3 4 5 6 x\n", "could not convert"),
        ("1 0 0 0\n" * 3, "3 rows of 4"),
    ],
)
def test_broken_pose_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        open_dataset(_folder_of(tmp_path / "a", "a.ply", ply_header(0), text))


def test_xyz(tmp_path: Path) -> None:
    np.testing.assert_array_equal(
        _read(_folder_of(tmp_path / "a", "a.xyz", b"# cloud\n1 2 3\n4 5 6\n")).points_m,
        [[1, 2, 3], [4, 5, 6]],
    )
    path = tmp_path / "b.xyz"
    path.write_text("1 2 3 0 0 1\n")
    frame = _read(path)
    assert frame.normals is not None
    assert frame.normals.tolist() == [[0, 0, 1]]
    path.write_text("1 2 3 0 0 1\n4 5 6\n")
    with pytest.raises(DatasetError, match="columns"):
        _read(path)


def test_bin_layout_is_never_guessed(tmp_path: Path) -> None:
    folder = _folder_of(tmp_path / "a", "a.bin", np.arange(12, dtype="<f4").tobytes())
    with pytest.raises(DatasetError, match="layout='xyz' or 'xyzi'"):
        open_dataset(folder)
    assert _read(folder, layout="xyz").points_m.shape == (4, 3)
    frame = _read(folder, layout="xyzi", lidar=True)
    assert frame.points_m.shape == (3, 3)
    assert frame.is_lidar


def _pcd(encoding: str, body: bytes, width: int = 4, height: int = 1) -> bytes:
    return (
        f"# .PCD v0.7\nVERSION 0.7\nFIELDS x y z intensity\nSIZE 4 4 4 2\nTYPE F F F U\nCOUNT 1 1 1 1\n"
        f"WIDTH {width}\nHEIGHT {height}\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {width * height}\nDATA {encoding}\n"
    ).encode() + body


def _pcd_rows() -> npt.NDArray[np.void]:
    rows = np.zeros(4, dtype=[("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<u2")])
    for k, name in enumerate(("x", "y", "z")):
        rows[name] = _ROWS[:, k]
    rows["intensity"] = 500
    return rows


def _lzf_literals(data: bytes) -> bytes:
    """LZF without any compression: runs of at most 32 literal bytes."""
    return b"".join(bytes([len(data[k : k + 32]) - 1]) + data[k : k + 32] for k in range(0, len(data), 32))


def test_pcd_in_all_encodings(tmp_path: Path) -> None:
    rows = _pcd_rows()
    text = "\n".join(" ".join(str(value) for value in row) for row in rows.tolist()).encode()
    fields = b"".join(rows[name].tobytes() for name in rows.dtype.names or ())
    packed = _lzf_literals(fields)
    bodies = {
        "ascii": text,
        "binary": rows.tobytes(),
        "binary_compressed": struct.pack("<II", len(packed), len(fields)) + packed,
    }
    for encoding, body in bodies.items():
        folder = _folder_of(tmp_path / encoding, "a.pcd", _pcd(encoding, body))
        np.testing.assert_array_equal(_read(folder).points_m, _ROWS[:, :3])
        (folder / "a.pcd").write_bytes(_pcd(encoding, body[:-5]))
        with pytest.raises(DatasetError, match="truncated or damaged"):
            _read(folder)


def test_pcd_compressed_with_references(tmp_path: Path) -> None:
    """Two zero points (28 bytes): one literal zero, then a long overlapping reference of 27."""
    packed = bytes([0, 0]) + bytes([7 << 5, 27 - 2 - 7, 0])
    data = _pcd("binary_compressed", struct.pack("<II", len(packed), 28) + packed, width=2)
    assert not _read(_folder_of(tmp_path / "a", "a.pcd", data)).points_m.any()
    outside = bytes([0, 0]) + bytes([7 << 5, 27 - 2 - 7, 9])
    data = _pcd("binary_compressed", struct.pack("<II", len(outside), 28) + outside, width=2)
    with pytest.raises(DatasetError, match="a reference outside"):
        _read(_folder_of(tmp_path / "a", "a.pcd", data))


def test_pcd_organised(tmp_path: Path) -> None:
    data = _pcd("binary", _pcd_rows().tobytes(), width=2, height=2)
    assert _read(_folder_of(tmp_path / "a", "a.pcd", data)).points_m.shape == (2, 2, 3)


def test_stanford_grid_and_inverse_rotation(tmp_path: Path) -> None:
    dataset = open_dataset(stanford(tmp_path / "scan"))
    assert (dataset.format, dataset.frame_names) == ("stanford", ["scan"])
    frame = dataset.read(0)
    assert isinstance(frame, PointFrame)
    assert frame.points_m.shape == (2, 3, 3)
    assert np.isnan(frame.points_m[1, 1]).all()
    np.testing.assert_allclose(frame.points_m[0, 2], [2, 0, 0.1], rtol=1e-6)
    # p_world = R(q)ᵀ p + t: a quarter turn about z takes x to -y when transposed.
    np.testing.assert_allclose((frame.world_T_sensor @ [1.0, 0, 0, 1])[:3], [10, 19, 30], atol=1e-6)
    assert frame.sensor_origin_m == pytest.approx((1.0, 0.5, 1.05))


def test_stanford_truncated_grid_and_missing_scan(tmp_path: Path) -> None:
    folder = stanford(tmp_path / "scan")
    text = (folder / "scan.ply").read_text()
    (folder / "scan.ply").write_text(text.removesuffix("1 4\n"))
    with pytest.raises(DatasetError, match="11 rows after the header"):
        open_dataset(folder).read(0)
    (folder / "scan.ply").write_text(text.replace("1 4\n", "1 5\n"))
    with pytest.raises(DatasetError, match="index below 5"):
        open_dataset(folder).read(0)
    (folder / "scan.ply").unlink()
    with pytest.raises(DatasetError, match=r"that one\.conf lists"):
        open_dataset(folder)


def test_unknown_formats_options_and_folders(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"7scenes: .* tum: .* kitti: .* got an empty folder"):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match="no such file or folder"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="a format: auto"):
        open_dataset(tmp_path, "ros")
    with pytest.raises(DatasetError, match="the option unit"):
        open_dataset(tmp_path, "7scenes", unit="mm")
    with pytest.raises(DatasetError, match="unit one of m, cm, mm"):
        open_dataset(tmp_path, "points", unit="inch")
    with pytest.raises(DatasetError, match=r"\*.depth.png"):
        open_dataset(tmp_path, "7scenes")
    (tmp_path / "a.doc").write_text("x")
    with pytest.raises(DatasetError, match=r"got a file of kind \.doc"):
        open_dataset(tmp_path / "a.doc")
    with pytest.raises(DatasetError, match="a folder for the format kitti"):
        open_dataset(tmp_path / "a.doc", "kitti")
