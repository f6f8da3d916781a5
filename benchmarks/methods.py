"""One method on one scan, in a process of its own: python -m benchmarks.methods.

The benchmarks compare meshes of several methods. Each runs alone in a fresh interpreter, so that its
peak memory is its own and nothing that another left behind (caches, threads) tells on its time.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
import numpy.typing as npt

from benchmarks.engine import depth_frames, map_split, reconstruct, warm_up
from benchmarks.memory import peak_mb
from streamdgp.config import EvidenceConfig, RegimeName, SceneConfig
from streamdgp.datasets import open_dataset
from streamdgp.errors import InvalidInputError, StreamdgpError
from streamdgp.evaluation import Baseline, MeshScores
from streamdgp.evaluation.baselines import fuse_tsdf, fuse_tsdf_lidar, screened_poisson
from streamdgp.frames import DepthFrame, Frame, PointFrame
from streamdgp.meshes import MeshLike, TriangleMesh, read_mesh, write_mesh

__all__ = ["LABELS", "Job", "Measured", "MethodName", "area_m2", "run_job", "summary_row"]

MethodName = Literal["streamdgp", "paper", "tsdf", "poisson"]
LABELS: dict[MethodName, str] = {
    "streamdgp": "streamdgp",
    "paper": "the paper's network and schedule",
    "tsdf": "Open3D TSDF",
    "poisson": "Open3D screened Poisson",
}


@dataclass(frozen=True)
class Job:
    """A method and what it is to reconstruct; lengths None are the method's own or automatic."""

    method: MethodName
    scan: str
    voxel_m: float | None = None
    """Edge of a TSDF's voxel; for Poisson, points are thinned to one per voxel."""
    depth: int = 8
    """Of Poisson's octree."""
    trim_vox: float | None = None
    """Poisson closes whatever was not seen: drop its triangles farther than this from every point."""
    min_weight: float | None = None
    """Voxels of a TSDF that fewer frames saw give no surface; None is the baseline's default."""
    every: int = 1
    limit: int | None = None
    """Of the first N frames, every so many one goes in."""
    max_range_m: float | None = None
    unit: str | None = None
    free_space: bool | None = None
    """Ours only; None is the engine's default."""

    @property
    def label(self) -> str:
        """The method's name in a table."""
        if self.method == "tsdf" and self.voxel_m is not None:
            size = f"{1e3 * self.voxel_m:g} mm" if self.voxel_m < 0.01 else f"{1e2 * self.voxel_m:g} cm"
            return f"{LABELS['tsdf']}, {size}"
        if self.method == "poisson":
            return f"{LABELS['poisson']}, depth {self.depth}{', trimmed' if self.trim_vox else ''}"
        return LABELS[self.method]


@dataclass(frozen=True)
class Measured:
    """What a job took and gave; ``mesh_path`` holds its surface.

    ``ms_per_frame`` is None for a method that needs all frames at once, ``map_bytes`` None for one
    without a map. ``peak_mb`` is that of the whole process, ``start_mb`` of it before the first frame
    (interpreter and libraries).
    """

    mesh_path: Path
    frame_count: int
    ms_per_frame: float | None
    total_s: float
    extract_s: float
    start_mb: float
    peak_mb: float
    map_bytes: int | None
    area_m2: float
    chart_count: int = 0
    split: dict[str, int] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def mesh(self) -> TriangleMesh:
        """The surface, read from its file."""
        return read_mesh(self.mesh_path)


def run_job(job: Job, mesh_path: Path) -> Measured:
    """Run a job in a process of its own.

    Raises
    ------
    StreamdgpError
        It failed.
    """
    mesh_path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="streamdgp-job-") as scratch:
        answer = Path(scratch) / "answer.json"
        command = [sys.executable, "-m", "benchmarks.methods", json.dumps(dataclasses.asdict(job))]
        done = subprocess.run(
            [*command, str(mesh_path), "--answer", str(answer)],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).resolve().parents[1],
        )
        if done.returncode:
            raise StreamdgpError(
                f"{job.label} to reconstruct {job.scan}", done.stderr.strip()[-800:], "Run it by hand."
            )
        told = json.loads(answer.read_text(encoding="utf-8"))
    return Measured(**{**told, "mesh_path": Path(told["mesh_path"])})


def perform(job: Job, mesh_path: Path) -> Measured:
    """Do a job here and now."""
    if job.method in ("streamdgp", "paper"):
        return _perform_ours(job, mesh_path)
    start_mb = peak_mb()
    started = time.perf_counter()
    made = _baseline(job)
    write_mesh(mesh_path, made.mesh)
    is_tsdf = job.method == "tsdf"
    total_s = made.seconds_per_frame * made.frame_count + made.extract_s
    assert total_s <= time.perf_counter() - started
    return Measured(
        mesh_path,
        made.frame_count,
        1e3 * made.seconds_per_frame if is_tsdf else None,
        total_s,
        made.extract_s,
        start_mb,
        peak_mb(),
        made.map_bytes if is_tsdf else None,
        area_m2(made.mesh),
    )


def _perform_ours(job: Job, mesh_path: Path) -> Measured:
    regime: RegimeName = "paper" if job.method == "paper" else "lazy"
    config = SceneConfig(regime=regime)
    if job.free_space is not None:
        config = dataclasses.replace(config, evidence=EvidenceConfig(free_space=job.free_space))
    if job.method == "streamdgp":
        warm_up(frame for _, frame in zip(range(2), _frames(job), strict=False))
    start_mb = peak_mb()
    ours = reconstruct(_frames(job), config)
    write_mesh(mesh_path, ours.mesh)
    split = map_split(ours.engine)
    return Measured(
        mesh_path,
        len(ours.reports),
        ours.ms_per_frame,
        ours.seconds + ours.mesh_s,
        ours.mesh_s,
        start_mb,
        peak_mb(),
        sum(split[part] for part in ("charts", "support", "evidence", "shared")),
        area_m2(ours.mesh),
        ours.engine.chart_count,
        split,
        ours.engine.config.to_dict(),
    )


def _frames(job: Job) -> Iterator[Frame]:
    """The frames that go in, read one at a time."""
    options: dict[str, Any] = {"max_range_m": job.max_range_m, "unit": job.unit}
    scan = open_dataset(job.scan, **{name: value for name, value in options.items() if value is not None})
    count = len(scan) if job.limit is None else min(len(scan), job.limit)
    return (scan.read(k) for k in range(0, count, job.every))


def _baseline(job: Job) -> Baseline:
    if job.voxel_m is None:
        raise InvalidInputError(f"a voxel for {job.label}", "none", "Set voxel_m.")
    frames = list(_frames(job)) if job.method == "poisson" else _frames(job)
    first = next(iter(frames)) if isinstance(frames, list) else next(_frames(job))
    if job.method == "tsdf":
        if isinstance(first, DepthFrame):
            limits = {} if job.max_range_m is None else {"max_depth_m": job.max_range_m}
            if job.min_weight is not None:
                limits["weight_threshold"] = job.min_weight
            return fuse_tsdf((f for f in frames if isinstance(f, DepthFrame)), job.voxel_m, **limits)
        return fuse_tsdf_lidar((f for f in frames if isinstance(f, PointFrame)), job.voxel_m)
    if isinstance(first, DepthFrame) and job.trim_vox is None:
        return screened_poisson(depth_frames(frames), depth=job.depth, voxel_m=job.voxel_m)
    return _poisson_of_points(frames, job, has_normals=isinstance(first, PointFrame) and not first.has_origin)


def _poisson_of_points(frames: Iterable[Frame], job: Job, *, has_normals: bool) -> Baseline:
    """Screened Poisson of any frames' points, thinned and oriented to the sensor, or with their normals."""
    import open3d as o3d

    parts = [_points_and_ways(frame) for frame in frames]
    voxel_m = float(job.voxel_m or 0.0)
    cloud: Any = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(np.concatenate([p for p, _ in parts])))
    cloud.normals = o3d.utility.Vector3dVector(np.concatenate([way for _, way in parts]))
    if not has_normals:
        cloud = cloud.voxel_down_sample(voxel_m)
    way = np.array(cloud.normals)
    started = time.perf_counter()
    if not has_normals:
        cloud.estimate_normals(o3d.geometry.KDTreeSearchParamHybrid(voxel_m * 4, 30))
        normals = np.asarray(cloud.normals)
        away = (normals * way).sum(axis=1, keepdims=True) < 0
        cloud.normals = o3d.utility.Vector3dVector(np.where(away, -normals, normals))
    mesh, _ = o3d.geometry.TriangleMesh.create_from_point_cloud_poisson(cloud, depth=job.depth, n_threads=2)
    made = TriangleMesh(np.array(mesh.vertices), np.array(mesh.triangles, np.int32))
    if job.trim_vox is not None:
        made = _trimmed(made, np.asarray(cloud.points), job.trim_vox * voxel_m)
    return Baseline(made, len(parts), 0.0, time.perf_counter() - started, 0)


def _points_and_ways(frame: Frame) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """World points (N, 3), and their normals, or where there are none the vectors to the sensor."""
    pose = frame.world_T_sensor
    if isinstance(frame, DepthFrame):
        k, depth = frame.intrinsics, np.asarray(frame.depth_m, np.float64)
        v, u = np.nonzero((depth >= frame.min_range_m) & (depth <= frame.max_range_m))
        z = depth[v, u]
        local = np.stack([(u - k.cx) / k.fx * z, (v - k.cy) / k.fy * z, z], axis=-1)
        points = local @ pose[:3, :3].T + pose[:3, 3]
        return points, pose[:3, 3] - points
    assert isinstance(frame, PointFrame), "no benchmark has range images"
    local = frame.points_m.reshape(-1, 3).astype(np.float64)
    good = np.isfinite(local).all(axis=1)
    points = local[good] @ pose[:3, :3].T + pose[:3, 3]
    if not frame.has_origin:
        assert frame.normals is not None
        return points, frame.normals.reshape(-1, 3)[good].astype(np.float64) @ pose[:3, :3].T
    origin = pose[:3, :3] @ np.asarray(frame.sensor_origin_m) + pose[:3, 3]
    return points, origin - points


def _trimmed(mesh: TriangleMesh, points_m: npt.NDArray[np.float64], reach_m: float) -> TriangleMesh:
    """The triangles whose corners all lie near a point."""
    from scipy.spatial import cKDTree

    gap, _ = cKDTree(points_m).query(mesh.vertices, distance_upper_bound=reach_m)
    return TriangleMesh(mesh.vertices, mesh.triangles[np.isfinite(gap)[mesh.triangles].all(axis=1)])


def area_m2(mesh: MeshLike) -> float:
    """Area of all triangles."""
    corners = np.asarray(mesh.vertices, np.float64)[np.asarray(mesh.triangles)]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return float(np.linalg.norm(cross, axis=1).sum() / 2)


def summary_row(
    scene: str, job: Job, measured: Measured, scores: MeshScores | None, **more: float | str | None
) -> dict[str, float | str | None]:
    """A row of the summary of all benchmarks; ``more`` replaces what the scores do not give."""
    row: dict[str, float | str | None] = {
        "scene": scene,
        "method": job.label,
        **dict.fromkeys(("mean_mm", "median_mm", "p95_mm", "p99_mm")),
        **dict.fromkeys(("completeness", "f_score", "normal_consistency")),
        "ms_per_frame": measured.ms_per_frame,
        "total_s": measured.total_s,
        "peak_mb": measured.peak_mb,
        "map_bytes": measured.map_bytes,
    }
    if scores is not None:
        row |= {
            "mean_mm": 1e3 * scores.accuracy_mean_m,
            "median_mm": 1e3 * scores.accuracy_median_m,
            "p95_mm": 1e3 * scores.accuracy_p95_m,
            "p99_mm": 1e3 * scores.accuracy_p99_m,
            "completeness": scores.recall,
            "f_score": scores.f_score,
            "normal_consistency": scores.normal_consistency,
        }
    # JSON has no infinity.
    return row | {key: "inf" if value == float("inf") else value for key, value in more.items()}


@click.command(
    epilog="""Example: python -m benchmarks.methods '{"method": "streamdgp", "scan": "room-scan"}' room.ply"""
)
@click.argument("job")
@click.argument("mesh", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--answer", type=click.Path(dir_okay=False, path_type=Path), help="Where to write what it took."
)
def main(job: str, mesh: Path, answer: Path | None) -> None:
    """Reconstruct a scan by one method: JOB is JSON, MESH the file to write."""
    told = dataclasses.asdict(perform(Job(**json.loads(job)), mesh))
    text = json.dumps({**told, "mesh_path": str(mesh)}, indent=1)
    if answer is not None:
        answer.write_text(text, encoding="utf-8")
    else:
        click.echo(text)


if __name__ == "__main__":
    main()
