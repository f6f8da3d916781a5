"""The shared random features: derivative, orthonormality, determinism."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamdgp.fitting.features import SharedFeatures, draw_features


def _disk(count: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    radius, angle = np.sqrt(rng.uniform(size=count)), rng.uniform(0, 2 * np.pi, count)
    return torch.from_numpy(np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1))


def _double(f: SharedFeatures) -> SharedFeatures:
    return SharedFeatures(f.w1.double(), f.w2.double(), f.mix.double(), f.penalty.double())


@pytest.mark.parametrize("width", [8, 64])
def test_jacobian_is_the_derivative(width: int) -> None:
    """Central differences in float64; piecewise linear, so exact off the creases."""
    f = _double(draw_features(width, seed=1))
    v = _disk(300)
    rows, jacobian = f.with_jacobian(v)
    torch.testing.assert_close(rows, f(v), rtol=0, atol=1e-12)
    step = 1e-7
    for axis in range(2):
        shift = torch.zeros(2, dtype=torch.float64)
        shift[axis] = step
        numeric = (f(v + shift) - f(v - shift)) / (2 * step)
        wrong = ((numeric - jacobian[..., axis]).abs() > 1e-5).any(1)
        # A crease crosses a step of 1e-7 with probability width * 1e-7.
        assert int(wrong.sum()) <= 1


def test_autograd_agrees_with_the_jacobian() -> None:
    f = _double(draw_features(16, seed=2))
    v = _disk(20).requires_grad_(True)
    rows, jacobian = f.with_jacobian(v)
    for k in range(rows.shape[1]):
        (grad,) = torch.autograd.grad(rows[:, k].sum(), v, retain_graph=True)
        torch.testing.assert_close(jacobian[:, k], grad, rtol=0, atol=1e-9)


def test_features_are_orthonormal_and_free_of_affine_parts() -> None:
    f = draw_features(64, seed=0)
    v = _disk(200_000).float()
    rows = f(v).double()
    gram = rows.T @ rows / len(rows)
    psi = gram[3:, 3:]
    # Monte-Carlo error of 2e5 samples is 1/sqrt(2e5) = 0.002 times the kurtosis of rough features.
    torch.testing.assert_close(psi, torch.eye(len(psi), dtype=torch.float64), rtol=0, atol=0.05)
    assert float(gram[:3, 3:].abs().max()) < 0.02


def test_features_are_ordered_from_smooth_to_rough() -> None:
    f = draw_features(64, seed=0)
    penalty = f.penalty.numpy()
    assert penalty[0] == pytest.approx(1)
    assert (np.diff(penalty) >= 0).all()
    _, jacobian = f.with_jacobian(_disk(20_000).float())
    energy = jacobian[:, 3:].square().sum(-1).mean(0)
    half = len(energy) // 2
    assert float(energy[half:].mean()) > 3 * float(energy[:half].mean())


def test_seed_decides() -> None:
    a, b, c = draw_features(32, seed=5), draw_features(32, seed=5), draw_features(32, seed=6)
    for name in ("w1", "w2", "mix", "penalty"):
        assert torch.equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == torch.float32
    assert not torch.equal(a.w1, c.w1)


@pytest.mark.parametrize("width", [4, 16, 128])
def test_any_width(width: int) -> None:
    f = draw_features(width, seed=0)
    assert 1 <= f.count <= width
    assert f.mix.shape == (width + 3, f.count)
    assert torch.isfinite(f(_disk(100).float())).all()


@pytest.mark.parametrize("most", [1, 10, 26])
def test_the_smoothest_directions_are_kept(most: int) -> None:
    whole, few = draw_features(128, seed=0), draw_features(128, seed=0, most=most)
    assert few.count == most < whole.count
    torch.testing.assert_close(few.mix, whole.mix[:, :most])
    torch.testing.assert_close(few.penalty, whole.penalty[:most])
