"""The active regime: better at edges, no worse elsewhere, honest about noise."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.analytic_patches import AnalyticPatches, make_patches
from streamdgp.consistency.sweep import consistency_samples
from streamdgp.errors import InvalidConfigError
from streamdgp.fitting._projection import foot_points, robust_weights, weighted_rms
from streamdgp.fitting.active import ActiveConfig, ActiveRegime
from streamdgp.fitting.lazy import LazyRegime
from streamdgp.fitting.types import FitResult, PatchBatch, Regime

CHARTS, POINTS = 6, 192


@pytest.fixture(scope="module")
def active() -> ActiveRegime:
    return ActiveRegime()


@pytest.fixture(scope="module")
def lazy(active: ActiveRegime) -> LazyRegime:
    """What the charts start from: narrower layers than charts that share them have."""
    return active.lazy


@pytest.fixture(scope="module")
def crease() -> AnalyticPatches:
    return make_patches("crease", CHARTS, POINTS, 0.004)


@pytest.fixture(scope="module")
def crease_fit(active: ActiveRegime, crease: AnalyticPatches) -> FitResult:
    return active.fit_new(crease.evidence)


def _true_error(regime: Regime, parameters: torch.Tensor, patches: AnalyticPatches) -> torch.Tensor:
    """Mean distance (C,) of the noise-free surface points to the chart."""
    exact = PatchBatch(patches.clean, torch.ones(patches.clean.shape[:2]))
    return foot_points(regime.rasters(parameters), exact)[1].abs().mean(dim=1)


def test_edges_are_sharper_than_lazy(
    lazy: LazyRegime, active: ActiveRegime, crease: AnalyticPatches, crease_fit: FitResult
) -> None:
    before = _true_error(lazy, lazy.fit_new(crease.evidence).parameters, crease)
    after = _true_error(active, crease_fit.parameters, crease)
    # Measured 0.5; early stopping must not let any chart get worse by more than chance.
    assert float(after.mean()) < 0.65 * float(before.mean())
    assert bool((after < 1.05 * before).all())


def test_charts_that_noise_explains_stay_lazy(lazy: LazyRegime, active: ActiveRegime) -> None:
    smooth = make_patches("sphere", CHARTS, POINTS, 0.03)
    fit, lazy_fit = active.fit_new(smooth.evidence), lazy.fit_new(smooth.evidence)
    misfit = lazy_fit.residual * (lazy_fit.weights.sum(1) / POINTS).sqrt()
    explained = misfit <= active.schedule.noise_ratio
    assert int(explained.sum()) >= CHARTS - 1
    expected = active.from_lazy(lazy_fit.parameters)
    assert torch.equal(fit.parameters[explained], expected[explained])


def test_a_chart_made_from_a_lazy_one_is_the_same_chart(lazy: LazyRegime, active: ActiveRegime) -> None:
    patches = make_patches("torus", CHARTS, POINTS, 0.01)
    fit = lazy.fit_new(patches.evidence)
    rows = active.from_lazy(fit.parameters)
    assert rows.shape == (CHARTS, active.parameter_count)
    for ours, theirs in zip(
        active.evaluate_with_jacobian(rows, fit.feet),
        lazy.evaluate_with_jacobian(fit.parameters, fit.feet),
        strict=True,
    ):
        # Single precision; the features' combination cancels two digits.
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=0.0)


def test_training_does_not_fit_the_noise(active: ActiveRegime, lazy: LazyRegime) -> None:
    """All charts of a noisy smooth surface forced into training: held-out evidence must stop it."""
    eager = ActiveRegime(lazy=lazy, schedule=ActiveConfig(noise_ratio=0.0))
    patches = make_patches("saddle", 12, POINTS, 0.03)
    before = _true_error(lazy, lazy.fit_new(patches.evidence).parameters, patches)
    after = _true_error(eager, eager.fit_new(patches.evidence).parameters, patches)
    assert float(after.mean()) < 1.1 * float(before.mean())


def test_a_chart_does_not_depend_on_its_batch(
    active: ActiveRegime, crease: AnalyticPatches, crease_fit: FitResult
) -> None:
    """Not in a bit of the lazy start. Training may turn a last bit into a part of a sigma (Adam's first steps
    have the size of the rate however small the gradient is), and matrix products round by how a chart's
    numbers lie in memory: most charts are the same, none is far off."""
    same = 0
    for chart in range(CHARTS):
        part = slice(chart, chart + 1)
        exact = PatchBatch(crease.clean[part], torch.ones(1, POINTS))
        one = PatchBatch(crease.noisy[part], crease.evidence.weights[part])
        start, among = (active.lazy.fit_new(evidence) for evidence in (one, crease.evidence))
        assert torch.equal(start.parameters, among.parameters[part])
        alone = active.fit_new(one)
        ours, theirs = (
            foot_points(active.rasters(rows), exact)[1]
            for rows in (alone.parameters, crease_fit.parameters[part])
        )
        assert float((ours - theirs).abs().mean()) < 0.5 * crease.sigma
        same += float((ours - theirs).abs().mean()) < 0.01 * crease.sigma
    assert same >= CHARTS - 2


def test_the_same_evidence_gives_the_same_bits(
    active: ActiveRegime, crease: AnalyticPatches, crease_fit: FitResult
) -> None:
    assert torch.equal(active.fit_new(crease.evidence).parameters, crease_fit.parameters)


def test_warm_start_keeps_what_was_learned(
    active: ActiveRegime, crease: AnalyticPatches, crease_fit: FitResult
) -> None:
    warm = active.fit_warm(crease.evidence, crease_fit.parameters)
    cold_error = _true_error(active, crease_fit.parameters, crease).mean()
    assert float(_true_error(active, warm.parameters, crease).mean()) < 1.1 * float(cold_error)


def test_refit_moves_the_chart_and_keeps_its_features(
    active: ActiveRegime, crease: AnalyticPatches, crease_fit: FitResult
) -> None:
    """A common translation of all targets is in the affine part: the answer is exact."""
    shift = torch.tensor([0.01, -0.02, 0.03])
    samples = consistency_samples()
    targets = active.evaluate(crease_fit.parameters, samples) + shift
    moved = active.refit_to(crease_fit.parameters, samples, targets)
    left = (active.evaluate(moved, samples) - targets).norm(dim=2)
    # The shift is 0.037; single-precision normal equations would leave 0.03 of it in places.
    assert float(left.mean()) < 5e-4
    assert float(left.max()) < 5e-3
    hidden = active.spec.blocks[3].stop
    assert torch.equal(moved[:, :hidden], crease_fit.parameters[:, :hidden])


def test_residual_and_feet_describe_the_chart(
    active: ActiveRegime, crease: AnalyticPatches, crease_fit: FitResult
) -> None:
    points, jacobian = active.evaluate_with_jacobian(crease_fit.parameters, crease_fit.feet)
    normal = torch.nn.functional.normalize(torch.linalg.cross(jacobian[..., 0], jacobian[..., 1]), dim=2)
    offset = ((crease.noisy - points) * normal).sum(dim=2)
    rms = weighted_rms(offset, crease_fit.weights)
    # The residual is measured on the raster, which rounds the edge off.
    torch.testing.assert_close(crease_fit.residual, rms, rtol=0.3, atol=0.0)
    # The noise is known: what is left must be near it (one normal component of three).
    assert float(crease_fit.residual.mean()) == pytest.approx(0.004, rel=0.35)


def test_padding_and_empty_charts_are_harmless(active: ActiveRegime, crease: AnalyticPatches) -> None:
    points = torch.cat([crease.noisy[:2], torch.zeros(2, 32, 3)], dim=1)
    weights = torch.cat([crease.evidence.weights[:2], torch.zeros(2, 32)], dim=1)
    weights[1] = 0.0
    points[1] = 0.0
    fit = active.fit_new(PatchBatch(points, weights))
    assert bool(torch.isfinite(fit.parameters).all())
    assert float(fit.residual[1]) == 0.0
    assert float(fit.weights[0, POINTS:].abs().max()) == 0.0


def test_outliers_lose_their_influence() -> None:
    weights = torch.ones(1, 101)
    distance = torch.full((1, 101), 0.01)
    distance[0, 0] = 1.0
    robust = robust_weights(weights, distance)
    assert bool((robust[0, 1:] == 1.0).all())
    assert float(robust[0, 0]) == pytest.approx(2.5 * 1.4826 * 0.01)
    assert math.isclose(float(weighted_rms(distance[:, 1:], weights[:, 1:])), 0.01, rel_tol=1e-6)


def test_bad_schedules_say_what_is_wrong() -> None:
    with pytest.raises(InvalidConfigError, match="active held_out_every must be at least 2; got 1"):
        ActiveConfig(held_out_every=1)
    with pytest.raises(InvalidConfigError, match=r"learning_rate must lie in \(0, 1\)"):
        ActiveConfig(learning_rate=float("nan"))
