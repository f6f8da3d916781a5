"""How large a map is, and how a TSDF of the same frames compares: a table for several benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.engine import STORED_PARTS
from benchmarks.methods import Measured
from benchmarks.results import Table

__all__ = ["SIZE_RATIO", "SizeRow", "size_figures", "size_table"]

SIZE_RATIO = 0.3
"""How much of the TSDF's bytes a map may take."""
DERIVED = ("state", "indexes", "rasters")


@dataclass(frozen=True)
class SizeRow:
    """A scene's map and that of the TSDF at the size of voxel at which its error is least."""

    scene: str
    ours: Measured
    tsdf: Measured
    tsdf_voxel_m: float


def size_table(rows: list[SizeRow]) -> Table:
    """Bytes by what they are for, against the TSDF's, per chart and per square metre of our mesh."""
    lines = []
    for row in rows:
        found = size_figures(row)
        lines.append(
            [
                row.scene,
                *(f"{row.ours.split[part] / 1e6:.2f}" for part in STORED_PARTS),
                f"{found['map_bytes'] / 1e6:.2f}",
                f"{found['tsdf_bytes'] / 1e6:.2f}",
                f"{found['ratio']:.2f}",
                f"{found['bytes_per_chart']:.0f}",
                f"{found['bytes_per_m2'] / 1e3:.0f}",
                f"{found['tsdf_bytes_per_m2'] / 1e3:.0f}",
                *(f"{row.ours.split[part] / 1e6:.1f}" for part in DERIVED),
            ]
        )
    columns = [
        *("MB of", *STORED_PARTS, "stored"),
        *("TSDF", "ours / TSDF", "bytes per chart", "kB per m²", "TSDF kB per m²"),
        *(f"{part} in memory" for part in DERIVED),
    ]
    voxels = ", ".join(f"{row.scene} {1e3 * row.tsdf_voxel_m:g} mm" for row in rows)
    return Table(
        "size of the map; TSDF: distance and weight, 4 bytes each, per voxel of its blocks, at the voxel of"
        f" its least error ({voxels})",
        columns,
        lines,
    )


def size_figures(row: SizeRow) -> dict[str, Any]:
    """The numbers of a row."""
    ours, theirs = int(row.ours.map_bytes or 0), int(row.tsdf.map_bytes or 0)
    return {
        "map_bytes": ours,
        "split": row.ours.split,
        "tsdf_bytes": theirs,
        "tsdf_voxel_m": row.tsdf_voxel_m,
        "ratio": ours / max(theirs, 1),
        "charts": row.ours.chart_count,
        "bytes_per_chart": ours / max(row.ours.chart_count, 1),
        "area_m2": row.ours.area_m2,
        "bytes_per_m2": ours / row.ours.area_m2,
        "tsdf_bytes_per_m2": theirs / row.ours.area_m2,
    }
