"""``streamdgp evaluate``: a mesh against a reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from streamdgp.errors import DatasetError
from streamdgp.meshes import read_mesh

__all__ = ["evaluate"]


def _read_seen(path: Path) -> Any:  # noqa: ANN401 - an array, before numpy is imported
    import numpy as np

    try:
        points = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(
            f"points (K, 3) in {path}", "no .npy file of numbers", "Give the seen.npy of a simulated scan."
        ) from error
    if points.ndim != 2 or points.shape[1] != 3:
        raise DatasetError(
            f"points (K, 3) in {path}", f"shape {points.shape}", "Give the seen.npy of a scan."
        )
    return points


@click.command(short_help="Score a mesh against a reference mesh.")
@click.argument("mesh", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--reference", required=True, type=click.Path(path_type=Path), help="The true mesh.")
@click.option(
    "--threshold", type=click.FloatRange(min=0, min_open=True), default=0.004, show_default=True, metavar="M",
    help="Distance that counts for the F-score.",
)  # fmt: skip
@click.option(
    "--seen", type=click.Path(path_type=Path), help="seen.npy: completeness only over what was seen."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def evaluate(mesh: Path, reference: Path, threshold: float, seen: Path | None, as_json: bool) -> None:
    """Print accuracy, completeness, F-score and normal consistency of the mesh FILE.

    Accuracy is the distance from FILE to the reference, completeness the distance back.

    \b
    Examples:
      streamdgp evaluate room.ply --reference room-scan/truth.ply --seen room-scan/seen.npy
      streamdgp evaluate street.ply --reference street-scan/truth.ply --threshold 0.1 --json
    """
    from streamdgp.evaluation import compare_meshes

    points = None if seen is None else _read_seen(seen)
    scores = compare_meshes(read_mesh(mesh), read_mesh(reference), threshold_m=threshold, seen_m=points)
    if as_json:
        click.echo(json.dumps(scores.as_dict()))
        return
    table = Table("", "mean", "median", "p95", "p99", title=f"{mesh.name} against {reference.name} (mm)")
    for name in ("accuracy", "completeness"):
        values = (getattr(scores, f"{name}_{part}_m") for part in ("mean", "median", "p95", "p99"))
        table.add_row(name, *(f"{value * 1e3:.3f}" for value in values))
    console = Console()
    console.print(table)
    console.print(f"Chamfer distance    {scores.chamfer_distance_m * 1e3:.3f} mm")
    console.print(
        f"F-score at {threshold * 1e3:g} mm   {scores.f_score:.4f} "
        f"(precision {scores.precision:.4f}, recall {scores.recall:.4f})"
    )
    console.print(f"normal consistency  {scores.normal_consistency:.4f}")
    manifold = "edge-manifold" if scores.edge_manifold else "not edge-manifold"
    console.print(f"triangles           {scores.triangle_count} ({manifold})")
