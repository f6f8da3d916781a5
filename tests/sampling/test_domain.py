"""Parameter samples: blue noise, exact count, deterministic."""

from __future__ import annotations

import math

import numpy as np
import pytest

from streamdgp.errors import InvalidInputError
from streamdgp.sampling.domain import DomainShape, poisson_disk_domain

AREA = {"disk": math.pi, "square": 4.0}
SHAPES: list[DomainShape] = ["disk", "square"]


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sqrt(((a[:, None, :].astype(np.float64) - b[None, :, :]) ** 2).sum(axis=2))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [64, 128, 256])
def test_samples_are_well_separated_and_leave_no_hole(count: int, shape: DomainShape) -> None:
    samples = poisson_disk_domain(count, 3, shape)
    assert samples.shape == (count, 2)
    assert samples.dtype == np.float32
    pairwise = _distances(samples, samples)
    np.fill_diagonal(pairwise, np.inf)
    packing_distance = math.sqrt(2.0 * AREA[shape] / (math.sqrt(3.0) * count))
    # Uniform random points would have a least distance near 0.1 of the packing; elimination
    # reaches 0.65.
    assert pairwise.min() > 0.55 * packing_distance
    grid = np.stack(np.meshgrid(*[np.linspace(-0.999, 0.999, 61)] * 2), axis=-1).reshape(-1, 2)
    depth = 1.0 - (np.linalg.norm(grid, axis=1) if shape == "disk" else np.abs(grid).max(axis=1))
    hole = _distances(grid, samples).min(axis=1)
    # A maximal Poisson-disk sampling leaves no hole wider than its distance, here 0.8 of the
    # packing; at the rim and in corners there are fewer neighbours to fill it.
    assert hole[depth > 0.5 * packing_distance].max() < 0.95 * packing_distance
    assert hole[depth > 0.0].max() < 1.5 * packing_distance


@pytest.mark.parametrize("shape", SHAPES)
def test_density_does_not_change_towards_the_boundary(shape: DomainShape) -> None:
    share = []
    for seed in range(16):
        samples = poisson_disk_domain(128, seed, shape)
        depth = 1.0 - (np.linalg.norm(samples, axis=1) if shape == "disk" else np.abs(samples).max(axis=1))
        share.append((depth < 0.3).mean())
    # The rim of width 0.3 holds 1 - 0.7^2 = 51 % of either domain; elimination without a
    # torus gives it 54 %.
    assert abs(float(np.mean(share)) - 0.51) < 0.015


@pytest.mark.parametrize("shape", SHAPES)
def test_same_seed_same_samples(shape: DomainShape) -> None:
    first = poisson_disk_domain(64, 1, shape).copy()
    poisson_disk_domain.__globals__["_sample"].cache_clear()
    np.testing.assert_array_equal(first, poisson_disk_domain(64, 1, shape))
    assert not np.array_equal(first, poisson_disk_domain(64, 2, shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 2, 7])
def test_small_counts_are_exact_and_inside(count: int, shape: DomainShape) -> None:
    samples = poisson_disk_domain(count, 0, shape)
    assert samples.shape == (count, 2)
    assert (np.abs(samples) < 1.0).all()
    if shape == "disk":
        assert (np.linalg.norm(samples, axis=1) < 1.0).all()


@pytest.mark.parametrize("count", [0, -1, 5000])
def test_a_count_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(InvalidInputError, match=r"1\.\.4096"):
        poisson_disk_domain(count)


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="'disk' or 'square'"):
        poisson_disk_domain(8, 0, "ball")  # type: ignore[arg-type]
