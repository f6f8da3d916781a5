"""7-Scenes and TUM folders: values, associations, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from streamdgp.datasets import Dataset, open_dataset
from streamdgp.errors import DatasetError, InvalidFrameError
from streamdgp.frames import DepthFrame, Intrinsics
from tests.datasets.builders import rotation_z, seven_scenes, tum, write_png


def _depth(dataset: Dataset, index: int) -> DepthFrame:
    frame = dataset.read(index)
    assert isinstance(frame, DepthFrame)
    return frame


def test_seven_scenes_reads_metres_pose_and_calibration(tmp_path: Path) -> None:
    dataset = open_dataset(seven_scenes(tmp_path))
    assert (dataset.format, len(dataset)) == ("7scenes", 3)
    assert dataset.frame_names == ["frame-000000", "frame-000001", "frame-000002"]
    frame = _depth(dataset, 2)
    assert frame.intrinsics == Intrinsics(100, 110, 3.5, 2.5)
    np.testing.assert_array_equal(frame.depth_m[:, :2], 0.0)
    np.testing.assert_allclose(frame.depth_m[:, 2:], 1.002, rtol=1e-6)
    assert frame.world_T_sensor[0, 3] == 2.0
    assert frame.color is None


def test_subset_keeps_names_and_checksums(tmp_path: Path) -> None:
    dataset = open_dataset(seven_scenes(tmp_path, frames=7))
    part = dataset.subset(every=3, limit=2)
    assert part.frame_names == ["frame-000000", "frame-000003"]
    assert part.checksum(1) == dataset.checksum(3)
    with pytest.raises(DatasetError, match="every >= 1"):
        dataset.subset(every=0)


def test_checksum_follows_file_pose_and_options(tmp_path: Path) -> None:
    folder = seven_scenes(tmp_path)
    before = open_dataset(folder).checksum(1)
    assert open_dataset(folder).checksum(1) == before
    assert 0 <= before < 2**32
    assert open_dataset(folder, intrinsics=(99, 110, 3.5, 2.5)).checksum(1) != before
    np.savetxt(folder / "frame-000001.pose.txt", np.diag([1, -1, -1, 1]))
    moved = open_dataset(folder).checksum(1)
    assert moved != before
    write_png(folder / "frame-000001.depth.png", np.full((6, 8), 7, np.uint16))
    assert open_dataset(folder).checksum(1) not in (before, moved)


def test_registered_color_on_request(tmp_path: Path) -> None:
    folder = seven_scenes(tmp_path)
    Image.new("RGB", (8, 6), (1, 2, 3)).save(folder / "frame-000000.color.png")
    Image.new("RGB", (16, 12)).save(folder / "frame-000001.color.png")
    assert _depth(open_dataset(folder), 0).color is None
    dataset = open_dataset(folder, color=True)
    color = _depth(dataset, 0).color
    assert color is not None
    assert color[0, 0].tolist() == [1, 2, 3]
    with pytest.raises(DatasetError, match="registered to depth"):
        dataset.read(1)


def test_missing_pose_file_is_named(tmp_path: Path) -> None:
    folder = seven_scenes(tmp_path)
    (folder / "frame-000001.pose.txt").unlink()
    with pytest.raises(DatasetError, match=r"frame-000001\.pose\.txt"):
        open_dataset(folder)


def test_missing_intrinsics_may_be_given(tmp_path: Path) -> None:
    folder = seven_scenes(tmp_path / "scan")
    (folder / "camera-intrinsics.txt").unlink()
    with pytest.raises(DatasetError, match=r"camera-intrinsics\.txt"):
        open_dataset(folder)
    assert _depth(open_dataset(folder, intrinsics=(5, 6, 7, 8)), 0).intrinsics == Intrinsics(5, 6, 7, 8)
    np.savetxt(tmp_path / "camera-intrinsics.txt", [[9, 0, 1], [0, 9, 1], [0, 0, 1]])
    assert _depth(open_dataset(folder), 0).intrinsics.fx == 9.0


@pytest.mark.parametrize("keep", [0, 20, 45, -14])
def test_truncated_png_is_refused(tmp_path: Path, keep: int) -> None:
    folder = seven_scenes(tmp_path)
    path = folder / "frame-000000.depth.png"
    path.write_bytes(path.read_bytes()[:keep])
    dataset = open_dataset(folder)
    with pytest.raises(DatasetError, match="truncated file"):
        dataset.read(0)
    assert dataset.read(1) is not None


def test_depth_must_be_16_bit_grey(tmp_path: Path) -> None:
    folder = seven_scenes(tmp_path)
    Image.new("RGB", (8, 6)).save(folder / "frame-000000.depth.png")
    with pytest.raises(DatasetError, match="mode RGB"):
        open_dataset(folder).read(0)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "an empty file"), ("1 2 3", "3 numbers"), ("a " * 16, "could not convert"), ("\xff", "codec")],
)
def test_broken_pose_files(tmp_path: Path, text: str, message: str) -> None:
    folder = seven_scenes(tmp_path)
    (folder / "frame-000000.pose.txt").write_text(text, encoding="latin-1")
    with pytest.raises(DatasetError, match=message):
        open_dataset(folder).read(0)


def test_unusable_pose_is_the_frames_fault(tmp_path: Path) -> None:
    folder = seven_scenes(tmp_path)
    np.savetxt(folder / "frame-000000.pose.txt", np.diag([2.0, 2, 2, 1]))
    with pytest.raises(InvalidFrameError, match=r"frame-000000.depth.png: a rigid .* off by 3"):
        open_dataset(folder).read(0)


def test_tum_associates_within_20_ms(tmp_path: Path) -> None:
    dataset = open_dataset(tum(tmp_path / "scan"))
    assert (dataset.format, dataset.frame_names) == ("tum", ["10.000000", "10.100000"])
    assert dataset.skipped == ("depth/11.000000.png: no pose within 20 ms",)
    first, second = _depth(dataset, 0), _depth(dataset, 1)
    np.testing.assert_allclose(first.depth_m, 1.0)
    np.testing.assert_allclose(second.depth_m, 2.0)
    np.testing.assert_allclose(first.world_T_sensor[:3, 3], [1, 2, 3])
    np.testing.assert_allclose(first.world_T_sensor[:3, :3], rotation_z(np.pi / 2), atol=1e-7)
    assert first.intrinsics == Intrinsics(525.0, 525.0, 319.5, 239.5)
    assert first.color is not None
    assert first.color[0, 0].tolist() == [10, 20, 30]
    assert second.color is None
    assert _depth(open_dataset(tmp_path / "scan", color=False), 0).color is None


def test_tum_says_what_is_missing(tmp_path: Path) -> None:
    folder = tum(tmp_path / "scan")
    (folder / "groundtruth.txt").write_text("100 0 0 0 0 0 0 1\n")
    with pytest.raises(DatasetError, match="same clock"):
        open_dataset(folder)
    (folder / "groundtruth.txt").write_text("10 0 0 0 0 0 0 3\n")
    with pytest.raises(DatasetError, match="norm 3"):
        open_dataset(folder)
    (folder / "groundtruth.txt").write_text("10 0 0 0 0 0 1\n")
    with pytest.raises(DatasetError, match="7 words in data row 1"):
        open_dataset(folder)
    (folder / "groundtruth.txt").unlink()
    with pytest.raises(DatasetError, match=r"groundtruth\.txt"):
        open_dataset(folder)
