"""What the parts of the method are worth: python -m benchmarks.ablations.

Warm starts against fitting every dirty chart cold, the consistency step on and off, transport on and
off, charts of several sizes against one, another seed of the random features (how large a difference
means nothing), and Poisson-disk anchors against as many anchors drawn at random from the same evidence.
One change at a time, the rest as by default.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

import click
import numpy as np
from scipy.spatial import cKDTree

from benchmarks.engine import Reconstruction, reconstruct, warm_up
from benchmarks.inside import fit_independently, snapshot_state
from benchmarks.object import Scan, make_scan
from benchmarks.results import Result, Table, conclude, json_option
from streamdgp.atlas.atlas import NORMAL_STEPS
from streamdgp.config import ConsistencyConfig, SceneConfig
from streamdgp.evaluation import MeshScores
from streamdgp.evidence.precision import OFFSET_STEP_VOX
from streamdgp.fitting.lazy import LazyRegime
from streamdgp.reconstructor import Reconstructor
from streamdgp.surface import weld_tiles

_COLUMNS = ("mean mm", "median mm", "p95 mm", "recall at 4 mm", "normals", "charts", "fit s")


@contextlib.contextmanager
def _all_cold() -> Iterator[None]:
    def every_one(_: object, __: object, charts: np.ndarray, ___: object) -> np.ndarray:
        return np.ones(len(charts), np.bool_)

    with mock.patch.object(Reconstructor, "_is_cold", every_one):
        yield


@contextlib.contextmanager
def _no_transport() -> Iterator[None]:
    original = LazyRegime.__init__

    def plane(self: LazyRegime, *arguments: object, **named: object) -> None:
        original(self, *arguments, **{**named, "transport": False})  # type: ignore[arg-type]

    with mock.patch.object(LazyRegime, "__init__", plane):
        yield


def _row(label: str, scores: MeshScores, charts: int, fit_s: float) -> list[str]:
    return [
        label,
        *(
            f"{1e3 * x:.3f}"
            for x in (scores.accuracy_mean_m, scores.accuracy_median_m, scores.accuracy_p95_m)
        ),
        f"{scores.recall:.4f}",
        f"{scores.normal_consistency:.4f}",
        str(charts),
        f"{fit_s:.1f}",
    ]


def _streamed(label: str, scan: Scan, run: Callable[[], Reconstruction]) -> list[str]:
    made = run()
    fit_s = sum(report.stages_s.get("fit", 0.0) for report in made.reports)
    return _row(label, scan.score(made.mesh), made.engine.chart_count, fit_s)


def streaming_rows(scan: Scan) -> list[list[str]]:
    """One stream per variant."""

    def default() -> Reconstruction:
        return reconstruct(scan.frames)

    def cold() -> Reconstruction:
        with _all_cold():
            return reconstruct(scan.frames)

    def without_transport() -> Reconstruction:
        with _no_transport():
            return reconstruct(scan.frames)

    def apart() -> Reconstruction:
        return reconstruct(scan.frames, SceneConfig(consistency=ConsistencyConfig(sweeps=0)))

    def one_radius() -> Reconstruction:
        return reconstruct(scan.frames, SceneConfig(largest_radius_ratio=1.0))

    def other_seed() -> Reconstruction:
        return reconstruct(scan.frames, SceneConfig(seed=1))

    variants = (
        ("all parts", default),
        ("every refit cold", cold),
        ("no consistency step", apart),
        ("no transport", without_transport),
        ("charts of one size", one_radius),
        ("another seed", other_seed),
    )
    return [_streamed(label, scan, run) for label, run in variants]


def anchor_rows(scan: Scan, seed: int = 0) -> list[list[str]]:
    """All charts, of one size, fitted once from the last evidence: Poisson-disk anchors, random ones."""
    engine = reconstruct(scan.frames, SceneConfig(largest_radius_ratio=1.0)).engine
    rows = []
    for label, is_random in (("Poisson-disk anchors, one fit", False), ("random anchors, one fit", True)):
        state = snapshot_state(engine)
        charts, surfels = state.tables["charts"], state.tables["surfels"]
        evidence_m = (
            surfels["key"] + 0.5 + OFFSET_STEP_VOX * surfels["offset"]
        ) * engine.config.evidence_voxel_m
        if is_random:
            drawn = np.random.default_rng(seed).choice(len(evidence_m), len(charts["anchor"]), replace=False)
            # The normal of the patch, as Poisson-disk anchors have it: one surfel's is noisy.
            near = cKDTree(evidence_m).query(evidence_m[drawn], k=24)[1]
            own = surfels["normal"][drawn].astype(np.float64)
            others = surfels["normal"][near].astype(np.float64)
            same = (np.einsum("nki,ni->nk", others, own) > 0)[..., None]
            normal = (others * same).sum(1)
            normal /= np.linalg.norm(normal, axis=1, keepdims=True)
            charts["anchor"] = evidence_m[drawn]
            charts["normal"] = np.rint(NORMAL_STEPS * normal).astype(np.int16)
        for column in ("fits", "fit_mass", "fresh_mass", "parameters"):
            charts[column][:] = 0
        again = Reconstructor.restore(state)
        fit_independently(again, consistent=True)
        farther = cKDTree(charts["anchor"]).query(evidence_m)[0] > engine.config.anchor_radius_m
        scores = scan.score(weld_tiles(again.surface().tiles()))
        rows.append([*_row(label, scores, again.chart_count, 0.0)[:-1], f"{100 * farther.mean():.1f} %"])
    return rows


def run(meshes: Sequence[str], frames: int, scratch: Path) -> Result:
    """Both tables for every mesh."""
    tables = []
    for k, name in enumerate(meshes):
        scan = make_scan(name, scratch / name, frames)
        if k == 0:
            warm_up(scan.frames[:2])
        tables.append(Table(f"{name}, streamed", ["", *_COLUMNS], streaming_rows(scan)))
        columns = ["", *_COLUMNS[:-1], "evidence beyond r"]
        tables.append(Table(f"{name}, anchors", columns, anchor_rows(scan)))
    return Result("Ablations", tables)


@click.command(epilog="Example: python -m benchmarks.ablations --meshes cow")
@click.option("--meshes", default="fandisk,cow", show_default=True, help="Shared meshes, by commas.")
@click.option("--frames", default=60, show_default=True, help="Frames of a scan.")
@json_option
def main(meshes: str, frames: int, json_path: Path | None) -> None:
    """Print what each part of the method is worth."""
    with tempfile.TemporaryDirectory() as scratch:
        result = run(meshes.split(","), frames, Path(scratch))
    conclude(result, json_path)


if __name__ == "__main__":
    main()
