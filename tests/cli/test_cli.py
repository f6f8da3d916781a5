"""The command streamdgp: help, results, one-line errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from streamdgp import __version__
from streamdgp.cli.main import main
from streamdgp.meshes import read_mesh, write_mesh
from streamdgp.simulate import DepthSensor, simulate_scan
from streamdgp.simulate._shapes import sphere


def _run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def _refused(*words: object) -> str:
    """The command's error, which must be one line, with status 1 and no traceback."""
    result = _run(*words)
    assert result.exit_code == 1
    error = result.stderr.splitlines()[-1]
    assert error.startswith("Error: ")
    assert result.stderr.count("Error: ") == 1
    assert "Traceback" not in result.output
    return error


@pytest.mark.parametrize("command", ["reconstruct", "simulate", "evaluate"])
def test_help_shows_examples(command: str) -> None:
    result = _run(command, "--help")
    assert result.exit_code == 0
    assert f"streamdgp {command}" in result.output
    assert "Examples:" in result.output


def test_version_and_overview() -> None:
    assert __version__ in _run("--version").output
    overview = _run("-h").output
    for command in ("reconstruct", "simulate", "evaluate"):
        assert f"  {command} " in overview


def test_simulate_then_evaluate(tmp_path: Path) -> None:
    write_mesh(tmp_path / "ball.obj", sphere((0, 0, 0), 1.0))
    scan = tmp_path / "scan"
    result = _run("simulate", tmp_path / "ball.obj", "-o", scan, "--frames", 2, "--seed", 5, "--size", 0.5)
    assert result.exit_code == 0, result.output
    assert "2 frames (7scenes)" in result.stdout
    truth = scan / "truth.ply"
    result = _run("evaluate", truth, "--reference", truth, "--seen", scan / "seen.npy", "--json")
    scores = json.loads(result.stdout)
    assert scores["f_score"] == 1.0
    assert scores["threshold_m"] == 0.004
    assert scores["accuracy_p99_m"] < 1e-6
    table = _run("evaluate", truth, "--reference", truth, "--threshold", "0.01").stdout
    for word in ("accuracy", "completeness", "Chamfer", "F-score at 10 mm", "normal consistency"):
        assert word in table


def test_simulate_street_is_lidar_by_default(tmp_path: Path) -> None:
    result = _run("simulate", "street", "-o", tmp_path / "scan", "--frames", 1)
    assert "1 frames (kitti)" in result.stdout
    assert _run("simulate", "street", "-o", tmp_path / "b", "--flying-pixels", 0.5).exit_code == 2


def test_refusals_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    write_mesh(tmp_path / "ball.ply", sphere((0, 0, 0), 1.0))
    np.save(tmp_path / "flat.npy", np.zeros(5))
    ball, out = tmp_path / "ball.ply", tmp_path / "out.ply"
    assert "an empty folder" in _refused("reconstruct", tmp_path / "empty", "-o", out)
    assert "no such file or folder" in _refused("reconstruct", tmp_path / "nowhere", "-o", out)
    assert ".ply, .obj, .glb, .stl" in _refused("reconstruct", tmp_path / "empty", "-o", tmp_path / "out.png")
    assert "no such folder" in _refused("reconstruct", tmp_path / "empty", "-o", tmp_path / "no" / "out.ply")
    assert "one with files" in _refused("simulate", "room", "-o", tmp_path)
    assert "a mesh file" in _refused("simulate", "castle", "-o", tmp_path / "new")
    assert "no such file" in _refused("evaluate", tmp_path / "nowhere.ply", "--reference", ball)
    assert "no .npy" in _refused("evaluate", ball, "--reference", ball, "--seen", tmp_path / "file")
    assert "shape (5,)" in _refused("evaluate", ball, "--reference", ball, "--seen", tmp_path / "flat.npy")


@pytest.mark.parametrize("device", ["gpu", "mps", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(device: str, tmp_path: Path) -> None:
    scan = simulate_scan("room", tmp_path / "scan", DepthSensor(width=32, height=24, focal_px=29.0), frames=1)
    assert repr(device) in _refused("reconstruct", scan.path, "-o", tmp_path / "out.ply", "--device", device)


def test_an_absurd_resolution_says_what_it_would_cost(tmp_path: Path) -> None:
    scan = simulate_scan("room", tmp_path / "scan", DepthSensor(width=96, height=72, focal_px=87.0), frames=2)
    error = _refused("reconstruct", scan.path, "-o", tmp_path / "out.ply", "--resolution", "1e-6")
    assert "at most 1,000,000,000 lattice cells; got about" in error
    assert not (tmp_path / "out.ply").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("reconstruct", "x", "-o", "y.ply", "--every", "0"),
        ("simulate", "room", "-o", "x", "--frames", "0"),
        ("simulate", "room", "-o", "x", "--size", "0"),
    ],
)
def test_wrong_options_are_usage_errors(words: tuple[str, ...]) -> None:
    assert _run(*words).exit_code == 2


def test_reconstruct_a_ball(tmp_path: Path) -> None:
    """Radius 25 cm from 12 small frames; a frame with an unusable pose is named and left out."""
    sensor = DepthSensor(width=96, height=72, focal_px=87.0)
    scan = simulate_scan(sphere((0, 0, 0), 1.0), tmp_path / "scan", sensor, frames=12, size_m=0.5).path
    np.savetxt(scan / "frame-000003.pose.txt", np.diag([2.0, 2, 2, 1]))
    out = tmp_path / "ball.ply"
    result = _run("reconstruct", scan, "-o", out)
    assert result.exit_code == 0, result.output
    assert "frame frame-000003 left out" in result.stderr
    assert "11 frames (7scenes)" in result.stdout
    radii = np.linalg.norm(read_mesh(out).vertices, axis=1)
    assert np.median(radii) == pytest.approx(0.25, abs=0.002)
    assert 0.22 < radii.min() < radii.max() < 0.28


def test_interrupt_ends_without_a_traceback_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = simulate_scan(
        "room", tmp_path / "scan", DepthSensor(width=32, height=24, focal_px=29.0), frames=1
    ).path

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("streamdgp.reconstructor.Reconstructor.integrate", interrupted)
    result = _run("reconstruct", scan, "-o", tmp_path / "out.ply")
    assert result.exit_code == 1
    assert "Aborted!" in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "out.ply").exists()


def test_a_scan_that_saw_nothing_has_no_mesh(tmp_path: Path) -> None:
    sensor = DepthSensor(width=32, height=24, focal_px=29.0, dropout_share=1.0)
    scan = simulate_scan("room", tmp_path / "scan", sensor, frames=2).path
    assert "an empty one" in _refused("reconstruct", scan, "-o", tmp_path / "out.ply")
