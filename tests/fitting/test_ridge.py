"""Batched ridge regression against dense solutions, and its choice of the ridge against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from streamdgp.fitting.features import SharedFeatures, draw_features
from streamdgp.fitting.ridge import solve_ridge, solve_ridge_reml
from tests.reference.ridge import cross_validation_scores, dense_ridge, marginal_likelihood_scores

_GAMMA = 1.3
_CANDIDATES = np.logspace(-4, 0, 13)


@pytest.fixture(scope="module")
def features() -> SharedFeatures:
    return draw_features(32, seed=0)


def _problem(
    features: SharedFeatures,
    seed: int,
    charts: int = 5,
    rows: int = 160,
    noise: float = 0.01,
    bend: float = 0.3,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Design rows, targets and weights of bent patches; the last third of the rows is padding."""
    rng = np.random.default_rng(seed)
    v = rng.uniform(-0.8, 0.8, (charts, rows, 2))
    height = bend * np.sin(2.5 * v[..., 0]) * np.cos(1.5 * v[..., 1] + rng.uniform(0, 3, (charts, 1)))
    points = np.stack([v[..., 0], v[..., 1], height], -1) + noise * rng.normal(size=(charts, rows, 3))
    weights = rng.uniform(0.2, 5.0, (charts, rows)) * 1e4
    weights[:, 2 * rows // 3 :] = 0
    points[:, 2 * rows // 3 :] = 0
    return (
        features(torch.from_numpy(v.astype(np.float32))),
        torch.from_numpy(points.astype(np.float32)),
        torch.from_numpy(weights.astype(np.float32)),
    )


@hypothesis_settings(max_examples=15)
@given(seed=st.integers(0, 10**6), ridge=st.sampled_from([1e-4, 1e-2, 0.3]))
def test_solution_is_the_dense_one(features: SharedFeatures, seed: int, ridge: float) -> None:
    rows, targets, weights = _problem(features, seed)
    got = solve_ridge(rows, targets, weights, features.penalty, torch.full((len(rows),), ridge))
    for c in range(len(rows)):
        used = (weights[c] > 0).numpy()
        own = (x[c].double().numpy()[used] for x in (rows, targets, weights))
        wanted, _ = dense_ridge(*own, features.penalty.double().numpy(), ridge)
        prediction = rows[c].double().numpy() @ wanted
        # float32 normal equations: 1e-7 times a condition of some 1e2 that the ridge leaves.
        np.testing.assert_allclose((rows[c] @ got[c]).numpy(), prediction, atol=2e-5)


@hypothesis_settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6),
    noise=st.sampled_from([0.002, 0.02, 0.1]),
    bend=st.sampled_from([0.0, 0.1, 0.5]),
    gamma=st.sampled_from([0.5, 1.0, _GAMMA, 3.0]),
)
def test_marginal_likelihood_matches_brute_force(
    features: SharedFeatures, seed: int, noise: float, bend: float, gamma: float
) -> None:
    rows, targets, weights = _problem(features, seed, noise=noise, bend=bend)
    fit = solve_ridge_reml(rows, targets, weights, features.penalty, gamma)
    for c in range(len(rows)):
        dense = (rows[c].double().numpy(), targets[c].double().numpy(), weights[c].double().numpy())
        scores = marginal_likelihood_scores(*dense, features.penalty.double().numpy(), _CANDIDATES, gamma)
        chosen = int(np.abs(np.log(_CANDIDATES / float(fit.ridge[c]))).argmin())
        assert _CANDIDATES[chosen] == pytest.approx(float(fit.ridge[c]), rel=1e-4)
        # Neighbouring candidates may tie; the choice must be as good as the best one. Scores are logarithms
        # times some 100 rows, of which single precision leaves 0.015.
        assert scores[chosen] <= scores.min() + 0.02
        used = dense[2] > 0
        wanted, _ = dense_ridge(
            dense[0][used],
            dense[1][used],
            dense[2][used],
            features.penalty.double().numpy(),
            float(fit.ridge[c]),
        )
        prediction = (rows[c] @ fit.coefficients[c]).numpy()
        np.testing.assert_allclose(prediction[used], (dense[0] @ wanted)[used], atol=5e-5)


@pytest.mark.parametrize("noise", [0.003, 0.03])
def test_noise_variance_is_unbiased(features: SharedFeatures, noise: float) -> None:
    """rss / (1 - df/n) estimates the variance summed over the three coordinates."""
    rows, targets, _ = _problem(features, 3, charts=64, noise=noise, bend=0.0)
    weights = torch.ones(targets.shape[:2])
    weights[:, 2 * targets.shape[1] // 3 :] = 0
    fit = solve_ridge_reml(rows, targets, weights, features.penalty, _GAMMA)
    assert float(fit.noise_variance.mean()) == pytest.approx(3 * noise**2, rel=0.15)


def test_padding_does_not_matter(features: SharedFeatures) -> None:
    rows, targets, weights = _problem(features, 4)
    cut = 2 * rows.shape[1] // 3
    padded = solve_ridge_reml(rows, targets, weights, features.penalty, _GAMMA)
    bare = solve_ridge_reml(rows[:, :cut], targets[:, :cut], weights[:, :cut], features.penalty, _GAMMA)
    np.testing.assert_array_equal(padded.ridge.numpy(), bare.ridge.numpy())
    np.testing.assert_allclose(rows @ padded.coefficients, rows @ bare.coefficients, atol=1e-5)


def test_scaling_all_weights_changes_nothing(features: SharedFeatures) -> None:
    rows, targets, weights = _problem(features, 5)
    a = solve_ridge_reml(rows, targets, weights, features.penalty, _GAMMA)
    b = solve_ridge_reml(rows, targets, weights * 1024.0, features.penalty, _GAMMA)
    np.testing.assert_array_equal(a.ridge.numpy(), b.ridge.numpy())
    np.testing.assert_allclose(a.coefficients.numpy(), b.coefficients.numpy(), atol=1e-5)


@pytest.mark.parametrize("rows_used", [0, 1, 2, 3, 6])
def test_degenerate_patches_stay_finite(features: SharedFeatures, rows_used: int) -> None:
    """Fewer rows than unknowns, all at one place, or none at all: finite and bounded."""
    rows, targets, weights = _problem(features, 6, charts=2)
    weights = weights.clone()
    weights[:, rows_used:] = 0
    fit = solve_ridge_reml(rows, targets, weights, features.penalty, _GAMMA)
    assert torch.isfinite(fit.coefficients).all()
    assert torch.isfinite(fit.ridge).all()
    same = solve_ridge_reml(
        rows[:, :1].expand_as(rows), targets[:, :1].expand_as(targets), weights, features.penalty, _GAMMA
    )
    assert torch.isfinite(same.coefficients).all()


def test_flat_patches_get_more_ridge_than_bent_ones(features: SharedFeatures) -> None:
    flat = solve_ridge_reml(*_problem(features, 7, charts=32, bend=0.0), features.penalty, _GAMMA)
    bent = solve_ridge_reml(*_problem(features, 7, charts=32, bend=0.6), features.penalty, _GAMMA)
    assert flat.ridge.log().mean() > bent.ridge.log().mean() + 1


@pytest.mark.parametrize("floor", [0.0, 1e-3, 0.2, 1.0])
def test_ridge_floor_is_kept(features: SharedFeatures, floor: float) -> None:
    rows, targets, weights = _problem(features, 8, charts=16, noise=0.001, bend=0.6)
    free = solve_ridge_reml(rows, targets, weights, features.penalty, _GAMMA)
    fit = solve_ridge_reml(rows, targets, weights, features.penalty, _GAMMA, torch.full((len(rows),), floor))
    assert float(fit.ridge.min()) >= floor * (1 - 1e-5)
    kept = free.ridge >= floor
    np.testing.assert_array_equal(fit.ridge[kept].numpy(), free.ridge[kept].numpy())


def test_noise_is_followed_less_often_than_by_cross_validation(features: SharedFeatures) -> None:
    """A plane asks for 3 degrees of freedom, the stiffest ridge leaves 4.4: who takes more than 8?

    Generalised cross-validation does in one or two fits of ten: its minimum is shallow on that side. Both
    at gamma = 1 (at 1.3 and with independent errors neither does), in double precision.
    """
    problem = _problem(features, 9, charts=100, noise=0.02, bend=0.0)
    rows, targets, weights = (x.double() for x in problem)
    penalty = features.penalty.double()
    fit = solve_ridge_reml(rows, targets, weights, penalty, 1.0)
    freedom: dict[str, list[float]] = {"reml": [], "gcv": []}
    for c in range(len(rows)):
        used = weights[c] > 0
        dense = (rows[c][used].numpy(), targets[c][used].numpy(), weights[c][used].numpy(), penalty.numpy())
        scores = cross_validation_scores(*dense, _CANDIDATES, 1.0)
        for name, ridge in (("reml", float(fit.ridge[c])), ("gcv", float(_CANDIDATES[scores.argmin()]))):
            _, hat = dense_ridge(*dense, ridge)
            freedom[name].append(float(np.trace(hat)))
    reml, gcv = (np.mean(np.array(freedom[name]) > 8) for name in ("reml", "gcv"))
    assert reml <= 0.03
    assert gcv >= 0.06
    assert np.mean(freedom["reml"]) < np.mean(freedom["gcv"]) - 0.5
