"""Charts at shared samples, compiled: against torch, and the same bits whatever goes on around them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.overrides import TorchFunctionMode

from streamdgp.config import FitConfig
from streamdgp.fitting.at_samples import UNBACKED_COST, consistency_samples, transport_problems
from streamdgp.fitting.batches import FittedCharts, fit_in_batches, in_half_precision
from streamdgp.fitting.lazy import _BACKED_REACH, LazyRegime
from streamdgp.fitting.types import PatchBatch
from streamdgp.transport import squared_distances

Array = npt.NDArray[Any]
_CPU = torch.device("cpu")
_CHARTS = 70
_PRODUCTS = {
    "matmul",
    "mm",
    "bmm",
    "addmm",
    "baddbmm",
    "einsum",
    "dot",
    "mv",
    "solve",
    "linalg_solve",
    "lstsq",
}


class _NoProducts(TorchFunctionMode):
    """Refuses what a library multiplies or solves; in this thread."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        assert func.__name__.strip("_").removeprefix("r") not in _PRODUCTS, func.__name__
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    """What tests set for the process is undone."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


def _bent(charts: int, seed: int = 0, rows: int = 180) -> PatchBatch:
    """Noisy half circles rolled about the second axis, some of them seen in part: all need transport."""
    rng = np.random.default_rng(seed)
    points, weights = np.zeros((charts, 256, 3), np.float32), np.zeros((charts, 256), np.float32)
    for c in range(charts):
        angle, along = rng.uniform(-1.5, 1.5, rows), rng.uniform(-0.8, 0.8, rows)
        p = np.stack([0.6 * np.sin(angle), along, 0.6 * np.cos(angle) - 0.1], 1)
        p = (p + 0.01 * rng.normal(size=p.shape))[(along > -0.2) | (c % 3 > 0)]
        points[c, : len(p)] = p[np.lexsort((p[:, 1], np.floor(p[:, 0] * 8)))]
        weights[c, : len(p)] = rng.uniform(0.3, 3.0, len(p)) * 1e4
    return PatchBatch(torch.from_numpy(points), torch.from_numpy(weights), torch.zeros(charts))


def _charts(regime: LazyRegime, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Some charts (C, P), and targets (C, 64, 3) near them."""
    rng = np.random.default_rng(1)
    parameters = regime._flatten(regime._plane(count))
    parameters = parameters + torch.from_numpy(0.05 * rng.normal(size=parameters.shape)).float()
    off = torch.from_numpy(0.02 * rng.normal(size=(count, 64, 3))).float()
    return parameters, regime.evaluate(parameters, consistency_samples()) + off


# --- Against torch ---------------------------------------------------------------------------------


@pytest.mark.parametrize("own_samples", [False, True])
def test_evaluation_and_refit_are_those_of_torch(
    fast: LazyRegime, slow: LazyRegime, own_samples: bool
) -> None:
    """At the samples of the consistency step and at others, to single precision."""
    parameters, targets = _charts(slow, 13)
    v = consistency_samples() if not own_samples else 0.9 * consistency_samples()
    torch.testing.assert_close(fast.evaluate(parameters, v), slow.evaluate(parameters, v), rtol=0, atol=1e-6)
    ours, theirs = (r.refit_to(parameters, v, targets) for r in (fast, slow))
    at = slow._samples_at(v)
    change = targets.double() - at.rows.double() @ slow._unflatten(parameters).double()
    exact = parameters + slow._flatten(at.operator.double() @ change)
    assert float((exact - parameters).abs().max()) > 0.01
    errors = [float((moved - exact).abs().max()) for moved in (ours, theirs)]
    assert errors[0] < 1e-6
    assert errors[0] < 3 * errors[1] + 1e-7


@pytest.mark.parametrize("samples", [64, 50])
def test_transport_problems_are_those_of_torch(samples: int) -> None:
    """Picked evidence and what is backed are equal, also where a chart has few rows or none."""
    slow = LazyRegime(FitConfig(transport_samples=samples), reference=True)
    patches = _bent(12)
    patches.weights[3] = 0
    patches.weights[4, 5:] = 0
    v = slow._start.v
    plane = torch.cat([v, torch.zeros(samples, 1)], 1)
    want, is_backed = slow._pick_evidence(patches, plane)
    picked, backed = np.empty((12, samples, 3), np.float32), np.empty((12, samples), np.bool_)
    cost = np.empty((12, samples, samples), np.float32)
    points, weights = patches.points.numpy(), patches.weights.numpy()
    transport_problems(v.numpy(), points, weights, _BACKED_REACH, picked, backed, cost)
    assert np.array_equal(picked, want.numpy())
    assert np.array_equal(backed, is_backed.numpy())
    assert not backed[3].any()
    assert 0.3 < backed[0].mean() < 0.7
    distances = squared_distances(plane.expand(12, samples, 3), want).numpy()
    np.testing.assert_allclose(cost[backed], distances[backed], rtol=1e-6, atol=1e-7)
    assert (cost[~backed] == UNBACKED_COST).all()


def test_transported_charts_are_those_of_torch(fast: LazyRegime, slow: LazyRegime) -> None:
    patches = _bent(24)
    ours, theirs = (r._initial(patches) for r in (fast, slow))
    assert float((theirs - slow._plane(24)).abs().amax((1, 2)).min()) > 0.1, "all are transported"
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


# --- The same bits ---------------------------------------------------------------------------------


def _elsewhere(work: Callable[[], Any]) -> Any:
    """What ``work`` gives in a new thread that flushes denormals the other way."""
    results: list[Any] = []

    def run() -> None:
        torch.set_flush_denormal(True)
        results.append(work())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


def _same(left: FittedCharts, right: FittedCharts, rows: Any) -> bool:
    names = ("parameters", "residual", "ridge")
    return all(getattr(left, n).tobytes() == getattr(right, n)[rows].tobytes() for n in names) and all(
        a.tobytes() == right.rasters[k].tobytes() for a, k in zip(left.rasters, rows, strict=True)
    )


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("is_warm", [False, True])
def test_a_fit_of_bent_patches_has_the_same_bits_in_any_company_and_under_any_settings(
    fast: LazyRegime, threads: int, flush: bool, is_warm: bool
) -> None:
    patches = _bent(_CHARTS)
    rows = [x.numpy() for x in (patches.points, patches.weights, patches.thickness)]
    stored = fit_in_batches(fast, *rows, None, _CPU).parameters if is_warm else None

    def fit(which: Array, regime: LazyRegime = fast) -> FittedCharts:
        own = None if stored is None else stored[which]
        return fit_in_batches(regime, *(x[which] for x in rows), own, _CPU)

    whole = fit(np.arange(_CHARTS))
    torch.set_num_threads(threads)
    torch.set_flush_denormal(flush)
    order = np.random.default_rng(0).permutation(_CHARTS)
    # Also by an engine opened under these settings.
    for which in (order, order[:64], order[:15], *(order[k : k + 1] for k in range(4))):
        assert _same(fit(which), whole, which)
        assert _same(_elsewhere(lambda which=which: fit(which)), whole, which)
    assert _same(fit(order, LazyRegime(seed=0)), whole, order)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_operators_are_the_same_wherever_a_regime_is_made(fast: LazyRegime, threads: int) -> None:
    torch.set_num_threads(threads)
    for made in (LazyRegime(seed=0), _elsewhere(lambda: LazyRegime(seed=0))):
        for ours, theirs in ((made._start, fast._start), (made._agreement, fast._agreement)):
            assert torch.equal(ours.rows, theirs.rows)
            assert torch.equal(ours.operator, theirs.operator)
        assert made._agreement.v is consistency_samples()
    assert torch.get_num_threads() == threads
    assert float(torch.tensor(1e-40) * 1.0) > 0.0, "the calling thread keeps its settings"


def test_no_product_of_a_library_takes_part(fast: LazyRegime, slow: LazyRegime) -> None:
    """Cold and warm fits of bent patches, evaluation at the samples and the refit towards targets."""
    patches = _bent(5)
    parameters, targets = _charts(fast, 5)
    samples = consistency_samples()
    with _NoProducts():
        cold = fast.fit_new(patches)
        fast.fit_warm(patches, in_half_precision(cold.parameters))
        fast.evaluate(parameters, samples)
        fast.rasters(fast.refit_to(parameters, samples, targets))
        with pytest.raises(AssertionError, match="mul"):
            slow.evaluate(parameters, samples)


def test_half_precision_does_not_depend_on_how_denormals_are_treated() -> None:
    """Weights below 6e-5 are denormal in half precision: a thread that flushes them must not lose them."""
    rng = np.random.default_rng(0)
    values = torch.from_numpy((rng.normal(size=5003) * 10 ** rng.uniform(-9, 0, 5003)).astype(np.float32))
    torch.set_flush_denormal(False)
    plain = in_half_precision(values)
    torch.set_flush_denormal(True)
    assert torch.equal(in_half_precision(values), plain)
    assert all(torch.equal(in_half_precision(values[k : k + 1])[0], plain[k]) for k in range(200))
    assert values.numpy().astype(np.float16).astype(np.float32).tobytes() == plain.numpy().tobytes()
