"""Seams between overlapping charts and the consistency objective, slowly, in numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from streamdgp.atlas.atlas import Atlas

__all__ = ["ChartPoints", "chart_points", "overlap_targets", "seams_m"]

Array = npt.NDArray[np.float64]


class ChartPoints:
    """One chart sampled on its raster, in the world: positions, unit normals, backed or not, parameters."""

    def __init__(self, raster: Array, support: Array, anchor: Array, rotation: Array, scale: float) -> None:
        n = len(raster)
        du = np.gradient(raster, axis=0)
        dv = np.gradient(raster, axis=1)
        normal = np.cross(du, dv).reshape(-1, 3)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        self.positions = (raster.reshape(-1, 3) * scale) @ rotation.T + anchor
        self.normals = normal @ rotation.T
        cell = np.clip((np.arange(n) + 0.5) / n * len(support), 0, len(support) - 1).astype(int)
        self.backed = (support[np.ix_(cell, cell)] > 0).ravel()
        axis = np.linspace(-1, 1, n)
        self.central = (np.hypot(axis[:, None], axis[None, :]) < 0.8).ravel()
        self.tree = cKDTree(self.positions)
        self.anchor, self.axis, self.scale = anchor, rotation[:, 2], scale


def chart_points(atlas: Atlas) -> list[ChartPoints]:
    """Every chart of an atlas, sampled."""
    anchor, rotation = atlas.column("anchor"), atlas.column("rotation")
    scale = atlas.scale_of(np.arange(len(atlas)))
    return [
        ChartPoints(np.asarray(r, np.float64), np.asarray(s, np.float64), anchor[c], rotation[c], scale[c])
        for c, (r, s) in enumerate(zip(atlas.rasters, atlas.supports, strict=True))
    ]


def seams_m(charts: list[ChartPoints], left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]) -> Array:
    """Distances between the charts of ``left`` and those of ``right`` where both are backed, metres.

    From each central, backed raster node of one chart to the tangent plane at the other's nearest
    node: off by curvature times (scale / 32)^2 / 2 at most, a few micrometres here.
    """
    gaps = []
    for a in left:
        p = charts[a]
        own = p.backed & p.central
        for b in right:
            q = charts[b]
            if a == b or np.linalg.norm(p.anchor - q.anchor) > 1.2 * p.scale or p.axis @ q.axis < 0.5:
                continue
            distance, nearest = q.tree.query(p.positions[own])
            good = q.backed[nearest] & q.central[nearest] & (distance < 0.1 * p.scale)
            good &= (p.normals[own] * q.normals[nearest]).sum(1) > 0.5
            offset = p.positions[own][good] - q.positions[nearest[good]]
            gaps.append(np.abs((offset * q.normals[nearest[good]]).sum(1)))
    return np.concatenate(gaps) if gaps else np.zeros(0)


def overlap_targets(
    atlas: Atlas, chart: int, own: npt.NDArray[np.float32], mu: float, reach: float
) -> tuple[Array, Array]:
    """Points ``own`` (N, 3) of a chart (its units) pulled towards its neighbours' nearest points.

    Every chart speaks with the weight it has in the blend: (1 - rho^2)^3 * support, with rho the distance
    from its anchor over 0.9 radii; a neighbour times exp(-(t / 0.1)^2), t how far the point lies beside its
    foot, and times the share of its evidence that it was fitted to, squared; the chart itself with at least
    0.01^3. Where support is below a half nobody speaks. Returns targets and the neighbours' share.
    Charts whose anchors are ``reach`` mean radii or more away are no neighbours. The nearest point is found
    among the nodes of a bilinear refinement of its raster (1/128, or finer): off by 1e-2 tangentially, 1e-4
    along the normal.
    """
    anchor, rotation = atlas.column("anchor"), atlas.column("rotation")
    scale = atlas.scale_of(np.arange(len(atlas)))
    fit, fresh = (atlas.column(n).astype(np.float64).sum(1) for n in ("fit_mass", "fresh_mass"))
    points: Array = own.astype(np.float64)
    world = points @ rotation[chart].T * scale[chart] + anchor[chart]
    backed = _support(np.asarray(atlas.supports[chart], np.float64), points[:, :2])
    precision = np.maximum(1 - (points**2).sum(1) / 0.81, 0.01) ** 3 * backed
    pull, share = np.zeros_like(points), np.zeros(len(points))
    for q in range(len(atlas)):
        if q == chart or rotation[q][:, 2] @ rotation[chart][:, 2] <= 0:
            continue
        if np.linalg.norm(anchor[q] - anchor[chart]) >= 0.5 * reach * (scale[chart] + scale[q]):
            continue
        rho2 = ((world - anchor[q]) ** 2).sum(1) / (0.9 * scale[q]) ** 2
        near = (rho2 < 1) & (backed >= 0.5)
        if not near.any():
            continue
        # As fine for this chart where the neighbour's is the larger ball.
        factor = 4 * int(np.ceil(max(scale[q] / scale[chart], 1.0)))
        fine = _refine(np.asarray(atlas.rasters[q], np.float64), factor)
        nodes = fine.reshape(-1, 3)
        local = (world[near] - anchor[q]) @ rotation[q] / scale[q]
        distance, foot = cKDTree(nodes).query(local)
        du, dv = np.gradient(fine, axis=0).reshape(-1, 3), np.gradient(fine, axis=1).reshape(-1, 3)
        normal = np.cross(du[foot], dv[foot])
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        same = (normal @ rotation[q].T) @ rotation[chart][:, 2] > 0.8
        height = ((local - nodes[foot]) * normal).sum(1)
        beside2 = np.maximum(distance**2 - height**2, 0)
        theirs = _support(np.asarray(atlas.supports[q], np.float64), nodes[foot][:, :2])
        ok = same & (distance < 0.3) & (theirs >= 0.5)
        authority = (fit[q] / (fit[q] + fresh[q])) ** 3 if fit[q] > 0 else 0.0
        b = mu * (1 - rho2[near]) ** 3 * np.exp(-beside2 / 0.1**2) * theirs * authority * ok
        foot_world = nodes[foot] @ rotation[q].T * scale[q] + anchor[q]
        pull[near] += b[:, None] * ((foot_world - anchor[chart]) @ rotation[chart] / scale[chart])
        share[near] += b
    total = precision + share
    alone = share == 0
    total[alone] = 1.0
    targets = (precision[:, None] * points + pull) / total[:, None]
    targets[alone] = points[alone]
    return targets, share / total


def _refine(raster: Array, factor: int) -> Array:
    n = len(raster)
    t = np.linspace(0, n - 1, (n - 1) * factor + 1)
    i = np.minimum(t.astype(int), n - 2)
    f = (t - i)[:, None, None]
    rows = raster[i] * (1 - f) + raster[i + 1] * f
    g = (t - i)[None, :, None]
    fine: Array = rows[:, i] * (1 - g) + rows[:, i + 1] * g
    return fine


def _support(mask: Array, v: Array) -> Array:
    n = len(mask)
    padded = np.pad(mask, 1)
    t = np.clip((v + 1) / 2 * n - 0.5, -1, n) + 1
    i = np.minimum(t.astype(int), n)
    f = t - i
    out: Array = (
        padded[i[:, 0], i[:, 1]] * (1 - f[:, 0]) * (1 - f[:, 1])
        + padded[i[:, 0] + 1, i[:, 1]] * f[:, 0] * (1 - f[:, 1])
        + padded[i[:, 0], i[:, 1] + 1] * (1 - f[:, 0]) * f[:, 1]
        + padded[i[:, 0] + 1, i[:, 1] + 1] * f[:, 0] * f[:, 1]
    )
    return out
