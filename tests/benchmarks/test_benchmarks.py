"""The benchmarks' own parts: held-back frames, the tool's scans, untouched charts, a short run of each."""

from __future__ import annotations

import importlib
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.__main__ import PLAN, main
from benchmarks.engine import map_bytes, reconstruct
from benchmarks.inputs import run_bench
from benchmarks.inside import SeamRecorder, fit_independently, rows_that_differ, untouched_charts
from benchmarks.object import check_bench, make_scan
from benchmarks.room import held_back_frames
from benchmarks.stream import run_bits
from streamdgp.datasets import open_dataset
from streamdgp.frames import DepthFrame, Intrinsics


def test_held_back_frames_lie_between_those_that_go_in() -> None:
    numbers = held_back_frames(300, 5, 12)
    assert len(set(numbers)) == 12
    assert {number % 5 for number in numbers} == {2}
    assert numbers[0] == 2
    assert numbers[-1] > 250
    assert held_back_frames(10, 5, 12) == [2, 7]


def test_scans_are_those_of_the_independent_tool(tmp_path: Path) -> None:
    scan = make_scan("spot", tmp_path / "ours", frames=3)
    checks = check_bench("spot", scan, {}, tmp_path)
    assert len(checks) == 1
    assert all(check.holds for check in checks), checks


def test_the_tool_s_failure_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match="to work"):
        run_bench("mesh", tmp_path / "none.ply", tmp_path / "none.ply")


@pytest.mark.parametrize("name", ["query", "room", "object"])
def test_without_its_scans_a_benchmark_ends_with_a_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMDGP_DATA", str(tmp_path / "none"))
    done = CliRunner().invoke(importlib.import_module(f"benchmarks.{name}").main, [])
    assert done.exit_code == 1
    assert done.output.startswith("Error: the shared scan ")
    assert "STREAMDGP_DATA" in done.output
    assert isinstance(done.exception, SystemExit)


def test_untouched_charts_are_beside_the_image_or_behind_the_surface() -> None:
    depth = np.zeros((60, 80), np.float32)
    depth[20:40, 20:60] = 1.0
    frame = DepthFrame(depth, Intrinsics(70.0, 70.0, 40.0, 30.0), np.eye(4))
    anchors = np.array(
        [
            [0.0, 0.0, 1.0],  # on the surface
            [0.0, 0.0, 0.6],  # a ray passes through it
            [0.0, 0.0, 1.5],  # behind
            [1.5, 0.0, 1.0],  # beside the image
            [0.0, 0.4, 1.0],  # where nothing returned
            [0.0, 0.0, 0.05],  # at the camera
            [0.0, 0.0, -1.0],  # behind it: not promised
        ]
    )
    assert untouched_charts(anchors, np.full(len(anchors), 0.05), frame).tolist() == [
        False,
        False,
        True,
        True,
        True,
        False,
        False,
    ]


def test_rows_that_differ_counts_bits() -> None:
    before = {"x": np.array([[1.0, 2.0], [3.0, 4.0]]), "n": np.array([1, 2], np.int32)}
    after = {"x": np.array([[1.0, 2.0], [3.0, 4.0 + 1e-15], [0, 0]]), "n": np.array([1, 2, 3], np.int32)}
    assert rows_that_differ(before, after, np.array([True, True])) == 1
    assert rows_that_differ(before, after, np.array([True, False])) == 0


def _halved(frame: DepthFrame) -> DepthFrame:
    """Every second pixel: a quarter of the work."""
    k = frame.intrinsics
    half = Intrinsics(k.fx / 2, k.fy / 2, k.cx / 2, k.cy / 2)
    return DepthFrame(frame.depth_m[::2, ::2], half, frame.world_T_sensor)


def test_an_object_streamed_and_fitted_in_one_go(tmp_path: Path) -> None:
    """To millimetres; the recorder saw seams; nothing out of reach of a frame changed."""
    scan = make_scan("spot", tmp_path / "scan", frames=10)
    frames = [_halved(frame) for frame in scan.frames]
    seams = SeamRecorder(1)
    with seams.recording():
        streamed = reconstruct(frames)
    assert scan.score(streamed.mesh).accuracy_mean_m < 0.003
    before, after = (len(np.concatenate(seam)) for seam in (seams.before_m, seams.after_m))
    # A sample counts where both charts are backed; it moves a little with its chart, over borders too.
    assert before > 100
    assert abs(before - after) < 0.003 * before
    assert np.concatenate(seams.after_m).mean() < np.concatenate(seams.before_m).mean()
    assert map_bytes(streamed.engine) > streamed.engine.chart_count * 100
    count = streamed.engine.chart_count
    fit_independently(streamed.engine, consistent=True)
    assert streamed.engine.chart_count == count
    assert all(check.holds for check in run_bits(frames[:4]).checks)


def test_every_benchmark_of_the_plan_says_what_it_does() -> None:
    for name, _, _ in PLAN:
        module = importlib.import_module(f"benchmarks.{name}")
        if hasattr(module, "__path__"):  # a package runs its __main__
            module = importlib.import_module(f"benchmarks.{name}.__main__")
        shown = CliRunner().invoke(module.main, ["--help"])
        assert shown.exit_code == 0
        assert "Example" in shown.output
    assert CliRunner().invoke(main, ["--only", "nothing"]).exit_code == 2


def test_the_street_of_the_tool_opens_as_a_scan(tmp_path: Path) -> None:
    run_bench("street", tmp_path, "--frames", "2")
    scan = open_dataset(tmp_path)
    assert (scan.format, len(scan)) == ("kitti", 2)
