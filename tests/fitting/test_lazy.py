"""The lazy regime on analytic patches: exact without noise, unbiased with it, robust, repeatable."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from streamdgp.config import FitConfig
from streamdgp.consistency.sweep import consistency_samples
from streamdgp.fitting.batches import fit_in_batches
from streamdgp.fitting.lazy import LazyRegime
from streamdgp.fitting.types import FitResult, PatchBatch

_APPROXIMATION = 4.5e-3
"""Root-mean-square error of the feature space on the curved surfaces below, chart units."""

Array = npt.NDArray[np.float64]
Height = Callable[[Array], Array]


def _plane(v: Array) -> Array:
    return 0.1 * v[:, 0] - 0.2 * v[:, 1] + 0.05


def _sphere(v: Array) -> Array:
    """Radius 3 chart scales: what a chart of r = 4 voxels sees of a ball of 12 voxels' radius."""
    out: Array = np.sqrt(9 - (v**2).sum(1)) - 3
    return out


def _saddle(v: Array) -> Array:
    return 0.25 * (v[:, 0] ** 2 - v[:, 1] ** 2)


def _torus(v: Array) -> Array:
    """Outer equator of a torus with ring 2.5 and tube 1.5 chart scales."""
    out: Array = np.sqrt((np.sqrt(2.25 - v[:, 1] ** 2) + 2.5) ** 2 - v[:, 0] ** 2) - 4
    return out


_SURFACES: dict[str, Height] = {"plane": _plane, "sphere": _sphere, "saddle": _saddle, "torus": _torus}


def _disk(rng: np.random.Generator, count: int, radius: float = 0.95) -> Array:
    r, a = radius * np.sqrt(rng.uniform(size=count)), rng.uniform(0, 2 * np.pi, count)
    return np.stack([r * np.cos(a), r * np.sin(a)], 1)


def _patches(
    height: Height,
    charts: int,
    rows: int,
    sigma: float,
    seed: int = 0,
    capacity: int = 256,
    wild: float = 0.0,
) -> PatchBatch:
    """Evidence of ``charts`` patches with isotropic noise; rows sorted in space, as gathered."""
    rng = np.random.default_rng(seed)
    points = np.zeros((charts, capacity, 3), np.float32)
    weights = np.zeros((charts, capacity), np.float32)
    for c in range(charts):
        v = _disk(rng, rows)
        v = v[np.lexsort((v[:, 1], np.floor(v[:, 0] * 8)))]
        p = np.column_stack([v, height(v)]) + sigma * rng.normal(size=(rows, 3))
        bad = rng.uniform(size=rows) < wild
        p[bad, 2] += rng.uniform(0.2, 0.5, bad.sum())
        points[c, :rows] = p
        weights[c, :rows] = 1.0 / max(sigma, 1e-3) ** 2
    return PatchBatch(torch.from_numpy(points), torch.from_numpy(weights), torch.zeros(charts))


def _error(regime: LazyRegime, fit: FitResult, height: Height, radius: float = 0.8) -> Array:
    """Signed heights of the charts above the true surface at points of the middle, (C, K), chart units."""
    v = _disk(np.random.default_rng(99), 400, radius)
    grid = torch.from_numpy(v.astype(np.float32)).expand(len(fit.parameters), -1, 2)
    value, jacobian = regime.evaluate_with_jacobian(fit.parameters, grid)
    p = value.double().numpy()
    normal = torch.linalg.cross(jacobian[..., 0], jacobian[..., 1]).double().numpy()
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    gap = p[..., 2] - np.stack([height(q[:, :2]) for q in p])
    out: Array = gap * normal[..., 2]
    return out


@pytest.fixture(scope="module")
def regime() -> LazyRegime:
    return LazyRegime(seed=0)


def test_a_noise_free_plane_is_reproduced(regime: LazyRegime) -> None:
    patches = _patches(_plane, 4, 200, 0.0)
    for fit in (regime.fit_new(patches), regime.fit_warm(patches, regime.fit_new(patches).parameters)):
        assert np.abs(_error(regime, fit, _plane, 0.95)).max() < 1e-5
        # Rows whose foot fell outside V see the chart's last cell continued.
        assert float(fit.residual.median()) < 1e-3


@pytest.mark.parametrize("name", ["sphere", "saddle", "torus"])
def test_noise_free_curved_patches(regime: LazyRegime, name: str) -> None:
    """Piecewise-linear features cannot be exact: cells of 1/4 and curvature 1/2 leave h^2 k / 8 = 0.004."""
    fit = regime.fit_new(_patches(_SURFACES[name], 8, 250, 0.0))
    error = _error(regime, fit, _SURFACES[name])
    assert float(np.sqrt((error**2).mean())) < _APPROXIMATION
    assert np.abs(error).max() < 5 * _APPROXIMATION
    assert abs(error.mean()) < 0.2 * _APPROXIMATION


@pytest.mark.parametrize("name", _SURFACES)
@pytest.mark.parametrize("sigma", [0.01, 0.03])
def test_error_is_a_fraction_of_the_noise(regime: LazyRegime, name: str, sigma: float) -> None:
    """With n rows and some 10 to 20 degrees of freedom, sqrt(df / n) = 0.2 to 0.3 sigma is left.

    What the features cannot represent comes on top, and does not depend on sigma.
    """
    fit = regime.fit_new(_patches(_SURFACES[name], 24, 200, sigma))
    error = _error(regime, fit, _SURFACES[name])
    rms = float(np.sqrt((error**2).mean()))
    floor = 0.0 if name == "plane" else _APPROXIMATION
    assert rms < np.hypot(0.35 * sigma, floor)
    # Bias is what is left when the independent noise of 24 charts is averaged: it must be well below it.
    assert abs(error.mean()) < 0.06 * sigma
    assert float(np.sqrt((error.mean(0) ** 2).mean())) < np.hypot(0.12 * sigma, floor)


@pytest.mark.parametrize("name", ["plane", "sphere", "saddle"])
def test_error_falls_as_evidence_grows(regime: LazyRegime, name: str) -> None:
    """Four times the views halve sigma per row; the error follows down to what the features can represent."""
    errors = []
    for sigma in (0.08, 0.04, 0.02, 0.01):
        fit = regime.fit_new(_patches(_SURFACES[name], 24, 200, sigma))
        errors.append(float(np.sqrt((_error(regime, fit, _SURFACES[name]) ** 2).mean())))
    floor = 0.0 if name == "plane" else _APPROXIMATION
    for more, fewer in zip(errors[1:], errors[:-1], strict=True):
        assert more < np.hypot(0.65 * fewer, floor)


def test_residual_measures_the_noise(regime: LazyRegime) -> None:
    fit = regime.fit_new(_patches(_saddle, 16, 200, 0.02))
    assert float(fit.residual.mean()) == pytest.approx(0.02, rel=0.12)


@pytest.mark.parametrize(("wild", "lifted"), [(0.05, 0.3), (0.10, 1.0)])
def test_outliers_do_not_bend_a_chart(regime: LazyRegime, wild: float, lifted: float) -> None:
    """Wild points 10 to 25 sigma above the sheet: least squares would be lifted by 0.05 * 0.35 = 0.9 sigma.

    One reweighting from a least-squares start leaves about a third of that.
    """
    sigma = 0.02
    fit = regime.fit_new(_patches(_plane, 16, 200, sigma, wild=wild))
    error = _error(regime, fit, _plane)
    assert abs(float(np.median(error))) < lifted * sigma
    assert float(np.sqrt((error**2).mean())) < 2 * lifted * sigma
    z = (fit.weights / fit.weights.amax(1, keepdim=True))[:, :200]
    assert float((z < 0.5).float().mean()) > 0.4 * wild, "wild points keep their weight"


@pytest.mark.parametrize("name", ["sphere", "saddle"])
def test_warm_equals_cold(regime: LazyRegime, name: str) -> None:
    """The solve is exact, so only the foot points can differ: by far less than the noise."""
    sigma = 0.02
    first = regime.fit_new(_patches(_SURFACES[name], 12, 150, sigma, seed=1))
    more = _patches(_SURFACES[name], 12, 250, sigma, seed=2)
    cold, warm = regime.fit_new(more), regime.fit_warm(more, first.parameters)
    e_cold, e_warm = _error(regime, cold, _SURFACES[name]), _error(regime, warm, _SURFACES[name])
    assert float(np.sqrt(((e_cold - e_warm) ** 2).mean())) < 0.25 * sigma
    assert float(np.sqrt((e_warm**2).mean())) < 1.1 * float(np.sqrt((e_cold**2).mean()))


def test_warm_starts_do_not_drift(regime: LazyRegime) -> None:
    """Twenty refits on the same evidence stay where they are: the parametrisation is not eroded."""
    patches = _patches(_saddle, 4, 200, 0.02)
    first = regime.fit_new(patches)
    fit = first
    for _ in range(20):
        fit = regime.fit_warm(patches, fit.parameters)
    a, b = _error(regime, first, _saddle), _error(regime, fit, _saddle)
    assert float(np.sqrt((b**2).mean())) < 1.1 * float(np.sqrt((a**2).mean()))
    v = torch.from_numpy(_disk(np.random.default_rng(0), 200, 0.8).astype(np.float32)).expand(4, -1, 2)
    moved = (regime.evaluate(fit.parameters, v) - regime.evaluate(first.parameters, v)).norm(dim=-1)
    assert float(moved.mean()) < 0.08
    assert float(fit.feet.abs().max()) < 1.25


def test_a_patch_does_not_depend_on_its_company(regime: LazyRegime) -> None:
    """Alone, in a batch of ten and in a batch of a hundred: the same chart to 1e-5."""
    patches = _patches(_saddle, 100, 180, 0.02)
    points, weights, thickness = (x.numpy() for x in (patches.points, patches.weights, patches.thickness))
    whole = fit_in_batches(regime, points, weights, thickness, None, torch.device("cpu"))
    assert len(whole.rasters) == 100
    assert all(raster.shape == (33, 33, 3) for raster in whole.rasters)
    for begin, end in ((0, 1), (60, 70), (99, 100)):
        own = (x[begin:end] for x in (points, weights, thickness))
        part = fit_in_batches(regime, *own, None, torch.device("cpu"))
        v = torch.from_numpy(_disk(np.random.default_rng(0), 100).astype(np.float32)).expand(
            end - begin, -1, 2
        )
        alone, among = (torch.from_numpy(p) for p in (part.parameters, whole.parameters[begin:end]))
        gap = regime.evaluate(alone, v) - regime.evaluate(among, v)
        assert float(gap.abs().max()) < 1e-5


def test_same_input_same_bits(regime: LazyRegime) -> None:
    patches = _patches(_torus, 70, 180, 0.02)
    points, weights, thickness = (x.numpy() for x in (patches.points, patches.weights, patches.thickness))
    a = fit_in_batches(regime, points, weights, thickness, None, torch.device("cpu"))
    b = fit_in_batches(LazyRegime(seed=0), points, weights, thickness, None, torch.device("cpu"))
    for name in ("parameters", "residual", "ridge"):
        assert getattr(a, name).tobytes() == getattr(b, name).tobytes(), name
    for left, right in zip(a.rasters, b.rasters, strict=True):
        assert left.tobytes() == right.tobytes()
    first, again = regime.fit_new(patches), LazyRegime(seed=0).fit_new(patches)
    for name in ("parameters", "feet", "residual", "weights", "ridge"):
        assert torch.equal(getattr(first, name), getattr(again, name)), name


def test_half_a_patch_does_not_bend_the_backed_half(regime: LazyRegime) -> None:
    """Only one side of the ball has been seen: that side is as good as in a whole patch."""
    sigma = 0.02
    whole = _patches(_sphere, 16, 250, sigma)
    weights = whole.weights.clone()
    weights[whole.points[..., 0] < 0] = 0
    order = torch.argsort((weights == 0).int(), dim=1, stable=True)
    points = torch.gather(whole.points, 1, order[..., None].expand(-1, -1, 3))
    weights = torch.gather(weights, 1, order)
    points[weights == 0] = 0
    fit = regime.fit_new(PatchBatch(points, weights, whole.thickness))
    grid = torch.from_numpy(_disk(np.random.default_rng(99), 2000, 0.8).astype(np.float32))
    p = regime.evaluate(fit.parameters, grid.expand(16, -1, 2)).double().numpy()
    seen = (p[..., 0] > 0.1) & (np.hypot(p[..., 0], p[..., 1]) < 0.75)
    error = np.concatenate([(q[s, 2] - _sphere(q[s, :2])) for q, s in zip(p, seen, strict=True)])
    assert float(np.sqrt((error**2).mean())) < 0.5 * sigma


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 8])
def test_starved_patches_stay_finite(regime: LazyRegime, rows: int) -> None:
    patches = _patches(_plane, 3, 8, 0.01)
    weights = patches.weights.clone()
    weights[:, rows:] = 0
    fit = regime.fit_new(PatchBatch(patches.points, weights, patches.thickness))
    assert torch.isfinite(fit.parameters).all()
    assert torch.isfinite(fit.residual).all()
    warm = regime.fit_warm(PatchBatch(patches.points, weights, patches.thickness), fit.parameters)
    assert torch.isfinite(warm.parameters).all()


def test_refit_reaches_its_targets(regime: LazyRegime) -> None:
    """The consistency step: a chart asked to lie 0.1 higher does so, and one asked nothing stays."""
    patches = _patches(_saddle, 4, 200, 0.0)
    fit = regime.fit_new(patches)
    samples = consistency_samples()
    own = regime.evaluate(fit.parameters, samples)
    lifted = own.clone()
    lifted[..., 2] += 0.1
    v = torch.from_numpy(_disk(np.random.default_rng(0), 200, 0.8).astype(np.float32)).expand(4, -1, 2)
    for targets, rise in ((lifted, 0.1), (own, 0.0)):
        moved = regime.refit_to(fit.parameters, samples, targets)
        gap = regime.evaluate(moved, v) - regime.evaluate(fit.parameters, v)
        # The jitter of 1e-6 against a Gram of 0.2, and float32.
        np.testing.assert_allclose(gap[..., 2].numpy(), rise, atol=2e-4)
        np.testing.assert_allclose(gap[..., :2].numpy(), 0.0, atol=2e-4)


def test_shared_arrays_are_those_of_the_features(regime: LazyRegime) -> None:
    shared = regime.shared_arrays()
    assert set(shared) == {"shared_w1", "shared_w2", "shared_mix", "shared_penalty"}
    assert all(a.dtype == np.float32 for a in shared.values())
    assert regime.parameter_count == 3 * (3 + regime.features.count)


@pytest.mark.parametrize("most", [1, 12, FitConfig().features])
def test_a_chart_weighs_as_many_features_as_set(most: int) -> None:
    regime = LazyRegime(FitConfig(features=most))
    assert regime.features.count == most
    fit = regime.fit_new(_patches(_saddle, 2, 100, 0.01))
    assert fit.parameters.shape == (2, 3 * (3 + most))
    assert torch.isfinite(fit.parameters).all()


@pytest.mark.parametrize("width", [8, 32, 128])
def test_any_width_fits_a_plane(width: int) -> None:
    regime = LazyRegime(FitConfig(width=width), seed=3)
    fit = regime.fit_new(_patches(_plane, 2, 200, 0.0))
    assert np.abs(_error(regime, fit, _plane)).max() < 2e-5
