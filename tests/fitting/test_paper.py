"""The paper's procedure: its network, its objective, its schedule."""

from __future__ import annotations

import pytest
import torch

from benchmarks.analytic_patches import AnalyticPatches, make_patches
from streamdgp.consistency.sweep import consistency_samples
from streamdgp.errors import InvalidConfigError
from streamdgp.fitting._projection import foot_points
from streamdgp.fitting.paper import PaperConfig, PaperRegime
from streamdgp.fitting.types import FitResult, PatchBatch
from streamdgp.sampling.domain import poisson_disk_domain
from streamdgp.transport import TransportConfig, squared_distances, transport_plan

CHARTS, POINTS = 3, 96


@pytest.fixture(scope="module")
def small() -> PaperRegime:
    """The same procedure on a network that a test can afford."""
    return PaperRegime(schedule=PaperConfig(60, 40, 3e-3, (32, 64, 64), 2))


@pytest.fixture(scope="module")
def patches() -> AnalyticPatches:
    return make_patches("saddle", CHARTS, POINTS, 0.01)


@pytest.fixture(scope="module")
def fit(small: PaperRegime, patches: AnalyticPatches) -> FitResult:
    return small.fit_new(patches.evidence)


def _true_error(regime: PaperRegime, parameters: torch.Tensor, patches: AnalyticPatches) -> float:
    exact = PatchBatch(patches.clean, torch.ones(patches.clean.shape[:2]))
    return float(foot_points(regime.rasters(parameters), exact)[1].abs().mean())


def test_the_published_network_and_schedule_beat_the_plane() -> None:
    regime = PaperRegime()
    assert regime.parameter_count == 429_187
    assert (regime.schedule.local_epochs, regime.schedule.consistency_epochs) == (25, 25)
    patches = make_patches("torus", 2, 128, 0.01)
    fitted = regime.fit_new(patches.evidence)
    assert fitted.parameters.shape == (2, 429_187)
    plane = float(patches.noisy[..., 2].square().mean().sqrt())
    assert float(fitted.residual.mean()) < 0.4 * plane


def test_training_lowers_the_wasserstein_distance(
    small: PaperRegime, patches: AnalyticPatches, fit: FitResult
) -> None:
    v = torch.from_numpy(poisson_disk_domain(POINTS, small.seed)).expand(CHARTS, -1, -1)
    plane = torch.cat([v, torch.zeros(CHARTS, POINTS, 1)], dim=2)
    before, after = (
        transport_plan(squared_distances(points, patches.noisy)).cost
        for points in (plane, small.evaluate(fit.parameters, v))
    )
    assert bool((after < 0.35 * before).all())


def test_the_chart_is_near_the_surface(small: PaperRegime, patches: AnalyticPatches, fit: FitResult) -> None:
    # The patches rise by about 0.2 over their plane.
    assert _true_error(small, fit.parameters, patches) < 0.02


def test_entropic_transport_gives_nearly_the_same_charts(
    small: PaperRegime, patches: AnalyticPatches, fit: FitResult
) -> None:
    sinkhorn = PaperRegime(
        schedule=small.schedule, transport=TransportConfig("sinkhorn", inverse_temperature=2000.0)
    )
    entropic = sinkhorn.fit_new(patches.evidence)
    assert _true_error(sinkhorn, entropic.parameters, patches) < 1.3 * _true_error(
        small, fit.parameters, patches
    )


def test_a_chart_does_not_depend_on_its_batch(
    small: PaperRegime, patches: AnalyticPatches, fit: FitResult
) -> None:
    alone = small.fit_new(PatchBatch(patches.noisy[1:2], patches.evidence.weights[1:2]))
    torch.testing.assert_close(
        small.rasters(alone.parameters), small.rasters(fit.parameters[1:2]), atol=1e-3, rtol=0.0
    )


def test_the_seed_decides(small: PaperRegime, patches: AnalyticPatches, fit: FitResult) -> None:
    assert torch.equal(small.fit_new(patches.evidence).parameters, fit.parameters)
    other = PaperRegime(seed=1, schedule=small.schedule).fit_new(patches.evidence)
    assert not torch.equal(other.parameters, fit.parameters)


def test_warm_start_goes_on_from_the_stored_weights(
    small: PaperRegime, patches: AnalyticPatches, fit: FitResult
) -> None:
    short = PaperRegime(schedule=PaperConfig(2, 1, 1e-3, (32, 64, 64), 2))
    warm = short.fit_warm(patches.evidence, fit.parameters)
    cold = short.fit_new(patches.evidence)
    assert float(warm.residual.mean()) < 0.5 * float(cold.residual.mean())


def test_refit_approaches_its_targets(small: PaperRegime, fit: FitResult) -> None:
    samples = consistency_samples()
    targets = small.evaluate(fit.parameters, samples) + torch.tensor([0.0, 0.0, 0.05])
    moved = small.refit_to(fit.parameters, samples, targets)
    left = (small.evaluate(moved, samples) - targets).norm(dim=2).mean()
    assert float(left) < 0.2 * 0.05


def test_training_on_weighted_targets(small: PaperRegime, fit: FitResult, patches: AnalyticPatches) -> None:
    """Each chart has feet of its own; targets without weight say nothing."""
    shift = torch.tensor([0.0, 0.0, 0.05])
    targets = small.evaluate(fit.parameters, fit.feet) + shift
    weights = patches.evidence.weights.clone()
    weights[:, ::3] = 0.0
    wild = targets.clone()
    wild[:, ::3] += 10.0
    moved = small.train_on(fit.parameters, fit.feet, wild, weights)
    left = (small.evaluate(moved, fit.feet) - targets).norm(dim=2).mean()
    assert float(left) < 0.2 * 0.05


def test_value_and_jacobian_agree(small: PaperRegime, fit: FitResult) -> None:
    v = fit.feet[:, :20].double()
    rows = fit.parameters.double()
    points, jacobian = small.evaluate_with_jacobian(rows, v)
    torch.testing.assert_close(points, small.evaluate(rows, v), atol=1e-12, rtol=0.0)
    step = torch.tensor([1e-7, 0.0], dtype=torch.float64)
    slope = (small.evaluate(rows, v + step) - small.evaluate(rows, v - step)) / 2e-7
    torch.testing.assert_close(jacobian[..., 0], slope, atol=1e-5, rtol=0.0)


def test_padding_and_empty_charts_are_harmless(small: PaperRegime, patches: AnalyticPatches) -> None:
    points, weights = patches.noisy[:2].clone(), patches.evidence.weights[:2].clone()
    points[0, 70:], weights[0, 70:] = 0.0, 0.0
    points[1], weights[1] = 0.0, 0.0
    fitted = small.fit_new(PatchBatch(points, weights))
    assert bool(torch.isfinite(fitted.parameters).all())
    assert float(fitted.residual[0]) < 0.05
    assert float(fitted.residual[1]) == 0.0


def test_no_charts_is_no_error(small: PaperRegime) -> None:
    empty = small.fit_new(PatchBatch(torch.zeros(0, 8, 3), torch.zeros(0, 8)))
    assert empty.parameters.shape == (0, small.parameter_count)


def test_bad_schedules_say_what_is_wrong() -> None:
    with pytest.raises(InvalidConfigError, match="paper local_epochs must be at least 1; got 0"):
        PaperConfig(local_epochs=0)
    with pytest.raises(InvalidConfigError, match=r"learning_rate must lie in \(0, 1\); got 2"):
        PaperConfig(learning_rate=2.0)
