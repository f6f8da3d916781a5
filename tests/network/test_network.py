"""Batched chart networks: derivatives, batching, flat rows, scaling of the initial weights."""

from __future__ import annotations

import pytest
import torch

from streamdgp.errors import InvalidConfigError, InvalidInputError
from streamdgp.network import (
    NetworkKind,
    NetworkSpec,
    Scaling,
    evaluate,
    evaluate_with_jacobian,
    hidden_features,
    initial_parameters,
    pack,
    unpack,
)

SPECS = [
    NetworkSpec((16, 16)),
    NetworkSpec((16, 16, 16), "residual", affine=False),
    NetworkSpec((8, 24, 24), "residual", "ntk"),
    NetworkSpec((32,), "relu", "mean_field"),
]


def _rows(spec: NetworkSpec, charts: int, seed: int = 0) -> torch.Tensor:
    return initial_parameters(spec, charts, seed).double()


def _samples(charts: int, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(9)
    return 2.0 * torch.rand(charts, count, 2, generator=generator, dtype=torch.float64) - 1.0


@pytest.mark.parametrize("spec", SPECS)
def test_jacobian_equals_autograd_and_finite_differences(spec: NetworkSpec) -> None:
    parameters = unpack(_rows(spec, 3), spec)
    v = _samples(3, 20)
    points, jacobian = evaluate_with_jacobian(parameters, v, spec)
    torch.testing.assert_close(points, evaluate(parameters, v, spec), atol=1e-12, rtol=0.0)
    tracked = v.clone().requires_grad_()
    traced = evaluate(parameters, tracked, spec)
    for axis in range(3):
        (gradient,) = torch.autograd.grad(traced[..., axis].sum(), tracked, retain_graph=True)
        torch.testing.assert_close(jacobian[:, :, axis], gradient, atol=1e-12, rtol=0.0)
    step = 1e-7  # short: a difference across a kink would be wrong
    for axis in range(2):
        shift = torch.zeros(2, dtype=torch.float64)
        shift[axis] = step
        ahead, behind = evaluate(parameters, v + shift, spec), evaluate(parameters, v - shift, spec)
        torch.testing.assert_close(jacobian[..., axis], (ahead - behind) / (2 * step), atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("spec", SPECS)
def test_a_batch_gives_what_each_chart_gives_alone(spec: NetworkSpec) -> None:
    rows, v = _rows(spec, 5), _samples(5, 11)
    points, jacobian = evaluate_with_jacobian(unpack(rows, spec), v, spec)
    for chart in range(5):
        alone = evaluate_with_jacobian(unpack(rows[chart : chart + 1], spec), v[chart : chart + 1], spec)
        torch.testing.assert_close(points[chart : chart + 1], alone[0], atol=1e-12, rtol=0.0)
        torch.testing.assert_close(jacobian[chart : chart + 1], alone[1], atol=1e-12, rtol=0.0)


@pytest.mark.parametrize("spec", SPECS)
def test_shared_parameters_act_as_repeated_ones(spec: NetworkSpec) -> None:
    one, v = _rows(spec, 1), _samples(4, 6)
    shared = evaluate_with_jacobian(unpack(one, spec), v, spec)
    repeated = evaluate_with_jacobian(unpack(one.expand(4, -1), spec), v, spec)
    torch.testing.assert_close(shared, repeated, atol=1e-12, rtol=0.0)


@pytest.mark.parametrize("kind", ["relu", "residual"])
def test_layers_follow_their_definition(kind: NetworkKind) -> None:
    """One chart written out by hand, layer by layer."""
    spec = NetworkSpec((4, 4), kind)
    p = {name: value[0] for name, value in unpack(_rows(spec, 1, seed=3), spec).items()}
    v = torch.tensor([0.3, -0.4], dtype=torch.float64)
    first = torch.relu(p["weight0"] @ v + p["bias0"])
    second = torch.relu(p["weight1"] @ first + p["bias1"])
    if kind == "residual":
        second = first + second
    expected = (
        p["weight2"] @ second + p["bias2"] + p["affine"] @ torch.tensor([0.3, -0.4, 1.0], dtype=torch.float64)
    )
    got = evaluate(unpack(_rows(spec, 1, seed=3), spec), v[None, None], spec)[0, 0]
    torch.testing.assert_close(got, expected, atol=1e-14, rtol=0.0)


def test_charts_are_piecewise_linear() -> None:
    spec = NetworkSpec((16, 16))
    parameters = unpack(_rows(spec, 1), spec)
    line = torch.linspace(-1.0, 1.0, 2001, dtype=torch.float64)
    v = torch.stack([line, 0.37 * line], dim=1)[None]
    bend = evaluate(parameters, v, spec)[0].diff(n=2, dim=0).norm(dim=1)
    assert int((bend > 1e-9).sum()) < 80  # at kinks only


@pytest.mark.parametrize("spec", SPECS)
def test_flat_rows_come_back_bit_for_bit(spec: NetworkSpec) -> None:
    rows = initial_parameters(spec, 3, 1)
    assert rows.shape == (3, spec.parameter_count)
    assert torch.equal(pack(unpack(rows, spec), spec), rows)
    assert sum(value[0].numel() for value in unpack(rows, spec).values()) == spec.parameter_count


def test_the_papers_network_has_its_published_size() -> None:
    assert NetworkSpec(affine=False).parameter_count == 429_187


def test_zero_output_is_the_tangent_plane() -> None:
    spec = NetworkSpec((16, 16))
    v = _samples(2, 9)
    rows = initial_parameters(spec, 2, 0, zero_output=True).double()
    points, jacobian = evaluate_with_jacobian(unpack(rows, spec), v, spec)
    torch.testing.assert_close(points, torch.cat([v, torch.zeros(2, 9, 1).double()], dim=2))
    plane = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]).double()
    torch.testing.assert_close(jacobian, plane.expand(2, 9, 3, 2))


def test_same_seed_same_weights_and_charts_differ_unless_shared() -> None:
    spec = NetworkSpec((8,))
    rows = initial_parameters(spec, 2, 5)
    assert torch.equal(rows, initial_parameters(spec, 2, 5))
    assert not torch.equal(rows, initial_parameters(spec, 2, 6))
    assert not torch.equal(rows[0], rows[1])
    shared = initial_parameters(spec, 2, 5, shared=True)
    assert torch.equal(shared[0], shared[1])


@pytest.mark.parametrize("scaling", ["ntk", "mean_field"])
def test_output_size_at_the_start_follows_the_scaling(scaling: Scaling) -> None:
    """NTK: of order one at any width; mean field: falls as 1/sqrt(width)."""
    v = _samples(1, 32)
    size = []
    for width in (64, 1024):
        spec = NetworkSpec((width,), "relu", scaling, affine=False)
        rows = _rows(spec, 40)
        size.append(float(evaluate(unpack(rows, spec), v.expand(40, -1, -1), spec).square().mean().sqrt()))
    expected = 1.0 if scaling == "ntk" else 0.25
    assert size[1] / size[0] == pytest.approx(expected, rel=0.15)


def test_hidden_features_move_under_mean_field_and_stay_under_ntk() -> None:
    """The two regimes of the paper: fit one bump by gradient descent, watch the hidden weights."""
    v = _samples(1, 40).float()
    target = torch.cat([v, torch.exp(-4.0 * v.square().sum(2, keepdim=True))], dim=2)
    moved = {}
    scalings: list[Scaling] = ["ntk", "mean_field"]
    for scaling in scalings:
        width = 1024
        spec = NetworkSpec((width,), "relu", scaling)
        start = initial_parameters(spec, 1, 0)
        rows = start.clone().requires_grad_()
        # Mean field divides gradients by the width twice, so its natural step is larger by the width.
        rate = 0.1 * (width if scaling == "mean_field" else 1.0)
        first = loss = float("inf")
        for step in range(60):
            error = evaluate(unpack(rows, spec), v, spec) - target
            objective = error.square().sum(2).mean()
            (gradient,) = torch.autograd.grad(objective, rows)
            block = unpack(gradient, spec)
            hidden = {**block, "affine": torch.zeros_like(block["affine"])}
            hidden["bias1"] = torch.zeros_like(block["bias1"])
            rows = (rows - rate * pack(hidden, spec)).detach().requires_grad_()
            loss = float(objective.detach())
            first = loss if step == 0 else first
        assert loss < 0.7 * first
        features = [hidden_features(unpack(r, spec), v, spec) for r in (start, rows.detach())]
        moved[scaling] = float((features[1] - features[0]).norm() / features[0].norm())
    assert moved["ntk"] < 0.05
    assert moved["mean_field"] > 5.0 * moved["ntk"]


def test_bad_networks_and_rows_say_what_is_wrong() -> None:
    with pytest.raises(InvalidConfigError, match="at least one unit; got widths"):
        NetworkSpec(())
    with pytest.raises(InvalidConfigError, match="kind must be one of relu, residual; got 'tanh'"):
        NetworkSpec((4,), "tanh")  # type: ignore[arg-type]
    with pytest.raises(InvalidConfigError, match="scaling must be one of"):
        NetworkSpec((4,), "relu", "lecun")  # type: ignore[arg-type]
    spec = NetworkSpec((4,))
    with pytest.raises(InvalidInputError, match=f"flat rows of {spec.parameter_count} parameters"):
        unpack(torch.zeros(2, 5), spec)
