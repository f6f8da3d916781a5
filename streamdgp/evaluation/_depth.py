"""Depth that a mesh predicts for frames that were held back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamdgp.errors import InvalidInputError
from streamdgp.frames import DepthFrame
from streamdgp.meshes import MeshLike, RayScene

__all__ = ["DepthScores", "compare_depth"]


@dataclass(frozen=True)
class DepthScores:
    """Predicted against measured depth, over all pixels; a miss is an infinite error.

    ``median_m`` counts misses, ``mean_of_hits_m`` does not. ``within_2cm``, ``early_5cm`` (surface
    more than 5 cm in front) and ``late_5cm`` (behind) are shares of all pixels. ``coverage`` is the
    share of rays that hit, averaged over the frames.
    """

    median_m: float
    mean_of_hits_m: float
    within_2cm: float
    early_5cm: float
    late_5cm: float
    coverage: float
    pixel_count: int

    def as_dict(self) -> dict[str, float | int]:
        """Scores by name, ready for JSON."""
        return dataclasses.asdict(self)


def _rays(
    frame: DepthFrame, stride: int, min_depth_m: float, max_depth_m: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """World directions (N, 3) with unit depth, and measured depths (N,), of every stride-th pixel."""
    k, pose = frame.intrinsics, frame.world_T_sensor
    depth = frame.depth_m[::stride, ::stride]
    v, u = np.nonzero((depth > min_depth_m) & (depth < max_depth_m))
    x, y = (u * stride - k.cx) / k.fx, (v * stride - k.cy) / k.fy
    return np.stack([x, y, np.ones_like(x)], axis=-1) @ pose[:3, :3].T, depth[v, u]


def compare_depth(
    meshes: Mapping[str, MeshLike],
    frames: Iterable[DepthFrame],
    *,
    stride: int = 2,
    min_depth_m: float = 0.4,
    max_depth_m: float = 4.0,
) -> dict[str, DepthScores]:
    """Score several meshes over the same pixels of the same frames.

    Parameters
    ----------
    meshes
        Meshes by name.
    frames
        Frames that no mesh was made of.
    stride
        Every how many pixels, in both directions.
    min_depth_m, max_depth_m
        Measured depths outside are not compared.

    Raises
    ------
    InvalidInputError
        No pixel to compare.
    """
    scenes = {name: RayScene(mesh) for name, mesh in meshes.items()}
    errors: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in meshes}
    coverage: dict[str, list[float]] = {name: [] for name in meshes}
    for frame in frames:
        directions, depth = _rays(frame, stride, min_depth_m, max_depth_m)
        if not len(depth):
            continue
        for name, scene in scenes.items():
            predicted = scene.cast(frame.world_T_sensor[:3, 3], directions).t
            hit = np.isfinite(predicted)
            errors[name].append(np.where(hit, predicted - depth, np.inf))
            coverage[name].append(float(hit.mean()))
    if not any(errors.values()):
        raise InvalidInputError(
            f"pixels with a depth of {min_depth_m:g} to {max_depth_m:g} m", "none", "Hold other frames back."
        )
    return {name: _score(np.concatenate(errors[name]), coverage[name]) for name in meshes}


def _score(signed_m: npt.NDArray[np.float32], coverage: list[float]) -> DepthScores:
    size, hit = np.abs(signed_m), np.isfinite(signed_m)
    return DepthScores(
        median_m=float(np.median(size)),
        mean_of_hits_m=float(size[hit].mean()) if hit.any() else float("inf"),
        within_2cm=float((size < 0.02).mean()),
        early_5cm=float((signed_m < -0.05).mean()),
        late_5cm=float((signed_m[hit] > 0.05).sum() / len(signed_m)),
        coverage=float(np.mean(coverage)),
        pixel_count=len(signed_m),
    )
