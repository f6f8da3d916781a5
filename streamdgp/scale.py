"""Automatic lengths: anchor radius, evidence voxel and resolution from the first frame.

A voxel must hold about one measurement (spacing) and be about as fine as the noise of most of them
allows (sigma): finer voxels store noise, coarser ones blur. r = 4 voxels gives a chart some 130 rows;
larger charts over-smooth, smaller ones carry noise.
"""

from __future__ import annotations

from streamdgp.config import SceneConfig
from streamdgp.errors import InvalidFrameError
from streamdgp.frames.orient import OrientedPoints

__all__ = ["resolve_scale"]

_SPACINGS_PER_VOXEL = 0.8
_SIGMAS_PER_VOXEL = 0.9
_VOXELS_PER_RADIUS = 4.0
_SMALLEST_VOXEL_M = 1e-6


def resolve_scale(config: SceneConfig, points: OrientedPoints) -> SceneConfig:
    """Fill in the lengths left automatic, from a frame with at least one point."""
    voxel = config.evidence_voxel_m
    if voxel is None:
        if config.anchor_radius_m is not None:
            voxel = config.anchor_radius_m / _VOXELS_PER_RADIUS
        else:
            voxel = max(_SPACINGS_PER_VOXEL * points.spacing_m, _SIGMAS_PER_VOXEL * points.noise_m)
            if not voxel >= _SMALLEST_VOXEL_M:
                raise InvalidFrameError(
                    f"a first frame whose points lie apart (evidence voxel >= {_SMALLEST_VOXEL_M:g} m)",
                    f"a spacing of {points.spacing_m:.3g} m",
                    "Check the unit of the points, or set evidence_voxel_m.",
                )
            voxel = float(f"{voxel:.2g}")
    radius = config.anchor_radius_m if config.anchor_radius_m is not None else _VOXELS_PER_RADIUS * voxel
    resolution = config.resolution_m if config.resolution_m is not None else voxel
    return config.with_scale(radius, voxel, resolution)
