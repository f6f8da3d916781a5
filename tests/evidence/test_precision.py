"""The steps that surfels are kept in: fine, idempotent and, over many observations, without drift."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamdgp.config import EvidenceConfig
from streamdgp.evidence import SurfelMap
from streamdgp.evidence.precision import (
    COLOR_STEP,
    NORMAL_STEP,
    OFFSET_STEP_VOX,
    dither,
    in_steps,
    rounded,
    rounded_weight,
)
from streamdgp.frames.orient import OrientedPoints
from tests.reference.precision import steps_by_turns, to_bits, to_bits_by_turns, turn_of

Array = npt.NDArray[Any]
_WEIGHT_BITS = 9
_WEIGHT_ERROR = 2.0**-_WEIGHT_BITS
_ONE_UNIT = 2.0 * _WEIGHT_ERROR
_TURNS = (0.0, 2.0**-16, 0.25, 0.5, 0.75, 1 - 2.0**-16)
_VOXEL = 2.0**-6


def _weights(seed: int, count: int) -> Array:
    """Weights (1/m^2) from a micrometre's to a metre's sigma and the sums of a million of them."""
    rng = np.random.default_rng(seed)
    out: Array = (10 ** rng.uniform(-2, 18, count)).astype(np.float32)
    return out


def test_the_turns_are_what_they_are_said_to_be() -> None:
    for observation in [*range(300), 32768, *range(65500, 65540)]:
        for channel in range(3):
            assert dither(observation, channel) == turn_of(observation, channel)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_turns_are_even_over_any_observations_in_a_row(channel: int) -> None:
    """Every 65536th of one comes once in 65536; any few in a row leave no gap of six times their share."""
    turns = np.array([dither(k, channel) for k in range(1, 65537)])
    np.testing.assert_array_equal(np.sort(turns), np.arange(65536) / 65536)
    for count in (2, 5, 20, 100, 500, 2000, 5000):
        for start in (0, 1, 37, 1000, 40_000):
            some = np.sort(turns[start : start + count])
            gaps = np.diff(np.append(some, some[0] + 1))
            assert gaps.max() <= 6 / count
            # Up and down balance: sums are what values are, to three steps over however many observations.
            assert abs(some.sum() - 0.5 * count) < 3


@given(st.floats(2.0**-126, 2.0**100), st.integers(0, 65535))
def test_a_rounded_weight_is_one_of_the_two_nearest_of_nine_bits(value: float, turn: int) -> None:
    found = float(rounded_weight(value, turn / 65536))
    assert found > 0
    assert abs(found - value) < _ONE_UNIT * value
    assert [float(rounded_weight(found, t)) for t in _TURNS] == [found] * len(_TURNS)
    assert found == to_bits_by_turns(value, _WEIGHT_BITS, turn / 65536)
    assert float(rounded_weight(value, 0.0)) <= value


@given(st.floats(2.0**-126, 2.0**100))
def test_rounding_a_weight_by_turns_gives_the_weight_on_average(value: float) -> None:
    found = [float(rounded_weight(value, dither(k, 0))) for k in range(1, 201)]
    # Two hundred turns in a row are even to two or three of them.
    assert np.mean(found) == pytest.approx(value, rel=_ONE_UNIT * 3 / 200)
    assert len(set(found)) <= 2


def test_rounded_weights_are_float32_of_nine_bits() -> None:
    values = _weights(0, 20_000)
    turns = np.array([dither(k, 0) for k in range(len(values))])
    found = np.array([rounded_weight(float(v), t) for v, t in zip(values, turns, strict=True)])
    np.testing.assert_array_equal(found, found.astype(np.float32))
    np.testing.assert_array_equal(found, to_bits_by_turns(values, _WEIGHT_BITS, turns))
    mantissa = np.ldexp(np.frexp(found)[0], _WEIGHT_BITS)
    np.testing.assert_array_equal(mantissa, np.rint(mantissa))
    for turn in _TURNS:
        assert rounded_weight(0.0, turn) == 0
        tiny = [rounded_weight(float(v), turn) for v in np.float32([1e-45, 1e-42, 1e-38])]
        assert min(tiny) > 0, "what is positive stays so, down to the least number there is"


def test_rounding_weights_has_no_bias() -> None:
    """Relative errors are up to 1/512 either way; their mean is a 400th of that, as chance has it."""
    values = _weights(1, 200_000)
    error = rounded(values, _WEIGHT_BITS).astype(np.float64) / values - 1
    assert np.abs(error).max() <= _WEIGHT_ERROR
    assert np.abs(error).max() > 0.99 * _WEIGHT_ERROR
    # The scatter of a relative error is about 0.4 / 512, that of the mean of 200,000 of them 1e-3 / 512.
    assert abs(error.mean()) < 4e-3 * _WEIGHT_ERROR
    assert (error > 0).mean() == pytest.approx(0.5, abs=0.01)


def test_a_sum_of_weights_stays_right_while_it_grows() -> None:
    """Three hundred random weights added one by one, rounded each time: sums are right to some per cent."""
    rng = np.random.default_rng(2)
    ratios = []
    for _ in range(300):
        total, weights = 0.0, rng.uniform(0.2, 1.8, 300) * 1e6
        for k, w in enumerate(weights, 1):
            total = float(rounded_weight(total + w, dither(k, 0)))
        ratios.append(total / weights.sum())
    assert np.mean(ratios) == pytest.approx(1, abs=0.002)
    assert np.std(ratios) < 0.015
    assert np.abs(np.array(ratios) - 1).max() < 0.04


@pytest.mark.parametrize("weight", [1.0, 1.01, 4 / 3, 1.5, 1.99, 12_345.6, 1e6])
def test_five_thousand_equal_weights_add_up(weight: float) -> None:
    """The last is about a sixteenth of a unit of the sum: rounded to the nearest, it would be lost."""
    total = 0.0
    for k in range(1, 5001):
        total = float(rounded_weight(total + weight, dither(k, 0)))
        assert total == pytest.approx(k * weight, rel=0.02)
    assert total == pytest.approx(5000 * weight, rel=0.01)


@pytest.mark.parametrize("bits", [1, 5, 8, 9, 23])
def test_rounded_keeps_so_many_bits(bits: int) -> None:
    """Nearest, ties to even, either sign; zeros and only zeros become zero; again, nothing happens."""
    values = np.concatenate([_weights(3, 20_000), -_weights(4, 20_000), np.arange(4096.0), [-0.0]])
    values = values.astype(np.float32)
    found = rounded(values, bits)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, to_bits(values, bits))
    assert (np.abs(found - values.astype(np.float64)) <= 2.0**-bits * np.abs(values)).all()
    np.testing.assert_array_equal(found == 0, values == 0)
    np.testing.assert_array_equal(np.sign(found), np.sign(values))
    assert rounded(found, bits).tobytes() == found.tobytes()
    assert not len(rounded(np.zeros(0, np.float32), bits))


def test_a_turn_of_a_half_is_to_the_nearest() -> None:
    """Compiled for one weight, as seeing through takes it, or for an array: the same but for ties."""
    values = _weights(5, 20_000)
    one_by_one = np.array([rounded_weight(float(v), 0.5) for v in values], np.float32)
    units = np.ldexp(np.frexp(values.astype(np.float64))[0], _WEIGHT_BITS)
    is_tie = units % 1 == 0.5
    assert is_tie.mean() < 0.01
    np.testing.assert_array_equal(one_by_one[~is_tie], rounded(values, _WEIGHT_BITS)[~is_tie])


@pytest.mark.parametrize(("step", "most"), [(OFFSET_STEP_VOX, 1024), (NORMAL_STEP, 127), (COLOR_STEP, 255)])
def test_whole_steps_stay_and_others_go_up_or_down_by_turns(step: float, most: int) -> None:
    for k in range(-most, most + 1):
        assert [in_steps(k * step, step, turn) for turn in _TURNS] == [k] * len(_TURNS)
        for part in (0.01, 0.3, 0.5, 0.99):
            found = [in_steps((k + part) * step, step, turn) for turn in _TURNS]
            assert found == [k + (part + turn >= 1) for turn in _TURNS]
            assert found == steps_by_turns((k + part) * step, step, _TURNS).tolist()


def test_the_steps_fill_their_columns() -> None:
    """Half a voxel, a unit normal and full colour lie within the columns' range, and use most of it."""
    columns = SurfelMap(_VOXEL, EvidenceConfig(pose_error_vox=0)).columns
    for name, least, most, step in (
        ("offset", -0.5, 0.5, OFFSET_STEP_VOX),
        ("normal", -1.0, 1.0, NORMAL_STEP),
        ("color", 0.0, 255.0, COLOR_STEP),
    ):
        limits = np.iinfo(columns[name].dtype)
        for turn in _TURNS:
            assert in_steps(least, step, turn) >= limits.min
            assert in_steps(most, step, turn) <= limits.max


@dataclass(frozen=True)
class _Fused:
    """Surfels after many observations, and in float64 their weighted means and the sums of the weights."""

    surfels: SurfelMap
    weight: Array
    offset_vox: Array
    normal: Array
    color: Array


def _height_noise(rng: np.random.Generator, kind: str, count: int) -> Array:
    """Noise of heights in voxels; of the skewed ones the mean is not where most observations are."""
    out: Array
    if kind == "exponential":
        out = rng.exponential(0.1, count) - 0.1
    elif kind == "outliers":
        out = 0.02 * rng.normal(size=count) + np.where(rng.uniform(size=count) < 0.1, 0.4, 0.0) - 0.04
    else:
        out = 0.1 * rng.normal(size=count)
    return out


@lru_cache
def _fused(count: int, observations: int, noise: str = "normal") -> _Fused:
    """``count`` voxels on a plane, seen by a sensor that goes on after every 25 frames.

    Places are spread over the voxel along the plane, heights have a noise of a tenth of a voxel about a
    height that is every voxel's own; normals are off by 0.15 rad, colours by 20, weights differ fivefold.
    """
    rng = np.random.default_rng(0)
    surfels = SurfelMap(_VOXEL, EvidenceConfig(pose_error_vox=0))
    voxels = np.stack([np.arange(count), np.zeros(count), np.zeros(count)], 1)
    height = rng.uniform(-0.1, 0.1, count)
    paint = rng.uniform(60, 200, (count, 3))
    tilt = rng.normal(size=(count, 3)) * 0.3 + [0, 0, 1]
    total, sums = np.zeros(count), np.zeros((3, count, 3))
    for k in range(observations):
        up = height + _height_noise(rng, noise, count)
        offset = np.clip(np.stack([*rng.uniform(-0.5, 0.5, (2, count)), up], 1), -0.4999, 0.4999)
        normals = tilt / np.linalg.norm(tilt, axis=1, keepdims=True) + 0.15 * rng.normal(size=(count, 3))
        normals = (normals / np.linalg.norm(normals, axis=1, keepdims=True)).astype(np.float32)
        color = np.clip(paint + 20 * rng.normal(size=(count, 3)), 0, 255).astype(np.uint8)
        sigma = rng.uniform(0.001, 0.0022, count).astype(np.float32)
        points = OrientedPoints(
            positions_m=(voxels + 0.5 + offset) * _VOXEL,
            normals=normals,
            sigma_m=sigma,
            incidence_cos=np.ones(count, np.float32),
            color=color,
            sensor_origin_m=np.array([3.0 * (k // 25), 0.0, 5.0]),
            spacing_m=0.01,
            dropped=0,
        )
        surfels.integrate(points, k)
        w = 1 / sigma.astype(np.float64) ** 2
        total += w
        for column, values in zip(sums, (offset, normals, color), strict=True):
            column += w[:, None] * values
    assert len(surfels) == count
    assert (surfels.column("count") == observations).all()
    return _Fused(surfels, total, *(column / total[:, None] for column in sums))


@lru_cache
def _error_steps(column: str, observations: int, noise: str = "normal") -> Array:
    """Kept minus true means (256, 3), in steps of the column."""
    fused = _fused(256, observations, noise)
    wants = {
        "offset": fused.offset_vox / OFFSET_STEP_VOX,
        "normal": fused.normal / NORMAL_STEP,
        "color": fused.color / COLOR_STEP,
    }
    out: Array = fused.surfels.column(column) - wants[column]
    return out


@pytest.mark.parametrize("observations", [1, 2, 5, 20])
@pytest.mark.parametrize("column", ["offset", "normal", "color"])
def test_means_of_a_few_observations_are_right_to_some_steps(column: str, observations: int) -> None:
    """An observation adds less than a step of rounding; later ones average it out, weights being even."""
    error = _error_steps(column, observations)
    n = observations
    assert np.abs(error).max() < min(n, 1 + np.sqrt(n))
    # Rounding up or down in proportion has a scatter of 0.41 of a step; of n of them, each of which fades,
    # 0.41 sqrt(n / 3) remains.
    assert error.std() < 0.42 * np.sqrt((n + 1) * (2 * n + 1) / (6 * n))
    # Every surfel has turns of its own: all together they do not lean.
    assert np.abs(error.mean(0)).max() < 0.1


def _most_scatter(mean_deviation_steps: float) -> float:
    """Scatter in steps that rounding at random leaves in a mean of very many observations.

    The k-th moves the mean by m = d / k steps, d its deviation; rounding that to none or one has variance m,
    which fades as (k / n)^2 by the n-th. Turns are more even than chance.
    """
    return float(np.sqrt(0.5 * mean_deviation_steps))


@pytest.mark.parametrize("noise", ["normal", "exponential", "outliers"])
def test_five_thousand_observations_end_at_their_mean(noise: str) -> None:
    """The mean height of a noisy plane, also where most observations lie on one side of it.

    Rounded to the nearest step, a mean would soon be moved by far observations alone, and follow them:
    by fifty to a hundred steps (0.05 voxels) with the one-sided noise of this test.
    """
    error, fused = _error_steps("offset", 5000, noise), _fused(256, 5000, noise)
    assert abs(error[:, 2].mean()) < 3
    # A tenth of a voxel deviates by 164 steps on average, places all over the voxel by 512.
    scatter = _most_scatter(0.8 * 0.1 / OFFSET_STEP_VOX)
    assert error[:, 2].std() < scatter
    assert np.abs(error[:, 2]).max() < 4 * scatter
    assert np.abs(error[:, :2].mean(0)).max() < 3
    assert error[:, :2].std() < _most_scatter(0.25 / OFFSET_STEP_VOX)
    # Weights of nine bits go on growing where one observation is a fraction of their unit u. Rounding it to
    # none or one of them has variance w u, and u is 2^-8.5 of the sum: at random, 3.7 % after any number.
    ratio = fused.surfels.column("weight") / fused.weight
    assert ratio.mean() == pytest.approx(1, abs=0.005)
    assert ratio.std() < 2.0**-4.75
    assert np.abs(ratio - 1).max() < 0.1


def test_five_thousand_colors_end_at_their_mean() -> None:
    """Noise of 20 steps deviates by 16 on average. None leans to a side by more than turns in a row do."""
    error = _error_steps("color", 5000)
    assert error.std() < _most_scatter(0.8 * 20)
    assert np.abs(error.mean(0)).max() < 2


def test_five_thousand_normals_end_at_their_mean() -> None:
    """As with colours, at noise of 19 steps (0.15 rad): also their lengths, whose noise is one-sided."""
    error, unit = _error_steps("normal", 5000), _fused(256, 5000).normal
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    along = (error * unit).sum(1)
    assert error.std() < _most_scatter(0.8 * 19)
    assert np.abs((error - along[:, None] * unit).mean(0)).max() < 2
    assert abs(along.mean()) < 1


def _at_limits(count: int, frame: int, axis: int = 0, length: float = 1.0) -> OrientedPoints:
    """``count`` points in either of two voxels: normals along an axis and against it, full and no colour."""
    sides = length * np.array([np.eye(3)[axis], -np.eye(3)[axis]]).astype(np.float32)
    return OrientedPoints(
        positions_m=np.tile([[0.5, 0.5, 0.5], [2.5, 0.5, 0.5]], (count, 1)) * _VOXEL,
        normals=np.tile(sides, (count, 1)),
        sigma_m=np.full(2 * count, 0.002, np.float32),
        incidence_cos=np.ones(2 * count, np.float32),
        color=np.tile(np.array([[255, 255, 0], [0, 0, 255]], np.uint8), (count, 1)),
        sensor_origin_m=np.array([3.0 * frame, 0.0, 5.0]),
        spacing_m=0.01,
        dropped=0,
    )


def test_what_is_at_a_limit_stays_there() -> None:
    """Through every turn there is: no whole normal wraps around, no white becomes black, nor fades.

    A sensor that moves on after every 32 observations keeps them all counting.
    """
    surfels = SurfelMap(_VOXEL, EvidenceConfig(most_per_view=32, pose_error_vox=0))
    for frame in range(65536 // 32 + 8):
        surfels.integrate(_at_limits(32, frame), frame)
        assert surfels.column("normal").tolist() == [[127, 0, 0], [-127, 0, 0]]
        assert surfels.column("color").tolist() == [[255, 255, 0], [0, 0, 255]]
    assert len(surfels) == 2


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("pick", [np.argmin, np.argmax])
def test_a_normal_that_is_a_trifle_too_long_is_a_whole_one(axis: int, pick: Callable[[Array], int]) -> None:
    """Normalised in float32, by two units in the last place: one step too many at the last turn of all.

    An observation that outweighs all before it comes at the lowest or highest turn that there is.
    """
    turns = np.array([turn_of(k, axis) for k in range(1, 65535)])
    surfels = SurfelMap(_VOXEL, EvidenceConfig(pose_error_vox=0))
    points = _at_limits(1, 0, axis, 1 + 2.0**-22)
    surfels.integrate(points, 0)
    surfels.columns["count"][:2], surfels.columns["weight"][:2] = pick(turns), 2.0**-40
    surfels.integrate(points, 1)
    np.testing.assert_array_equal(
        surfels.column("normal"), 127 * np.array([np.eye(3)[axis], -np.eye(3)[axis]])
    )
    assert surfels.column("color").tolist() == [[255, 255, 0], [0, 0, 255]]
