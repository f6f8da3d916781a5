"""Transport against brute force, closed forms, and one solver against another."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from streamdgp.errors import InvalidConfigError, InvalidInputError
from streamdgp.transport import TransportConfig, TransportMethod, assign, squared_distances, transport_plan

ENTROPIC: list[TransportMethod] = ["sinkhorn", "geomloss"]
ALL: list[TransportMethod] = ["exact", "sinkhorn", "geomloss"]


def _clouds(problems: int, n: int, m: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = torch.rand(problems, n, 3, generator=generator, dtype=torch.float64)
    b = torch.rand(problems, m, 3, generator=generator, dtype=torch.float64)
    return a, b + 0.2


def _brute_force(cost: torch.Tensor) -> float:
    n = len(cost)
    return min(
        float(sum(cost[i, j] for i, j in enumerate(order))) for order in itertools.permutations(range(n))
    )


def _sharp(method: TransportMethod, inverse_temperature: float = 2e4) -> TransportConfig:
    return TransportConfig(method, inverse_temperature=inverse_temperature, stage_iterations=200)


def test_squared_distances_keep_the_digits_of_close_pairs() -> None:
    a = torch.tensor([[[100.0, 100.0, 100.0], [1.0, 2.0, 3.0]]])
    b = a + 2.0**-10
    got = squared_distances(a, b)
    assert got[0, 0, 0] == got[0, 1, 1] == 3 * 2.0**-20
    expected = ((a.double()[0, 0] - b.double()[0, 1]) ** 2).sum()
    assert float(got[0, 0, 1]) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_assignment_is_the_best_of_all_permutations(n: int) -> None:
    a, b = _clouds(4, n, n, seed=n)
    cost = squared_distances(a, b)
    columns = assign(cost)
    assert columns.dtype == torch.int64
    for problem, row_to_column in zip(cost, columns, strict=True):
        assert sorted(row_to_column.tolist()) == list(range(n))
        total = float(problem[torch.arange(n), row_to_column].sum())
        assert math.isclose(total, _brute_force(problem), rel_tol=1e-12)


@pytest.mark.parametrize("method", ALL)
def test_every_solver_reaches_the_brute_force_cost(method: TransportMethod) -> None:
    a, b = _clouds(3, 6, 6)
    cost = squared_distances(a, b)
    solved = transport_plan(cost, config=_sharp(method))
    assert solved.method == method
    # The entropic gap is at most log(n) / lambda = 9e-5, on costs of 0.2.
    for problem, value in zip(cost, solved.cost.tolist(), strict=True):
        assert value == pytest.approx(_brute_force(problem) / 6, rel=1e-3)


@pytest.mark.parametrize("method", ENTROPIC)
def test_cost_falls_to_the_exact_one_as_lambda_grows(method: TransportMethod) -> None:
    a, b = _clouds(4, 32, 32)
    cost = squared_distances(a, b)
    exact = transport_plan(cost, config=TransportConfig("exact")).cost
    gaps = []
    for inverse_temperature in (10.0, 100.0, 1000.0, 10000.0):
        solved = transport_plan(cost, config=_sharp(method, inverse_temperature))
        gap = solved.cost - exact
        assert bool((gap >= -1e-9).all())
        # Known bound: the entropy of a plan lies between that of a and twice it.
        assert bool((gap <= math.log(32) / inverse_temperature + 1e-4).all())
        gaps.append(float(gap.mean()))
    assert all(later < 0.6 * earlier for earlier, later in itertools.pairwise(gaps))


@pytest.mark.parametrize("method", ENTROPIC)
@pytest.mark.parametrize("inverse_temperature", [0.5, 5.0, 50.0])
def test_two_points_split_as_the_closed_form_says(
    method: TransportMethod, inverse_temperature: float
) -> None:
    """For C = [[0, c], [c, 0]] the optimum keeps 1 / (1 + exp(-lambda c)) of each mass in place."""
    cost = torch.tensor([[[0.0, 0.3], [0.3, 0.0]]], dtype=torch.float64)
    plan = transport_plan(cost, config=_sharp(method, inverse_temperature)).plan
    kept = 0.5 / (1.0 + math.exp(-inverse_temperature * 0.3))
    torch.testing.assert_close(
        plan,
        torch.tensor([[[kept, 0.5 - kept], [0.5 - kept, kept]]], dtype=torch.float64),
        atol=1e-6,
        rtol=0.0,
    )


def test_sinkhorn_minimises_the_entropic_objective_as_geomloss_does() -> None:
    a, b = _clouds(3, 20, 20)
    cost = squared_distances(a, b)
    objective = []
    for method in ENTROPIC:
        solved = transport_plan(cost, config=_sharp(method, 50.0))
        objective.append(solved.cost + torch.xlogy(solved.plan, solved.plan).sum(dim=(1, 2)) / 50.0)
    ours, theirs = objective
    # geomloss averages its updates and leaves marginals off by 1 / iterations, which rounding mends
    # at a cost; ours must not be worse, nor another problem's.
    assert bool((ours <= theirs + 1e-7).all())
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0.0)


@pytest.mark.parametrize("method", ALL)
def test_marginals_hold_and_padding_gets_nothing(method: TransportMethod) -> None:
    generator = torch.Generator().manual_seed(4)
    a, b = _clouds(3, 7, 9)
    mass_a = torch.rand(3, 7, generator=generator, dtype=torch.float64) + 0.1
    mass_b = torch.rand(3, 9, generator=generator, dtype=torch.float64) + 0.1
    mass_a[1, 4:] = 0.0
    mass_b[2, 2:] = 0.0
    cost = squared_distances(a, b)
    solved = transport_plan(cost, mass_a, mass_b, _sharp(method))
    torch.testing.assert_close(solved.plan.sum(2), mass_a / mass_a.sum(1, keepdim=True), atol=1e-9, rtol=0.0)
    torch.testing.assert_close(solved.plan.sum(1), mass_b / mass_b.sum(1, keepdim=True), atol=1e-9, rtol=0.0)
    assert float(solved.plan.min()) >= 0.0
    assert float(solved.plan[1, 4:].abs().max()) == 0.0
    # A padded problem has the cost of the same problem without padding, whatever the padding costs.
    cost[1, 4:] = 100.0
    alone = transport_plan(cost[1:2, :4], mass_a[1:2, :4], mass_b[1:2], _sharp("exact"))
    padded = transport_plan(cost, mass_a, mass_b, _sharp(method))
    assert float(padded.cost[1]) == pytest.approx(
        float(alone.cost[0]), rel=2e-2 if method == "geomloss" else 2e-3
    )


@pytest.mark.parametrize("method", ALL)
def test_permuting_the_points_permutes_the_plan(method: TransportMethod) -> None:
    a, b = _clouds(2, 12, 12)
    rows, columns = torch.randperm(12), torch.randperm(12)
    plan = transport_plan(squared_distances(a, b), config=_sharp(method, 200.0)).plan
    permuted = transport_plan(squared_distances(a[:, rows], b[:, columns]), config=_sharp(method, 200.0)).plan
    torch.testing.assert_close(permuted, plan[:, rows][:, :, columns], atol=1e-7, rtol=0.0)


@pytest.mark.parametrize("method", ALL)
def test_transport_of_a_shifted_cloud_is_the_shift(method: TransportMethod) -> None:
    """W_2^2 of a translation is the squared length of the translation, whatever the cloud."""
    a, _ = _clouds(3, 48, 48)
    shift = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    solved = transport_plan(squared_distances(a, a + shift), config=_sharp(method))
    torch.testing.assert_close(solved.cost, torch.full((3,), 0.14, dtype=torch.float64), atol=3e-4, rtol=0.0)
    torch.testing.assert_close(solved.barycentres(a + shift), a + shift, atol=2e-2, rtol=0.0)


def test_sinkhorn_holds_in_single_precision_with_sharp_kernels() -> None:
    a, b = _clouds(8, 64, 64)
    cost = squared_distances(a, b).float()
    exact = transport_plan(cost, config=TransportConfig("exact"))
    sharp = transport_plan(cost, config=TransportConfig("sinkhorn", inverse_temperature=1e5))
    assert bool(torch.isfinite(sharp.plan).all())
    assert bool((sharp.cost >= exact.cost - 1e-6).all())
    assert bool((sharp.cost <= 1.1 * exact.cost).all())


def test_auto_is_exact_for_small_uniform_problems_only() -> None:
    a, b = _clouds(2, 10, 10)
    cost = squared_distances(a, b)
    uneven = torch.ones(2, 10, dtype=torch.float64)
    uneven[0, 0] = 2.0
    padded = torch.ones(2, 10, dtype=torch.float64)
    padded[1, 7:] = 0.0
    assert transport_plan(cost).method == "exact"
    assert transport_plan(cost, padded, padded).method == "exact"
    assert transport_plan(cost, uneven).method == "sinkhorn"
    assert transport_plan(cost, padded).method == "sinkhorn"
    assert transport_plan(cost[:, :, :9]).method == "sinkhorn"
    assert transport_plan(cost, config=TransportConfig(exact_size_limit=8)).method == "sinkhorn"


def test_bad_problems_say_what_is_wrong() -> None:
    cost = torch.ones(2, 3, 3)
    with pytest.raises(InvalidInputError, match=r"shape \(C, n, n\); got shape \(2, 3, 4\)"):
        assign(torch.ones(2, 3, 4))
    with pytest.raises(InvalidInputError, match="must be finite; got 1 values"):
        transport_plan(cost.index_put((torch.tensor(0),) * 3, torch.tensor(float("nan"))))
    with pytest.raises(InvalidInputError, match=r"weights_a must have shape \(2, 3\)"):
        transport_plan(cost, torch.ones(2, 4))
    with pytest.raises(InvalidInputError, match="weights_b must be finite, not negative"):
        transport_plan(cost, None, torch.zeros(2, 3))
    with pytest.raises(InvalidInputError, match="Add the batch axis"):
        transport_plan(torch.ones(3, 3))
    with pytest.raises(InvalidConfigError, match="stage_factor must be above 1"):
        TransportConfig(stage_factor=1.0)
    with pytest.raises(InvalidConfigError, match="method must be a known method; got 'fast'"):
        TransportConfig("fast")  # type: ignore[arg-type]
