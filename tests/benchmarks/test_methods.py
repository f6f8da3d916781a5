"""A method in a process of its own, thin things and their parts, sizes, and clouds without a sensor."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.engine import STORED_PARTS, map_bytes, map_split, reconstruct
from benchmarks.methods import Job, Measured, area_m2, perform, run_job, summary_row
from benchmarks.object import make_scan
from benchmarks.size import SizeRow, size_figures, size_table
from benchmarks.srb import scores_of
from benchmarks.street import street_poles
from benchmarks.thin import RODS_M, make_rods, make_slab, part_completeness, run
from streamdgp.errors import StreamdgpError
from streamdgp.meshes import TriangleMesh, read_mesh, write_mesh
from streamdgp.simulate import DepthSensor
from streamdgp.simulate._shapes import box, join, sphere
from streamdgp.store import AtlasStore
from tests.reference.shapes import fibonacci_directions

_SENSOR = DepthSensor(80, 60, 72.5, max_range_m=100, dropout_share=0)


def _grid(height_m: float) -> TriangleMesh:
    """A square of 1 m at a height, in two triangles."""
    corners = [[0, 0, height_m], [1, 0, height_m], [1, 1, height_m], [0, 1, height_m]]
    return TriangleMesh(np.array(corners, np.float64), np.array([[0, 1, 2], [0, 2, 3]], np.int32))


def test_a_job_in_a_process_of_its_own_gives_a_mesh_and_what_it_took(tmp_path: Path) -> None:
    scan = make_scan("spot", tmp_path / "scan", frames=3, sensor=_SENSOR)
    job = Job("streamdgp", str(scan.folder), limit=2)
    took = run_job(job, tmp_path / "ours.ply")
    here = reconstruct(scan.frames[:2])
    assert took.frame_count == 2
    assert took.chart_count == here.engine.chart_count
    assert took.map_bytes == map_bytes(here.engine)
    assert took.split == map_split(here.engine)
    assert took.area_m2 == pytest.approx(area_m2(here.mesh))
    assert len(took.mesh.triangles) == len(here.mesh.triangles)
    assert 100 < took.start_mb <= took.peak_mb < 4000
    assert took.ms_per_frame is not None
    assert took.total_s >= took.extract_s > 0
    row = summary_row("spot", job, took, scan.score(took.mesh), note="short", p99_mm=math.inf)
    assert row["method"] == "streamdgp"
    assert row["mean_mm"] == pytest.approx(1e3 * scan.score(took.mesh).accuracy_mean_m)
    assert (row["map_bytes"], row["note"], row["p99_mm"]) == (took.map_bytes, "short", "inf")
    with pytest.raises(StreamdgpError, match="to reconstruct"):
        run_job(Job("tsdf", str(tmp_path / "none"), 0.01), tmp_path / "none.ply")


def test_the_split_of_a_map_adds_up(tmp_path: Path) -> None:
    scan = make_scan("spot", tmp_path / "scan", frames=1, sensor=_SENSOR)
    engine = reconstruct(scan.frames).engine
    split = map_split(engine)
    assert sum(split[part] for part in ("charts", "support", "evidence", "shared")) == map_bytes(engine)
    changes = engine.changes()
    columns = [c for table in changes.tables.values() for c in table.columns.values()]
    assert split["state"] == sum(c.nbytes for c in [*columns, *changes.arrays.values()])
    # Compressed, and not by leaving anything out: the atlas on disk holds as much, but for the metadata of
    # every array and what is so little that it is kept with them.
    assert map_bytes(engine) < split["state"]
    AtlasStore.create(tmp_path / "atlas").commit(changes, {})
    chunks = sum(file.stat().st_size for file in (tmp_path / "atlas" / "icechunk" / "chunks").iterdir())
    assert 0 < map_bytes(engine) - chunks < 1500 * (len(columns) + len(changes.arrays))
    assert split["rasters"] >= engine.chart_count * 33 * 33 * 4
    assert split["indexes"] > 4 * engine.surfel_count
    assert all(size > 0 for size in split.values())


def test_peak_memory_is_not_the_parent_s() -> None:
    held = np.ones(50_000_000)  # 400 MB
    code = "from benchmarks.memory import peak_mb; print(peak_mb())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert held[-1] == 1
    assert 5 < float(done.stdout) < 200


def test_a_tsdf_job_takes_its_voxel_and_its_least_weight(tmp_path: Path) -> None:
    scan = make_scan("spot", tmp_path / "scan", frames=2, sensor=_SENSOR)
    job = Job("tsdf", str(scan.folder), 0.03, min_weight=1)
    took = perform(job, tmp_path / "tsdf.ply")
    assert job.label == "Open3D TSDF, 3 cm"
    assert took.map_bytes is not None
    assert took.map_bytes % (512 * 8) == 0
    assert scan.score(took.mesh).accuracy_mean_m < 0.01
    finer = perform(dataclasses.replace(job, voxel_m=0.015), tmp_path / "finer.ply")
    assert finer.map_bytes is not None
    assert finer.map_bytes > 2 * took.map_bytes


def test_poisson_takes_clouds_with_normals_and_depth_images_trimmed(tmp_path: Path) -> None:
    normals = fibonacci_directions(1000)
    rows = np.hstack([40.0 * normals, normals])
    np.savetxt(tmp_path / "ball.xyz", rows)
    took = perform(
        Job("poisson", str(tmp_path / "ball.xyz"), 0.001, depth=4, unit="mm"), tmp_path / "ball.ply"
    )
    assert np.linalg.norm(took.mesh.vertices, axis=1) == pytest.approx(0.04, abs=0.002)
    assert took.ms_per_frame is None
    assert took.map_bytes is None
    scan = make_scan("spot", tmp_path / "scan", frames=1, sensor=_SENSOR)
    areas = []
    for trim_vox in (None, 2.0):
        job = Job("poisson", str(scan.folder), 0.05, depth=4, trim_vox=trim_vox)
        areas.append(perform(job, tmp_path / "poisson.ply").area_m2)
    assert areas[1] < 0.8 * areas[0], "one view: most of the closed surface lies far from every point"


def test_thin_things_have_the_sizes_they_say() -> None:
    slab = make_slab(0.6).mesh
    assert np.ptp(slab.vertices, axis=0) == pytest.approx([0.6, 0.4, 0.01])
    rods = make_rods()
    placed = rods.placed()
    assert np.concatenate([part.vertices for part in placed.values()]) == pytest.approx(rods.mesh.vertices)
    for diameter_m in RODS_M:
        extent = np.ptp(placed[f"rod of {1e3 * diameter_m:g} mm"].vertices, axis=0)
        assert extent == pytest.approx([diameter_m, diameter_m, 0.3])
    for name, gap_m in (("gap of 10 mm", 0.01), ("gap of 20 mm", 0.02)):
        x = np.unique(placed[name].vertices[:, 0].round(6))
        assert x[2] - x[1] == pytest.approx(gap_m, abs=1e-5)


def test_completeness_of_parts_counts_each_alone_and_only_what_was_seen() -> None:
    parts = {"here": box((0, 0, 0), (0.1, 0.1, 0.1)), "gone": box((1, 0, 0), (0.1, 0.1, 0.1))}
    parts["unseen"] = box((2, 0, 0), (0.1, 0.1, 0.1))
    seen = np.concatenate([parts["here"].vertices, parts["gone"].vertices])
    found = part_completeness(join([parts["here"]]), parts, seen, 0.01)
    assert (found["here"], found["gone"]) == (1.0, 0.0)
    assert math.isnan(found["unseen"])
    half = TriangleMesh(parts["here"].vertices, parts["here"].triangles[:2])
    dense = np.concatenate([seen + step for step in np.linspace(-0.1, 0.1, 41)[:, None] * np.eye(3)[0]])
    assert 0 < part_completeness(half, {"here": parts["here"]}, dense, 0.01)["here"] < 0.6


def test_thin_things_are_found_by_name() -> None:
    with pytest.raises(KeyError):
        run(["nothing"])


def test_the_poles_are_those_of_the_tool_s_street(tmp_path: Path) -> None:
    from benchmarks.inputs import run_bench
    from streamdgp.meshes import RayScene

    run_bench("street", tmp_path, "--frames", "1")
    poles = street_poles()
    assert len(poles) == 14
    scene = RayScene(read_mesh(tmp_path / "truth.ply"))
    for pole in poles.values():
        assert scene.closest(pole.vertices)[0].max() < 1e-4


def test_one_sided_scores_are_those_of_a_shifted_plane() -> None:
    points = np.random.default_rng(0).random((500, 3)) * [0.8, 0.8, 0] + [0.1, 0.1, 0]
    found = scores_of(_grid(0.00015), points)
    assert found["mean_m"] == pytest.approx(0.00015, rel=1e-3)
    assert found["hausdorff_m"] == pytest.approx(0.00015, rel=1e-2)
    assert (found["within_0.1mm"], found["within_0.2mm"], found["farther_than_1mm"]) == (0.0, 1.0, 0.0)


def test_sizes_are_per_chart_and_per_square_metre(tmp_path: Path) -> None:
    write_mesh(tmp_path / "ball.ply", sphere((0, 0, 0), 1.0))
    parts = dict.fromkeys((*STORED_PARTS, "state", "indexes", "rasters"), 1_000_000)
    took = Measured(tmp_path / "ball.ply", 1, 1.0, 1.0, 1.0, 1.0, 1.0, 4_000_000, 2.0, 1000, parts)
    row = SizeRow("ball", took, dataclasses.replace(took, map_bytes=8_000_000), 0.003)
    found = size_figures(row)
    assert (found["bytes_per_chart"], found["bytes_per_m2"], found["ratio"]) == (4000, 2_000_000, 0.5)
    table = size_table([row])
    assert len(table.columns) == len(table.rows[0])
    assert "ball 3 mm" in table.title
