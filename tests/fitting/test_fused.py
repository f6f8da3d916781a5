"""The fused regression against torch, and its linear algebra against numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from streamdgp.fitting.fused import _choose_ridge
from streamdgp.fitting.lazy import LazyRegime
from streamdgp.fitting.raster import RASTER
from streamdgp.fitting.ridge import ridge_candidates, solve_ridge, solve_ridge_reml
from streamdgp.fitting.small_systems import reflect, shifted_scores, solve_shifted, tridiagonalise
from streamdgp.fitting.types import FitResult, PatchBatch
from tests.reference.ridge import dense_ridge, marginal_likelihood_scores

Array = npt.NDArray[Any]
_CHARTS = 48

_SURFACES: dict[str, Callable[[Array, Array], Array]] = {
    "plane": lambda x, y: 0.1 * x - 0.2 * y + 0.05,
    "saddle": lambda x, y: 0.25 * (x**2 - y**2),
    "bumpy": lambda x, y: 0.08 * np.sin(4 * x) * np.cos(3 * y + 0.5),
}
_PARTS: dict[str, Callable[[Array, Array], Array]] = {
    "whole": lambda x, y: np.hypot(x, y) < 2,
    "half": lambda x, y: x > -0.1,
    "hole": lambda x, y: np.hypot(x - 0.3, y) > 0.35,
}


@dataclass(frozen=True)
class _Case:
    """Evidence of one kind: noise, share of outliers, part of the patch seen, thickness."""

    sigma: float = 0.02
    wild: float = 0.03
    part: str = "whole"
    thickness: float = 0.0

    def __str__(self) -> str:
        return f"{self.part}-{self.sigma}-{self.wild}-{self.thickness}"


_CASES = [
    _Case(wild=0.0),
    _Case(),
    _Case(part="half"),
    _Case(part="hole"),
    _Case(sigma=0.05, thickness=0.17),
    _Case(sigma=0.05, thickness=0.3),
]


def _patches(surface: str, case: _Case, seed: int = 0, charts: int = _CHARTS, rows: int = 200) -> PatchBatch:
    """Rows of unequal weight, sorted in space as they are gathered; outliers lie 0.2 to 0.5 above."""
    rng = np.random.default_rng(seed)
    points, weights = np.zeros((charts, 256, 3), np.float32), np.zeros((charts, 256), np.float32)
    for c in range(charts):
        r, a = 0.95 * np.sqrt(rng.uniform(size=rows)), rng.uniform(0, 2 * np.pi, rows)
        x, y = r * np.cos(a), r * np.sin(a)
        p = np.stack([x, y, _SURFACES[surface](x, y)], 1)[_PARTS[case.part](x, y)]
        p += case.sigma * rng.normal(size=p.shape)
        wild = rng.uniform(size=len(p)) < case.wild
        p[wild, 2] += rng.uniform(0.2, 0.5, wild.sum())
        points[c, : len(p)] = p[np.lexsort((p[:, 1], np.floor(p[:, 0] * 8)))]
        weights[c, : len(p)] = rng.uniform(0.3, 3.0, len(p)) / max(case.sigma, 1e-3) ** 2
    thickness = torch.full((charts,), case.thickness)
    return PatchBatch(torch.from_numpy(points), torch.from_numpy(weights), thickness)


def _start(slow: LazyRegime, surface: str, case: _Case, patches: PatchBatch, cold: bool) -> torch.Tensor:
    """One start for both: the transport of these patches, or charts fitted to other evidence."""
    if cold:
        return slow._initial(patches)
    return slow._unflatten(slow.fit_new(_patches(surface, case, seed=1)).parameters)


def _height_errors(regime: LazyRegime, fit: FitResult, surface: str, part: str) -> Array:
    """Heights of the charts over the true surface where they were seen, at raster nodes (C, K)."""
    axis = np.linspace(-1, 1, RASTER)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    seen = (np.hypot(x, y) < 0.8) & _PARTS[part](x - (0.15 if part == "half" else 0.0), y)
    p = regime.rasters(fit.parameters).double().numpy()[:, seen]
    out: Array = p[..., 2] - _SURFACES[surface](p[..., 0], p[..., 1])
    return out


def _looked_up(table: Array, feet: torch.Tensor) -> torch.Tensor:
    """Design rows [v, 1, psi(v)], float64, with psi bilinear on the lattice."""
    t = (feet.double() + 1) * (RASTER - 1) / 2
    i = t.floor().clamp(0, RASTER - 2).long()
    a, b = (t - i).split(1, dim=-1)
    psi = torch.from_numpy(table).double()
    u, v = i[..., 0], i[..., 1]
    low, high = (psi[u + k, v] * (1 - b) + psi[u + k, v + 1] * b for k in (0, 1))
    return torch.cat([feet.double(), torch.ones_like(a), low * (1 - a) + high * a], -1)


@pytest.mark.parametrize("cold", [True, False], ids=["cold", "warm"])
@pytest.mark.parametrize("case", _CASES, ids=str)
@pytest.mark.parametrize("surface", _SURFACES)
def test_given_its_feet_the_regression_is_that_of_torch(
    fast: LazyRegime, slow: LazyRegime, surface: str, case: _Case, cold: bool
) -> None:
    """Same features at the same feet, in float64: the same ridge, weights and surface in every chart."""
    patches = _patches(surface, case)
    got = fast._regress(patches, _start(slow, surface, case, patches, cold), cold=cold)
    assert fast._table is not None
    rows = _looked_up(fast._table, got.feet)
    points, weights = patches.points.double(), patches.weights.double()
    penalty = fast.features.penalty.double()
    floor = fast._ridge_floor(patches).double()
    fit = solve_ridge_reml(rows, points, weights, penalty, fast.config.smoothness, floor)
    distance = (points - rows @ fit.coefficients).norm(dim=-1)
    robust = fast._robust(weights, distance)
    final = solve_ridge(rows, points, robust, penalty, fit.ridge)
    residual = ((robust * distance.square()).sum(1) / robust.sum(1)).sqrt()
    torch.testing.assert_close(got.ridge, fit.ridge.float())
    # Half a disk leaves the features beyond the border to the ridge: single precision shows more.
    limit = 0.05 if case.part == "half" else 0.003
    gap = (rows @ (fast._unflatten(got.parameters).double() - final)).norm(dim=-1)
    assert float((gap * (weights > 0)).max()) < limit * case.sigma
    assert float(((robust - got.weights).abs() / weights.clamp_min(1e-9)).max()) < 0.1 * limit + 1e-3
    torch.testing.assert_close(got.residual.double(), residual, rtol=2e-3, atol=0)


@pytest.mark.parametrize("case", _CASES, ids=str)
@pytest.mark.parametrize("surface", _SURFACES)
def test_agrees_with_torch_from_the_same_start(
    fast: LazyRegime, slow: LazyRegime, surface: str, case: _Case
) -> None:
    """Features are interpolated on the lattice, steps are fewer: what follows is a part of the noise.

    Beside holes a row has several nearest points, and a row that moves may move the choice between two
    ridges of equal score; neither may make charts worse.
    """
    patches = _patches(surface, case)
    squares = []
    for cold in (True, False):
        start = _start(slow, surface, case, patches, cold)
        ours, theirs = (r._regress(patches, start, cold=cold) for r in (fast, slow))
        errors = [_height_errors(r, f, surface, case.part) for r, f in ((fast, ours), (slow, theirs))]
        step = (torch.log10(ours.ridge / theirs.ridge) * 3).round().abs()
        # Where the truth is flat any large ridge is as likely as the next; the errors below are what counts.
        is_flat = surface == "plane"
        assert float((step <= 1).float().mean()) > (0.85 if is_flat else 0.9)
        assert float((step == 0).float().mean()) > (0.65 if cold else 0.8)
        if not is_flat:
            assert abs(float(torch.log10(ours.ridge / theirs.ridge).mean())) < 0.1
        gap = np.sqrt(((errors[0] - errors[1]) ** 2).mean(1)) / case.sigma
        assert np.median(gap) < 0.05
        assert np.sqrt((gap**2).mean()) < 0.3
        moved = (ours.feet - theirs.feet).abs().amax(-1)[patches.weights > 0]
        assert float((moved > 0.01).float().mean()) < 0.03
        squares.append([float((e**2).mean()) for e in errors])
    mine, reference = np.sqrt(np.mean(squares, 0))
    assert (0.88 if surface == "plane" else 0.94) < mine / reference < 1.06


def test_true_errors_are_the_same_in_the_mean(fast: LazyRegime, slow: LazyRegime) -> None:
    """Over all surfaces and kinds of evidence, cold: within two per cent."""
    ratios = []
    for surface in _SURFACES:
        for case in _CASES:
            patches = _patches(surface, case, seed=5)
            start = slow._initial(patches)
            rms = [
                np.sqrt(
                    (_height_errors(r, r._regress(patches, start, cold=True), surface, case.part) ** 2).mean()
                )
                for r in (fast, slow)
            ]
            ratios.append(rms[0] / rms[1])
    assert np.mean(ratios) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("surface", ["plane", "saddle"])
@pytest.mark.parametrize("cold", [True, False], ids=["cold", "warm"])
def test_noise_free_quadratics_are_exact_up_to_the_features(
    fast: LazyRegime, slow: LazyRegime, surface: str, cold: bool
) -> None:
    case = _Case(sigma=0.0, wild=0.0)
    patches = _patches(surface, case)
    start = _start(slow, surface, case, patches, cold)
    ours, theirs = (
        _height_errors(r, r._regress(patches, start, cold=cold), surface, "whole") for r in (fast, slow)
    )
    rms = float(np.sqrt((ours**2).mean()))
    if surface == "plane":
        assert np.abs(ours).max() < 1e-5
    else:
        assert rms < 4.5e-3
        assert rms < 1.02 * float(np.sqrt((theirs**2).mean()))


def test_an_empty_chart_is_finite_and_spoils_no_other(fast: LazyRegime, slow: LazyRegime) -> None:
    case = _Case()
    patches = _patches("saddle", case, charts=3)
    weights = patches.weights.clone()
    weights[1] = 0
    gone = PatchBatch(patches.points, weights, patches.thickness)
    start = slow._initial(patches)
    for cold in (True, False):
        whole, holed = (fast._regress(p, start, cold=cold) for p in (patches, gone))
        reference = slow._regress(gone, start, cold=cold)
        for name in ("parameters", "feet", "residual", "weights", "ridge"):
            value = getattr(holed, name)
            assert torch.isfinite(value).all(), name
            assert torch.equal(value[[0, 2]], getattr(whole, name)[[0, 2]]), name
        for name in ("parameters", "residual", "weights"):
            torch.testing.assert_close(getattr(holed, name)[1], getattr(reference, name)[1])
        assert not holed.feet[1].any()


@pytest.mark.parametrize("cold", [True, False], ids=["cold", "warm"])
def test_a_chart_does_not_depend_on_its_company(fast: LazyRegime, cold: bool) -> None:
    """Long and short charts, thick and empty ones, in any order or alone: the same bits."""
    parts = [
        _patches("bumpy", _Case(part="half"), charts=4),
        _patches("saddle", _Case(sigma=0.05, thickness=0.2), charts=4, rows=250),
        _patches("plane", _Case(), charts=4, rows=9),
    ]
    points, weights, thickness = (
        torch.cat([getattr(p, name) for p in parts]) for name in ("points", "weights", "thickness")
    )
    weights[5] = 0
    weights[6, ::3] = 0
    start = fast._initial(PatchBatch(points, weights, thickness))
    order = np.random.default_rng(0).permutation(12)
    together = fast._regress(PatchBatch(points, weights, thickness), start, cold=cold)
    for choice in [order, order[:5], *([c] for c in range(12))]:
        some = PatchBatch(points[choice], weights[choice], thickness[choice])
        again = fast._regress(some, start[choice], cold=cold)
        for name in ("parameters", "feet", "residual", "weights", "ridge"):
            assert torch.equal(getattr(again, name), getattr(together, name)[choice]), name


# --- Linear algebra ------------------------------------------------------------------------------


def _symmetric(kind: str, n: int) -> Array:
    rng = np.random.default_rng(n)
    a = rng.normal(size=(n, n))
    if kind == "definite":
        return a @ a.T
    if kind == "low rank":
        return a[:, :2] @ a[:, :2].T
    if kind == "steep":
        q, _ = np.linalg.qr(a)
        return q @ np.diag(np.logspace(0, -12, n)) @ q.T
    if kind == "diagonal":
        return np.diag(rng.uniform(size=n))
    return np.zeros((n, n))


_KINDS = ["definite", "low rank", "steep", "diagonal", "zero"]


def _tridiagonal(kind: str, n: int) -> tuple[Array, Array, Array, Array, Array, Array]:
    """a, b, and what ``tridiagonalise`` makes of them: diagonal, beside, turned b, reflectors."""
    a, b = _symmetric(kind, n), np.random.default_rng(1).normal(size=(n, 3))
    diagonal, beside, reflectors = np.empty(n), np.zeros(n), np.zeros((n, n))
    turned = b.copy()
    tridiagonalise(a.copy(), turned, diagonal, beside, reflectors)
    return a, b, diagonal, beside, turned, reflectors


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("n", [3, 4, 17, 40])
def test_tridiagonal_form(kind: str, n: int) -> None:
    a, b, diagonal, beside, turned, reflectors = _tridiagonal(kind, n)
    q = np.eye(n)
    for u in reflectors[: n - 2]:
        q = q @ (np.eye(n) - np.outer(u, u))
    size = max(np.abs(a).max(), 1e-30)
    t = np.diag(diagonal) + np.diag(beside[: n - 1], 1) + np.diag(beside[: n - 1], -1)
    np.testing.assert_allclose(q @ q.T, np.eye(n), atol=1e-13)
    np.testing.assert_allclose(q @ t @ q.T, a, atol=1e-13 * n * size)
    np.testing.assert_allclose(q.T @ b, turned, atol=1e-13)


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("n", [3, 4, 17, 40])
@pytest.mark.parametrize("shift", [1e-4, 0.03, 1.0])
def test_shifted_solution_and_log_determinant(kind: str, n: int, shift: float) -> None:
    """(a + shift)^-1 b by way of the tridiagonal form, and back through the reflections."""
    a, b, diagonal, beside, turned, reflectors = _tridiagonal(kind, n)
    x, inner, volume = np.empty((n, 3)), np.empty(2), np.empty(2)
    solve_shifted(diagonal, beside, shift, turned, x)
    shifted_scores(diagonal, beside, turned, np.array([shift, 7.0]), inner, volume)
    for k in range(n - 3, -1, -1):
        reflect(reflectors[k], x, k + 1)
    inverse = np.linalg.inv(a + shift * np.eye(n))
    condition = np.linalg.cond(a + shift * np.eye(n))
    sign, wanted = np.linalg.slogdet(a + shift * np.eye(n))
    assert sign == 1
    assert volume[0] == pytest.approx(wanted, rel=0, abs=1e-14 * condition + 1e-12)
    within = (1e-14 * condition + 1e-12) * np.abs(inverse).max() * n * np.abs(b).max() ** 2 * n
    assert inner[0] == pytest.approx(np.sum(b * (inverse @ b)), rel=0, abs=within)
    assert inner[1] == pytest.approx(np.sum(b * np.linalg.solve(a + 7.0 * np.eye(n), b)), rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(x, inverse @ b, atol=(1e-14 * condition + 1e-12) * np.abs(inverse).max() * n)


@pytest.mark.parametrize("floor", [0.0, 0.02, 1.0])
@pytest.mark.parametrize("noise", [0.002, 0.02, 0.1])
@pytest.mark.parametrize("rows", [4, 12, 60, 200])
@pytest.mark.parametrize("gamma", [0.5, 1.0, 1.3, 3.0])
def test_chosen_ridge_is_brute_force_over_the_candidates(
    fast: LazyRegime, rows: int, noise: float, floor: float, gamma: float
) -> None:
    features, grid = fast.features, ridge_candidates()
    rng = np.random.default_rng(rows)
    for bend in (0.0, 0.3):
        v = rng.uniform(-0.8, 0.8, (rows, 2))
        design = features(torch.from_numpy(v.astype(np.float32))).double().numpy()
        height = bend * np.sin(2.5 * v[:, 0]) * np.cos(1.5 * v[:, 1])
        points = np.column_stack([v, height]) + noise * rng.normal(size=(rows, 3))
        weights = rng.uniform(0.2, 5.0, rows)
        penalty = features.penalty.double().numpy()
        # As the kernel is given it: targets relative to an affine fit, all scaled by sqrt(w).
        root = np.sqrt(weights / weights.sum())[:, None]
        affine = np.linalg.lstsq(root * design[:, :3], root * points, rcond=None)[0]
        targets = points - design[:, :3] @ affine
        k = design.shape[1]
        scaled = np.zeros((rows, (k + 6) // 4 * 4))
        scaled[:, : k + 3] = root * np.hstack([design, targets])
        gram = np.tril((scaled.T @ scaled).astype(np.float32))
        solution = np.empty((k, 3))
        ridge = _choose_ridge(gram, features.penalty.numpy(), rows, gamma, floor, grid, solution)
        scores = marginal_likelihood_scores(design, targets, weights, penalty, grid.astype(np.float64), gamma)
        scores[grid < floor] = np.inf
        (chosen,) = np.flatnonzero(grid == np.float32(ridge))
        # What single precision leaves of a logarithm times 200 rows.
        assert scores[chosen] <= scores.min() + 0.02
        wanted, _ = dense_ridge(design, targets, weights, penalty, float(ridge))
        np.testing.assert_allclose(design @ solution, design @ wanted, atol=1e-3 * noise + 2e-5)
