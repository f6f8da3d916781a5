"""Surfaces of an oriented cloud by several methods: ours, TSDF of made-up views, charts without company."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from scipy.spatial import cKDTree

from benchmarks.engine import reconstruct
from benchmarks.experiments.scans import Cloud
from streamdgp.config import RegimeName, SceneConfig
from streamdgp.evaluation import fuse_tsdf
from streamdgp.fitting.batches import fit_in_batches
from streamdgp.fitting.lazy import LazyRegime
from streamdgp.fitting.raster import RASTER, raster_lattice
from streamdgp.frames import DepthFrame, Intrinsics
from streamdgp.meshes import TriangleMesh
from streamdgp.reconstructor import Reconstructor
from streamdgp.surface import Mesh

__all__ = ["chart_patches_mesh", "made_up_views", "scale_of", "streamed_mesh", "tsdf_mesh"]

_VIEWS = 32
_PIXELS_PER_SPACING = 0.7
_DISTANCE = 3.0
_PATCH_RADIUS = 0.8


def scale_of(cloud: Cloud) -> SceneConfig:
    """The lengths that the engine chooses for a cloud."""
    engine = Reconstructor()
    engine.integrate(cloud.frame())
    return engine.config


def streamed_mesh(cloud: Cloud, config: SceneConfig, regime: RegimeName = "lazy") -> tuple[Mesh, int]:
    """Our surface of one cloud, and how many charts it has."""
    made = reconstruct([cloud.frame()], replace(config, regime=regime))
    return made.mesh, made.engine.chart_count


def chart_patches_mesh(engine: Reconstructor, *, transport: bool = False) -> TriangleMesh:
    """Every chart for itself: no consistency, no blend, and by default no transport; their patches.

    The role of AtlasNet's independent patches: the engine's anchors and evidence, charts that start from the
    tangent plane and are regressed alone, each shown as its own piece of mesh where evidence backs it.
    """
    inner = engine._map
    assert inner is not None, "a frame first"
    patches = engine._gather(inner, np.arange(len(inner.atlas)))
    regime = LazyRegime(inner.config.fit, inner.config.seed, transport=transport)
    fit = fit_in_batches(regime, patches.points, patches.weights, patches.thickness, None, regime.device)
    raster = np.stack(fit.rasters).astype(np.float64).reshape(len(fit.rasters), -1, 3)
    anchor, rotation = inner.atlas.column("anchor"), inner.atlas.column("rotation")
    scale_m = inner.atlas.scale_of(np.arange(len(anchor)))[:, None, None]
    world = anchor[:, None] + scale_m * raster @ rotation.transpose(0, 2, 1)
    return _single_cover(world, np.stack(list(inner.atlas.supports)), anchor)


def _single_cover(world: np.ndarray, support: np.ndarray, anchor: np.ndarray) -> TriangleMesh:
    """Patches (C, 33 * 33, 3), each where it is backed (C, n, n) and no other anchor is nearer.

    Without the last, points would be compared with the nearest of several sheets, and more charts would look
    better however badly they agreed.
    """
    corner = np.arange(RASTER * RASTER).reshape(RASTER, RASTER)
    cells = np.stack(
        [x.ravel() for x in (corner[:-1, :-1], corner[1:, :-1], corner[1:, 1:], corner[:-1, 1:])]
    )
    middle = raster_lattice().numpy()[cells].mean(axis=0)
    backed = np.clip(((middle + 1.0) / 2.0 * support.shape[1]).astype(int), 0, support.shape[1] - 1)
    shown = (support[:, backed[:, 0], backed[:, 1]] >= 0.5) & (np.linalg.norm(middle, axis=1) < _PATCH_RADIUS)
    chart, which = np.nonzero(shown)
    a, b, c, d = (cells[k][which] for k in range(4))
    nearest = cKDTree(anchor).query(0.5 * (world[chart, a] + world[chart, c]))[1]
    mine = nearest == chart
    a, b, c, d = (chart[mine] * RASTER * RASTER + x[mine] for x in (a, b, c, d))
    triangles = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    return TriangleMesh(world.reshape(-1, 3), triangles.astype(np.int32))


def made_up_views(cloud: Cloud, spacing_m: float) -> Iterator[DepthFrame]:
    """Depth images of a cloud that has none, from cameras all around: its points, splatted.

    Only points that face the camera; each covers 3 x 3 pixels with its tangent plane. A pixel is about as
    wide as the points are apart.
    """
    centre = 0.5 * (cloud.points_m.min(axis=0) + cloud.points_m.max(axis=0))
    radius = float(np.linalg.norm(cloud.points_m - centre, axis=1).max())
    distance = _DISTANCE * radius
    focal = distance / (spacing_m / _PIXELS_PER_SPACING)
    size = int(2.3 * focal * radius / (distance - radius))
    k = Intrinsics(focal, focal, (size - 1) / 2, (size - 1) / 2)
    index = np.arange(_VIEWS) + 0.5
    height, turn = 1.0 - 2.0 * index / _VIEWS, np.pi * (1.0 + 5.0**0.5) * index
    ring = np.sqrt(1.0 - height**2)
    for towards in np.stack([ring * np.cos(turn), ring * np.sin(turn), height], axis=1):
        forward = -towards
        right = np.cross(forward, np.eye(3)[np.abs(forward).argmin()])
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
        pose[:3, 3] = centre + distance * towards
        facing = cloud.normals @ towards > 0.2
        local = (cloud.points_m[facing] - pose[:3, 3]) @ pose[:3, :3]
        depth = _splat(local, cloud.normals[facing] @ pose[:3, :3], k, size, 3.0 * spacing_m)
        yield DepthFrame(depth.astype(np.float32), k, pose, min_range_m=0.0, max_range_m=4.0)


def _splat(local: np.ndarray, normals: np.ndarray, k: Intrinsics, size: int, layer_m: float) -> np.ndarray:
    """Depth (size, size) of camera-frame points (N, 3): mean of the planes close behind the nearest."""
    column = np.round(k.fx * local[:, 0] / local[:, 2] + k.cx).astype(int)
    row = np.round(k.fy * local[:, 1] / local[:, 2] + k.cy).astype(int)
    height = (normals * local).sum(axis=1)
    pixels, depths = [], []
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            u, v = column + dx, row + dy
            ray = np.stack([(u - k.cx) / k.fx, (v - k.cy) / k.fy, np.ones(len(u))], axis=1)
            z = height / (normals * ray).sum(axis=1)
            good = (u >= 0) & (u < size) & (v >= 0) & (v < size) & (np.abs(z - local[:, 2]) < layer_m)
            pixels.append(v[good] * size + u[good])
            depths.append(z[good])
    pixel, z = np.concatenate(pixels), np.concatenate(depths)
    nearest = np.full(size * size, np.inf)
    np.minimum.at(nearest, pixel, z)
    front = z < nearest[pixel] + layer_m
    count = np.bincount(pixel[front], minlength=size * size)
    mean: np.ndarray = np.bincount(pixel[front], z[front], size * size) / np.maximum(count, 1)
    return mean.reshape(size, size)


def tsdf_mesh(cloud: Cloud, spacing_m: float) -> TriangleMesh:
    """Open3D's TSDF of made-up views, voxels as wide as the points are apart."""
    return fuse_tsdf(made_up_views(cloud, spacing_m), spacing_m, weight_threshold=2.0).mesh
