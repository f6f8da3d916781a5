"""Charts that interpolate are consistent: overlapping charts, fitted alone, as residuals go to zero."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.experiments.plots import COLORS, drawing, log_log_slope
from benchmarks.experiments.report import Experiment, Figures, markdown_table, picture
from streamdgp.atlas.atlas import tangent_frames
from streamdgp.fitting._projection import foot_points
from streamdgp.fitting.features import SharedFeatures, draw_features
from streamdgp.fitting.lazy import LazyRegime
from streamdgp.fitting.ridge import solve_ridge
from streamdgp.fitting.types import PatchBatch
from streamdgp.transport import TransportConfig, squared_distances, transport_plan

__all__ = ["EXPERIMENT", "Pairs", "overlapping_pairs"]

_PAIRS = 32
_APART = 0.7
_RADIUS = 1.5
_DENSE = 128
_WIDTH = 256
_KEEP = 1e-7
# Below, roughness of the feet (they come from a raster) would be fitted.
_RIDGES = np.geomspace(1.0, 1e-6, 13)
# Points per unit of area (chart radii), noise in chart radii.
_CASES = {
    "20 points per area": (20.0, 0.0),
    "40 points per area": (40.0, 0.0),
    "40 points, noise 30": (40.0, 0.03),
}


@dataclass(frozen=True)
class Pairs:
    """P pairs of overlapping patches of a sphere; charts 2p and 2p + 1 are a pair.

    patches: evidence of the 2P charts; common (2P, M): rows of the points that both see, in one order, -1 for
    none; clean (2P, K, 3): the same true points of the overlap in either frame; anchor (2P, 3), rotation.
    """

    patches: PatchBatch
    common: Tensor
    clean: Tensor
    anchor: Tensor
    rotation: Tensor

    def world(self, points: Tensor) -> Tensor:
        """Chart-frame points (2P, K, 3) in the common frame."""
        return points @ self.rotation.transpose(1, 2) + self.anchor[:, None]


def overlapping_pairs(density: float, sigma: float, seed: int = 0) -> Pairs:
    """Patches around anchors ``_APART`` chart radii apart that see the same points, noise included."""
    rng = np.random.default_rng(seed)
    area = 4.0 * np.pi * _RADIUS**2
    points, common, clean, anchors, rotations = [], [], [], [], []
    for _ in range(_PAIRS):
        normal = rng.normal(size=(1, 3))
        normal /= np.linalg.norm(normal)
        side = tangent_frames(normal)[0][:, 0]
        angle = _APART / _RADIUS
        normals = np.concatenate([normal, normal * np.cos(angle) + side * np.sin(angle)])
        frames = tangent_frames(normals)
        cloud, dense = (rng.normal(size=(int(count), 3)) for count in (density * area, 60 * _DENSE))
        cloud, dense = (_RADIUS * x / np.linalg.norm(x, axis=1, keepdims=True) for x in (cloud, dense))
        noisy = cloud + sigma * rng.normal(size=cloud.shape)
        inside = np.linalg.norm(cloud - _RADIUS * normals[:, None], axis=2) < 1.0
        # Both interiors: at the rim of its evidence a chart extrapolates.
        core = (np.linalg.norm(dense - _RADIUS * normals[:, None], axis=2) < 0.85).all(axis=0)
        seen = np.cumsum(inside, axis=1) - 1
        for k in range(2):
            anchor = _RADIUS * normals[k]
            points.append(torch.from_numpy((noisy[inside[k]] - anchor) @ frames[k]))
            common.append(torch.from_numpy(seen[k][inside.all(axis=0)]))
            clean.append(torch.from_numpy((dense[core][:_DENSE] - anchor) @ frames[k]))
            anchors.append(torch.from_numpy(anchor))
            rotations.append(torch.from_numpy(frames[k]))
    pad = torch.nn.utils.rnn.pad_sequence
    rows = pad(points, batch_first=True)
    weights = pad([torch.ones(len(x)) for x in points], batch_first=True)
    return Pairs(
        PatchBatch(rows.float(), weights),
        pad(common, batch_first=True, padding_value=-1),
        torch.stack(clean).float(),
        torch.stack(anchors),
        torch.stack(rotations),
    )


def _rms(distance: Tensor, weights: Tensor) -> float:
    return float((distance.square() * weights).sum().div(weights.sum()).sqrt())


def _gap(pairs: Pairs, points: Tensor) -> Tensor:
    """Distance (P, K) between what the charts of a pair say of the same points (2P, K, 3)."""
    world = pairs.world(points.double())
    gap: Tensor = torch.linalg.vector_norm(world[0::2] - world[1::2], dim=2)
    return gap


def _path(pairs: Pairs) -> list[dict[str, float]]:
    """Residual and disagreement as the ridge goes to zero; lengths in thousandths of the chart radius."""
    regime = LazyRegime(features=draw_features(_WIDTH, 0, keep=_KEEP, most=_WIDTH), transport=False)
    feet = LazyRegime().fit_new(pairs.patches).feet
    # In double precision: with the smallest ridges the rounding of single precision would be fitted, too.
    single = regime.features
    features = SharedFeatures(*(x.double() for x in (single.w1, single.w2, single.mix, single.penalty)))
    rows, targets, weights = features(feet.double()), pairs.patches.points.double(), pairs.patches.weights
    at = pairs.common.clamp_min(0)[..., None].expand(-1, -1, 3)
    both = (pairs.common[0::2] >= 0).double()
    found = []
    for ridge in _RIDGES:
        each = torch.full((len(targets),), float(ridge), dtype=torch.float64)
        coefficients = solve_ridge(rows, targets, weights.double(), features.penalty, each)
        fitted = rows @ coefficients
        parameters = coefficients.float().flatten(1)
        exact = PatchBatch(pairs.clean, torch.ones(pairs.clean.shape[:2]))
        nearest = features(foot_points(regime.rasters(parameters), exact)[0].double()) @ coefficients
        world = pairs.world(nearest)
        plan = transport_plan(squared_distances(world[0::2], world[1::2]), config=TransportConfig("exact"))
        between = _gap(pairs, nearest)
        found.append(
            {
                "ridge": float(ridge),
                "residual": 1e3 * _rms((fitted - targets).norm(dim=2), weights),
                "at_shared_points": 1e3 * _rms(_gap(pairs, fitted.gather(1, at)), both),
                "between_points": 1e3 * float(between.square().mean().sqrt()),
                "wasserstein": 1e3 * float(plan.cost.clamp_min(0).sqrt().mean()),
            }
        )
    return found


def measure(folder: Path) -> Figures:
    """All cases."""
    figures: Figures = {
        "pairs": _PAIRS,
        "features": draw_features(_WIDTH, 0, keep=_KEEP, most=_WIDTH).count,
        "cases": {},
    }
    with drawing(folder, "interpolation", 3.6) as figure:
        left, right = figure.subplots(1, 2, sharex=True, sharey=True)
        for (name, (density, sigma)), color in zip(_CASES.items(), COLORS, strict=False):
            path = _path(overlapping_pairs(density, sigma))
            residual, shared, wasserstein = (
                np.array([x[key] for x in path]) for key in ("residual", "at_shared_points", "wasserstein")
            )
            left.loglog(residual, shared, "o-", ms=4, color=color, label=name)
            right.loglog(residual, wasserstein, "o-", ms=4, color=color, label=name)
            figures["cases"][name] = {"path": path, "slope": log_log_slope(residual, shared)}
        ends = np.array(left.get_xlim())
        left.loglog(ends, 2 * ends, color="#999999", ls="--", lw=1, label="2 × residual")
        left.set(
            title="At the points that both charts fit", ylabel="disagreement of two charts (thousandths)"
        )
        right.set(title="Between them: W₂ of the two surfaces")
        for axes in (left, right):
            axes.set_xlabel("residual of the fits (thousandths of the radius)")
            axes.set_ylim(2e-2, None)
            axes.legend()
    return figures


def describe(figures: Figures) -> str:
    """Text from the figures."""
    rows, least = [], {}
    for name, case in figures["cases"].items():
        path: list[dict[str, Any]] = case["path"]
        least[name] = min(path, key=lambda x: x["wasserstein"])
        for label, one in (("smoothest", path[0]), ("closest W₂", least[name]), ("last", path[-1])):
            keys = ("residual", "at_shared_points", "between_points", "wasserstein")
            rows.append([f"{name}: {label}", *(f"{one[key]:.3g}" for key in keys)])
    bound = max(
        one["at_shared_points"] / one["residual"]
        for case in figures["cases"].values()
        for one in case["path"]
    )
    names = list(figures["cases"])
    coarse, fine, noisy = (figures["cases"][name]["path"] for name in names)
    up = noisy[-1]["wasserstein"] / least[names[2]]["wasserstein"]
    return f"""\
{figures["pairs"]} pairs of charts on a sphere (radius {_RADIUS:g} chart radii), anchors {_APART:g}
apart, each fitted alone from {figures["features"]} shared features with a ridge that goes from 1 to
{_RIDGES[-1]:.0e}; both charts of a pair see the same points. Disagreement is measured where both charts
fit a point (the paper's consistency loss, here as a root-mean-square length), and between the points:
distance of the two charts' nearest points to the same true points, and the Wasserstein distance of
these two sets.

{picture("interpolation", "Disagreement of overlapping charts over the residual of their fits")}

{markdown_table(["thousandths of the radius", "residual", "at shared points", "between", "W₂"], rows)}

At the shared points two charts can differ by no more than the sum of their residuals, and so they do:
the disagreement is at most {bound:.2f} times the residual throughout and goes to zero with it.
Interpolating charts are consistent where the points are, with no consistency term. Between the points
there is a floor that the residual does not set: without noise W₂ gets down to
{least[names[0]]["wasserstein"]:.3g} with 20 points per unit of area and to
{least[names[1]]["wasserstein"]:.3g} with 40, and ends at {coarse[-1]["wasserstein"]:.3g} and
{fine[-1]["wasserstein"]:.3g}. With noise the charts agree best at a residual of
{least[names[2]]["residual"]:.3g} (W₂ {least[names[2]]["wasserstein"]:.3g}), and charts that follow
every point are {up:.1f} times farther from each other in between. So on noisy scans interpolation is no
way to consistency: charts are smoothed, and made to agree."""


EXPERIMENT = Experiment("interpolation", "Charts that interpolate are consistent", measure, describe)
