"""Four meshes scanned by a virtual depth camera, where the error is exact: python -m benchmarks.object.

Ours (streamed frame by frame, defaults only), Open3D's TSDF at 4 mm and screened Poisson (depth 8, on
points thinned to 4 mm) of the same 60 frames. The scans are those of ``bench.py scan``, made by the
product itself; ``--check-bench`` proves that, and that the scores agree with ``bench.py mesh``.
"""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from benchmarks.engine import depth_frames, map_bytes, reconstruct, warm_up
from benchmarks.inputs import run_bench, shared_data
from benchmarks.results import Check, Result, Table, conclude, json_option
from streamdgp.datasets import open_dataset
from streamdgp.evaluation import MeshScores, compare_meshes
from streamdgp.evaluation.baselines import fuse_tsdf, screened_poisson
from streamdgp.frames import DepthFrame
from streamdgp.meshes import MeshLike, TriangleMesh, read_mesh, write_mesh
from streamdgp.simulate import DepthSensor, simulate_scan

MESHES = ("fandisk", "rocker-arm", "spot", "cow")
THRESHOLD_M = 0.004
TSDF_RATIO = 0.6
TSDF_F_MARGIN = 0.001
POISSON_RATIO = {"cow": 1.3}
POISSON_RATIO_ELSE = 1.0
AGREEMENT = 0.02
_BENCH_NAMES = {
    "accuracy_mean_m": ("acc_mean_mm", 1e3),
    "accuracy_median_m": ("acc_median_mm", 1e3),
    "accuracy_p95_m": ("acc_p95_mm", 1e3),
    "accuracy_p99_m": ("acc_p99_mm", 1e3),
    "completeness_mean_m": ("comp_mean_mm", 1e3),
    "f_score": ("f", 1.0),
    "normal_consistency": ("normal_consistency", 1.0),
}


@dataclass(frozen=True)
class Scan:
    """A virtual scan with its truth."""

    folder: Path
    frames: list[DepthFrame]
    truth: TriangleMesh
    seen_m: np.ndarray

    def score(self, mesh: MeshLike) -> MeshScores:
        """Score a mesh of this scan."""
        return compare_meshes(mesh, self.truth, threshold_m=THRESHOLD_M, seen_m=self.seen_m)


def make_scan(mesh: str, folder: Path, frames: int = 60, seed: int = 7) -> Scan:
    """Scan one of the shared meshes as ``bench.py scan`` does."""
    sensor = DepthSensor(dropout_share=0, max_range_m=100)
    made = simulate_scan(shared_data("meshes", f"{mesh}.obj"), folder, sensor, frames, seed)
    images = depth_frames(open_dataset(folder))
    return Scan(folder, images, read_mesh(made.truth), np.load(made.seen))


@dataclass(frozen=True)
class Outcome:
    """One method on one scan."""

    scores: MeshScores
    seconds: float
    map_bytes: int


def measure(scan: Scan, out: Path | None = None) -> dict[str, Outcome]:
    """Run the three methods; meshes are written to ``out`` where it is given."""
    ours = reconstruct(scan.frames)
    tsdf = fuse_tsdf(scan.frames, 0.004)
    poisson = screened_poisson(scan.frames, depth=8, voxel_m=0.004)
    if out is not None:
        for name, mesh in (("streamdgp", ours.mesh), ("tsdf", tsdf.mesh), ("poisson", poisson.mesh)):
            write_mesh(out / f"{name}.ply", mesh)
    tsdf_s = tsdf.seconds_per_frame * tsdf.frame_count + tsdf.extract_s
    return {
        "streamdgp": Outcome(scan.score(ours.mesh), ours.seconds + ours.mesh_s, map_bytes(ours.engine)),
        "tsdf": Outcome(scan.score(tsdf.mesh), tsdf_s, tsdf.map_bytes),
        "poisson": Outcome(scan.score(poisson.mesh), poisson.extract_s, 0),
    }


def _row(mesh: str, name: str, outcome: Outcome) -> list[str]:
    s = outcome.scores
    lengths = (
        *(s.accuracy_mean_m, s.accuracy_median_m, s.accuracy_p95_m, s.accuracy_p99_m, s.completeness_mean_m),
    )
    return [
        f"{mesh} {name}",
        *(f"{1e3 * length:.3f}" for length in lengths),
        f"{s.f_score:.4f}",
        f"{s.normal_consistency:.3f}",
        "yes" if s.edge_manifold else "no",
        f"{outcome.seconds:.1f}",
        f"{outcome.map_bytes / 1e6:.0f}" if outcome.map_bytes else "-",
    ]


def _checks(mesh: str, found: dict[str, Outcome]) -> list[Check]:
    ours, tsdf, poisson = (found[name].scores for name in ("streamdgp", "tsdf", "poisson"))
    return [
        Check("gate", f"{mesh}: mean / TSDF's", ours.accuracy_mean_m / tsdf.accuracy_mean_m, TSDF_RATIO),
        Check("gate", f"{mesh}: F against TSDF's - 0.001", ours.f_score, tsdf.f_score - TSDF_F_MARGIN, False),
        Check(
            "target",
            f"{mesh}: mean / Poisson's",
            ours.accuracy_mean_m / poisson.accuracy_mean_m,
            POISSON_RATIO.get(mesh, POISSON_RATIO_ELSE),
        ),
    ]


def check_bench(mesh: str, scan: Scan, found: dict[str, Outcome], out: Path) -> list[Check]:
    """The scan is that of ``bench.py scan`` up to rounding; the scores are those of ``bench.py mesh``."""
    other = out / "bench"
    run_bench("scan", shared_data("meshes", f"{mesh}.obj"), other, "--frames", str(len(scan.frames)))
    theirs = depth_frames(open_dataset(other))
    gaps_m = np.stack([np.abs(a.depth_m - b.depth_m) for a, b in zip(scan.frames, theirs, strict=True)])
    # Rays differ in the last bit: a pixel in twenty thousand rounds to the next millimetre, or a ray
    # along a silhouette hits where the other misses.
    checks = [
        Check("gate", f"{mesh}: share of its pixels that differ", float((gaps_m > 0).mean()), 1e-3),
    ]
    for name, outcome in found.items():
        told = run_bench(
            "mesh", out / f"{name}.ply", scan.folder / "truth.ply", "--seen", scan.folder / "seen.npy"
        )
        mine = outcome.scores.as_dict()
        worst = max(
            abs(mine[key] * factor / told[theirs_key] - 1)
            for key, (theirs_key, factor) in _BENCH_NAMES.items()
        )
        checks.append(
            Check("gate", f"{mesh} {name}: largest difference to bench.py's scores", worst, AGREEMENT)
        )
    return checks


def run(meshes: tuple[str, ...] = MESHES, frames: int = 60, seed: int = 7, check: bool = False) -> Result:
    """All meshes."""
    rows, checks, figures = [], [], {}
    with tempfile.TemporaryDirectory(prefix="streamdgp-object-") as scratch:
        for k, mesh in enumerate(meshes):
            out = Path(scratch) / mesh
            scan = make_scan(mesh, out / "scan", frames, seed)
            if k == 0:
                warm_up(scan.frames[:2])
            found = measure(scan, out if check else None)
            rows += [_row(mesh, name, outcome) for name, outcome in found.items()]
            checks += _checks(mesh, found)
            if check:
                checks += check_bench(mesh, scan, found, out)
            figures[mesh] = {name: dataclasses.asdict(outcome) for name, outcome in found.items()}
    columns = [
        *("", "mean mm", "median mm", "p95 mm", "p99 mm", "complete mm", "F at 4 mm", "normals", "manifold"),
        *("s", "map MB"),
    ]
    title = f"virtual scans, {frames} frames of 320 x 240, seed {seed}; completeness and F over what was seen"
    return Result("Object", [Table(title, columns, rows)], checks, [], figures)


@click.command(epilog="Example: python -m benchmarks.object --meshes cow,spot")
@click.option("--meshes", default=",".join(MESHES), show_default=True, help="Which of them, by commas.")
@click.option("--frames", default=60, show_default=True)
@click.option("--seed", default=7, show_default=True)
@click.option("--check-bench", is_flag=True, help="Also compare scans and scores with the tool bench.py.")
@json_option
def main(meshes: str, frames: int, seed: int, check_bench: bool, json_path: Path | None) -> None:
    """Reconstruct virtual scans three ways and compare with the truth."""
    conclude(run(tuple(meshes.split(",")), frames, seed, check_bench), json_path)


if __name__ == "__main__":
    main()
