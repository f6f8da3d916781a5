"""Carving against numpy over all surfels and all cells: what is skipped would have changed nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from streamdgp.config import EvidenceConfig
from streamdgp.evidence import SurfelMap
from streamdgp.evidence.free_space import farthest_per_tile, is_hidden, passes_at
from streamdgp.evidence.precision import OFFSET_STEP_VOX
from streamdgp.evidence.surfels import FREE_MARGIN_VOX
from streamdgp.frames.orient import OrientedPoints
from streamdgp.frames.view import SensorView
from tests.reference.free_space import is_seen_through, random_view
from tests.reference.precision import to_bits, to_bits_by_turns

Array = npt.NDArray[Any]
_VOXEL = 0.01
_MARGIN = FREE_MARGIN_VOX * _VOXEL


def _unit(vectors: Array) -> Array:
    out: Array = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return out


def _steps(offset_vox: Array) -> Array:
    return np.rint(offset_vox / OFFSET_STEP_VOX).astype(np.int16)


def _evidence(rng: np.random.Generator, count: int, half_m: float, *, is_on: bool = True) -> SurfelMap:
    """Small clusters of surfels of random normals within +-half_m, a tenth without weight; some memory."""
    centers = rng.uniform(-half_m, half_m, (count // 8, 3))
    near = centers[rng.integers(0, len(centers), count)] + 0.03 * rng.normal(size=(count, 3))
    config = EvidenceConfig(free_space=is_on)
    empty = SurfelMap(_VOXEL, config)
    columns = {name: np.zeros((count, *c.shape[1:]), c.dtype) for name, c in empty.columns.items()}
    columns["key"] = np.floor(near / _VOXEL).astype(np.int32)
    _, first = np.unique(columns["key"], axis=0, return_index=True)
    columns = {name: c[np.sort(first)] for name, c in columns.items()}
    n = len(first)
    columns["offset"] = _steps(rng.uniform(-0.5, 0.5, (n, 3)))
    columns["normal"] = np.rint(127 * rng.uniform(0.2, 1, (n, 1)) * _unit(rng.normal(size=(n, 3)))).astype(
        np.int8
    )
    columns["count"] = rng.integers(1, 40, n).astype(np.uint16)
    weight = to_bits(rng.uniform(1, 100, n), 9)
    columns["weight"] = np.where(rng.uniform(size=n) < 0.1, 0.0, weight).astype(np.float32)
    columns["last_frame"] = rng.integers(0, 8, n).astype(np.int32)
    columns["view_seen"] = rng.integers(0, 256, (n, 4)).astype(np.uint8)
    columns["streak"] = rng.integers(0, 251, n).astype(np.uint8)
    blocks = len(np.unique(columns["key"] >> 3, axis=0))
    passes = rng.integers(0, 241, (blocks, 64)).astype(np.uint8)
    return SurfelMap.restore(_VOXEL, config, columns, passes, np.zeros((0, 3), np.int32))


def _nothing_but(view: SensorView | None) -> OrientedPoints:
    """A frame whose returns became no points."""
    return OrientedPoints(
        positions_m=np.zeros((0, 3)),
        normals=np.zeros((0, 3), np.float32),
        sigma_m=np.zeros(0, np.float32),
        incidence_cos=np.zeros(0, np.float32),
        color=None,
        sensor_origin_m=np.zeros(3),
        spacing_m=0.01,
        dropped=0,
        view=view,
    )


def _slowly(
    evidence: SurfelMap, view: SensorView, frame: int, look_frames: int
) -> tuple[dict[str, Array], Array, Array, Array]:
    """Columns and passes after one look, what surfels lose before it is rounded, and which, by definition.

    A look that stands for several frames judges all blocks, once for every two of them.
    """
    c = {name: evidence.column(name).copy() for name in evidence.columns}
    keys = evidence.block_keys[: evidence.block_count]
    number = {tuple(key): b for b, key in enumerate(keys.tolist())}
    block = np.array([number[tuple(key)] for key in (c["key"] >> 3).tolist()])
    alive = c["weight"] > 0
    # Cells of two voxels: all pixels about them must agree, for they are coarse.
    cells = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), -1).reshape(-1, 3)
    centers = (8 * keys[:, None] + 2 * cells + 1) * _VOXEL
    open_to = is_seen_through(view, centers.reshape(-1, 3), _MARGIN, window=3, sigmas=1).reshape(-1, 64)
    its_turn = ((np.arange(len(keys)) + frame) % 2 == 0) | (look_frames > 1)
    steps = [2] if look_frames == 1 else [2] * (look_frames // 2) + [1] * (look_frames % 2)
    passes = evidence.passes[: len(keys)].astype(int)
    counts = open_to & its_turn[:, None] & (passes < 120)
    passes = np.where(counts, np.minimum(passes + sum(steps), 120), passes)
    position = evidence.positions_m(np.arange(len(evidence)))
    ray, normal = position - view.origin_m, c["normal"].astype(np.float64)
    facing = np.abs((ray * normal).sum(1)) / np.linalg.norm(ray, axis=1) / np.linalg.norm(normal, axis=1)
    loses = alive & its_turn[block] & (c["last_frame"] != frame) & (facing > 0.2)
    loses &= is_seen_through(view, position, _MARGIN)
    streak, left = c["streak"].astype(int), c["count"].astype(int)
    for step in steps:
        streak = np.where(loses, np.minimum(streak + step, 250), streak)
        taken = (np.minimum(0.04 * streak, 1.0) * left).astype(int) + 1
        left = np.where(loses, np.maximum(left - taken, 0), left)
    share = np.where(c["count"] > 0, left / np.maximum(c["count"], 1), 1.0)
    c["streak"], c["count"] = streak, left
    lost = -c["weight"].astype(np.float64) * (1 - share)
    # What is left is rounded to the nearest, not by turns: no observation is there to be counted.
    c["weight"] = np.where(loses, to_bits_by_turns(c["weight"] * share, 9, 0.5), c["weight"])
    c["view_seen"] = np.floor(c["view_seen"] * share[:, None])
    return c, passes, np.where(loses, lost, 0.0), np.flatnonzero(loses)


def _compare(evidence: SurfelMap, view: SensorView, frame: int, look_frames: int = 1) -> tuple[int, int]:
    """Carve and compare; returns how many surfels lost and how many cells counted."""
    columns, passes, lost, losers = _slowly(evidence, view, frame, look_frames)
    before = evidence.passes.copy()
    evidence.forget_new_passes()
    touched = evidence.integrate(_nothing_but(view), frame, look_frames)
    np.testing.assert_array_equal(np.sort(touched.index), losers)
    for name, want in columns.items():
        np.testing.assert_array_equal(evidence.column(name), want, err_msg=name)
    np.testing.assert_allclose(touched.gained, lost[touched.index], rtol=1e-12)
    np.testing.assert_array_equal(evidence.passes[: len(passes)], passes)
    counted = evidence.passes != before
    np.testing.assert_array_equal(evidence.blocks_with_new_passes, np.flatnonzero(counted.any(1)))
    return len(losers), int(counted.sum())


@pytest.mark.parametrize("look_frames", [1, 2, 3, 4])
@pytest.mark.parametrize("is_pinhole", [True, False])
def test_against_numpy(is_pinhole: bool, look_frames: int) -> None:
    """From all sides and distances, also from among the surfels."""
    lost = counted = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        evidence = _evidence(rng, 400, 0.4)
        for frame in range(10, 12):
            distance = float(rng.uniform(0.05, 1.2))
            view = random_view(rng, is_pinhole, (56, 80) if is_pinhole else (40, 240), distance_m=distance)
            losers, cells = _compare(evidence, view, frame, look_frames)
            lost, counted = lost + losers, counted + cells
    assert lost > 200, "surfels must lose"
    assert counted > 5000, "cells must count"


def test_without_a_look_nothing_is_seen_through() -> None:
    evidence = _evidence(np.random.default_rng(0), 400, 0.4)
    columns, passes = {n: evidence.column(n).copy() for n in evidence.columns}, evidence.passes.copy()
    view = random_view(np.random.default_rng(1), True, (56, 80))
    assert not len(evidence.integrate(_nothing_but(view), 10, 0).index)
    assert all(np.array_equal(evidence.column(name), values) for name, values in columns.items())
    assert np.array_equal(evidence.passes, passes)
    assert len(evidence.integrate(_nothing_but(view), 10, 2).index), "the same view as a look takes some"


@hypothesis_settings(max_examples=25)
@given(seed=st.integers(0, 10**6), is_pinhole=st.booleans(), near=st.floats(0.05, 3.0))
def test_nothing_is_skipped_that_would_lose(seed: int, is_pinhole: bool, near: float) -> None:
    """Small images, few returns: most blocks are at an edge of the image or of what was seen."""
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(9, 40)), 8 * int(rng.integers(2, 12)))
    view = random_view(rng, is_pinhole, size, distance_m=near, reach_m=1.5 * near)
    _compare(_evidence(rng, 120, 0.3), view, int(rng.integers(10, 12)))


def _one_surfel(key: Array, offset: Array, normal: Array) -> SurfelMap:
    empty = SurfelMap(_VOXEL, EvidenceConfig())
    columns = {name: np.zeros((1, *c.shape[1:]), c.dtype) for name, c in empty.columns.items()}
    columns["key"][0], columns["offset"][0], columns["normal"][0] = key, offset, np.rint(127 * normal)
    columns["count"][0], columns["weight"][0] = 9, 9.0
    none = np.zeros((0, 3), np.int32)
    return SurfelMap.restore(_VOXEL, EvidenceConfig(), columns, np.zeros((1, 64), np.uint8), none)


@pytest.mark.parametrize(
    ("is_pinhole", "size", "half_deg", "near_seam"),
    [
        pytest.param(True, (480, 640), 30, False, id="camera of 60 degrees"),
        pytest.param(True, (480, 640), 60, False, id="camera of 120 degrees"),
        pytest.param(False, (64, 720), 25, True, id="LiDAR, at the seam"),
        pytest.param(False, (128, 1024), 60, False, id="LiDAR up to 60 degrees"),
        pytest.param(
            False,
            (64, 721),
            25,
            True,
            id="LiDAR, at the seam, last tile not whole",
        ),
        pytest.param(
            False,
            (128, 1024),
            85,
            False,
            id="LiDAR up to the poles",
        ),
    ],
)
def test_one_return_behind_a_surfel_is_enough(
    is_pinhole: bool, size: tuple[int, int], half_deg: float, near_seam: bool
) -> None:
    """The hardest case for skipping: of the whole image only the surfel's own pixel lies behind it."""
    rng = np.random.default_rng(1)
    height, width = size
    half = np.deg2rad(half_deg)
    missed = 0
    for _ in range(1500):
        key, offset = rng.integers(0, 8, 3), _steps(rng.uniform(-0.5, 0.5, 3))
        place = (key + 0.5 + OFFSET_STEP_VOX * offset) * _VOXEL
        distance = float(np.exp(rng.uniform(np.log(0.2), np.log(2.5))))
        if is_pinhole:
            focal = 0.5 * width / np.tan(half)
            camera = (focal, focal, 0.5 * width - 0.5, 0.5 * height - 0.5)
            u, v = rng.uniform(0, width - 1.1), rng.uniform(0, height - 1.1)
            local = distance * np.array([(u - camera[2]) / focal, (v - camera[3]) / focal, 1])
        else:
            camera = (width / (2 * np.pi), height / (2 * half), 0.5 * width - 0.5, 0.5 * height - 0.5)
            azimuth = np.pi + rng.uniform(-0.05, 0.05) if near_seam else rng.uniform(-np.pi, np.pi)
            azimuth = (azimuth + np.pi) % (2 * np.pi) - np.pi
            elevation = rng.uniform(-0.97, 0.97) * half
            u, v = camera[0] * azimuth + camera[2], camera[1] * elevation + camera[3]
            flat = np.cos(elevation)
            local = distance * np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)])
        rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        rotation[:, 0] *= np.sign(np.linalg.det(rotation))
        seen = np.zeros(size, np.float32)
        seen[min(max(round(v), 0), height - 1), round(u) % width] = distance + 0.06
        view = SensorView(
            seen, is_pinhole, camera, 2 if is_pinhole else 3, (0.005, 0.0, 0.0),
            np.ascontiguousarray(rotation), place - rotation @ local,
        )  # fmt: skip
        evidence = _one_surfel(key, offset, rotation @ local / np.linalg.norm(local))
        missed += not len(evidence.integrate(_nothing_but(view), 10).index)
    assert not missed


@given(
    seed=st.integers(0, 10**6),
    size=st.tuples(st.integers(1, 40), st.integers(1, 96)),
    wraps=st.booleans(),
    wide=st.floats(0.0, 30.0),
    place=st.tuples(st.floats(-40.0, 140.0), st.floats(-40.0, 80.0)),
    front=st.floats(0.0, 2.0),
)
def test_hidden_means_no_return_beyond_about_it(
    seed: int,
    size: tuple[int, int],
    wraps: bool,
    wide: float,
    place: tuple[float, float],
    front: float,
) -> None:
    """By definition: no pixel within ``wide`` columns and rows has a return beyond ``front``."""
    rng = np.random.default_rng(seed)
    # A LiDAR's width that is no whole number of tiles: see the seam above.
    height, width = size[0], size[1] if not wraps else 8 * ((size[1] + 7) // 8)
    filled = rng.uniform(size=(height, width)) < 0.05
    seen = (rng.uniform(0.1, 2.0, (height, width)) * filled).astype(np.float32)
    u, v = place
    if is_hidden(u, v, (wide, wide), front, farthest_per_tile(seen), seen.shape, wraps):
        i = np.arange(height)[:, None]
        j = np.arange(-100, 200)
        about = (np.abs(i - v) <= wide) & (np.abs(j - u) <= wide)
        inside = j == j if wraps else (j >= 0) & (j < width)
        assert not ((seen[:, j % width] > front) & about & inside).any()


def test_a_place_off_the_image_or_behind_is_hidden_and_one_in_front_is_not() -> None:
    seen = np.full((32, 48), 1.0, np.float32)
    far = farthest_per_tile(seen)
    assert not is_hidden(20.0, 20.0, (3.0, 3.0), 0.9, far, seen.shape, False)
    assert is_hidden(20.0, 20.0, (3.0, 3.0), 1.0, far, seen.shape, False)
    assert is_hidden(-5.0, 20.0, (3.0, 3.0), 0.5, far, seen.shape, False)
    assert not is_hidden(-5.0, 20.0, (3.0, 3.0), 0.5, far, seen.shape, True)
    assert is_hidden(20.0, 36.0, (3.0, 3.0), 0.5, far, seen.shape, True)


def test_the_memory_is_found_at_its_place() -> None:
    rng = np.random.default_rng(0)
    evidence = _evidence(rng, 200, 0.2)
    for x, y, z in rng.uniform(-0.3, 0.3, (2000, 3)):
        voxel = np.floor(np.array([x, y, z]) / _VOXEL).astype(int)
        keys = evidence.block_keys[: evidence.block_count]
        (block,) = np.nonzero((keys == voxel >> 3).all(1))
        i, j, k = (voxel & 7) // 2
        want = evidence.passes[block[0]].reshape(4, 4, 4)[i, j, k] if len(block) else 0
        got = passes_at(x, y, z, _VOXEL, evidence.table, evidence.block_keys, evidence.passes)
        assert got == want


def test_without_free_space_a_view_takes_nothing() -> None:
    rng = np.random.default_rng(0)
    evidence = _evidence(rng, 400, 0.3, is_on=False)
    before, passes = evidence.column("weight").copy(), evidence.passes.copy()
    for frame in range(10, 14):
        touched = evidence.integrate(_nothing_but(random_view(rng, True, (56, 80))), frame)
        assert not len(touched.index)
    assert evidence.column("weight").tobytes() == before.tobytes()
    assert evidence.passes.tobytes() == passes.tobytes()
    assert not len(evidence.blocks_with_new_passes)
