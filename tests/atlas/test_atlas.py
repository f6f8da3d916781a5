"""The atlas: frames, the dirty rule, growth, storage and restoration."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import binary_closing

from streamdgp.atlas.atlas import Atlas, tangent_frames
from streamdgp.atlas.support import show_cells
from streamdgp.config import EvidenceConfig
from streamdgp.evidence import SurfelMap
from streamdgp.evidence.patches import DIRTY_CELLS, SUPPORT_CELLS
from streamdgp.levels import LEVELS
from streamdgp.sampling.anchors import insert_chart
from tests.reference.precision import to_bits

_CELLS = DIRTY_CELLS**2
_VOXEL = 0.01


def _nothing_remembered() -> SurfelMap:
    """Evidence through which no ray has passed."""
    return SurfelMap(_VOXEL, EvidenceConfig())


def _atlas(count: int) -> Atlas:
    """An atlas of fitted charts with four backed cells of mass 100 each."""
    atlas = Atlas(0.04, 0.064, 12)
    while atlas.capacity <= count:
        atlas.grow()
    rng = np.random.default_rng(0)
    for c in range(count):
        atlas.columns["anchor"][c] = rng.uniform(-3, 3, 3)
        level = atlas.columns["level"][c] = c % LEVELS
        insert_chart(c, atlas.columns["anchor"], level, atlas.scales_m[level], atlas.grid)
    new = atlas.appended(count, 5)
    normals = rng.normal(size=(count, 3))
    atlas.face(new, normals / np.linalg.norm(normals, axis=1, keepdims=True))
    mass = np.zeros((count, _CELLS), np.float32)
    mass[:, :16] = 100
    observations = np.zeros((count, SUPPORT_CELLS, SUPPORT_CELLS), np.float32)
    observations[:, 4:8, 4:8] = 3
    parameters = rng.normal(size=(count, 12)).astype(np.float32)
    atlas.store_weights(new, parameters, rng.normal(size=(count, 33, 33, 3)).astype(np.float32))
    atlas.store_fit(new, observations, mass, np.ones(count, np.bool_), 5, _nothing_remembered())
    return atlas


@given(st.tuples(*[st.floats(-1, 1, allow_subnormal=False)] * 3).filter(lambda n: np.linalg.norm(n) > 1e-3))
def test_tangent_frames_are_rotations(n: tuple[float, float, float]) -> None:
    normal = np.array(n) / np.linalg.norm(n)
    (rotation,) = tangent_frames(normal[None])
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(rotation) == pytest.approx(1)
    np.testing.assert_array_equal(rotation[:, 2], normal)


@pytest.mark.parametrize(
    "normal", [(0, 0, 1.0), (0, 0, -1.0), (0, 0, -0.0), (1, 0, 0), (1, 0, -0.0), (1e-9, 0, -1.0)]
)
def test_tangent_frames_at_the_poles(normal: tuple[float, float, float]) -> None:
    n = np.array(normal)
    if not n.any():
        n = np.array([0, 0, -1.0])
    n = n / np.linalg.norm(n)
    (rotation,) = tangent_frames(n[None])
    assert np.isfinite(rotation).all()
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-7)
    assert np.linalg.det(rotation) == pytest.approx(1)


_ALL = np.arange(6)


def _dirty(atlas: Atlas, touched: npt.NDArray[np.int64] = _ALL) -> npt.NDArray[np.int64]:
    """Charts to be fitted when these were touched, refits from twice the mass (2.45 times after one fit)."""
    return atlas.dirty(touched, 2.0)


def test_nothing_new_nothing_dirty() -> None:
    assert not len(_dirty(_atlas(6)))
    assert not len(_dirty(_atlas(6), np.zeros(0, np.int64)))


@pytest.mark.parametrize(("backed", "appeared"), [(1, 1), (12, 1), (13, 2), (16, 2), (25, 2), (26, 3)])
def test_newly_backed_cells_make_a_chart_dirty(backed: int, appeared: int) -> None:
    """A twelfth of the backed ones, however little mass the rest gained: a new crescent is no hole."""
    for cells in range(appeared + 1):
        atlas = _atlas(6)
        atlas.columns["fit_mass"][3, backed:] = 0
        atlas.columns["fit_mass"][3, :backed] = 100
        atlas.columns["fresh_mass"][3, 40 : 40 + cells] = 50
        np.testing.assert_array_equal(_dirty(atlas), [3] if cells == appeared else [])


def test_grazing_points_in_new_cells_do_not() -> None:
    atlas = _atlas(6)
    atlas.columns["fresh_mass"][3, 40:64] = 0.5
    assert not len(_dirty(atlas))


@pytest.mark.parametrize(("gain", "dirty"), [(90.0, False), (143.0, False), (148.0, True), (500.0, True)])
def test_growth_by_the_factor_makes_a_chart_dirty(gain: float, dirty: bool) -> None:
    atlas = _atlas(6)
    atlas.columns["fresh_mass"][2, :16] = gain
    assert (2 in _dirty(atlas)) == dirty
    assert len(_dirty(atlas)) == int(dirty)


@pytest.mark.parametrize(("cells", "dirty"), [(1, False), (3, False), (4, True), (16, True)])
def test_growth_counts_from_a_fifth_of_the_backed_cells(cells: int, dirty: bool) -> None:
    atlas = _atlas(6)
    atlas.columns["fresh_mass"][1, :cells] = 1000
    np.testing.assert_array_equal(_dirty(atlas), [1] if dirty else [])


def test_only_touched_charts_are_asked_and_the_answer_is_sorted() -> None:
    atlas = _atlas(6)
    atlas.columns["fresh_mass"][:6, :16] = 500
    np.testing.assert_array_equal(_dirty(atlas, np.array([4, 1])), [1, 4])


def test_charts_never_fitted_are_dirty() -> None:
    atlas = _atlas(6)
    atlas.columns["fits"][5] = 0
    np.testing.assert_array_equal(_dirty(atlas), [5])


def test_a_fit_resets_the_count() -> None:
    atlas = _atlas(6)
    atlas.columns["fresh_mass"][2, :16] = 500
    mass = np.zeros((1, _CELLS), np.float32)
    mass[0, :16] = 600
    observations = np.ones((1, SUPPORT_CELLS, SUPPORT_CELLS), np.float32)
    atlas.store_fit(np.array([2]), observations, mass, np.zeros(1, np.bool_), 9, _nothing_remembered())
    assert not len(_dirty(atlas))
    assert atlas.columns["version"][2] == 9
    assert atlas.columns["fits"][2] == 2
    assert atlas.columns["backed_at_cold"][2] == 16, "a warm fit does not move the frame's reference"
    np.testing.assert_array_equal(atlas.columns["version"][[0, 1, 3, 4, 5]], 5)


def test_logarithmic_refits() -> None:
    """Equal frames for ever: the number of refits grows with the logarithm of their number."""
    atlas = _atlas(1)
    refits = []
    for k in range(1000):
        atlas.columns["fresh_mass"][0, :16] += 100
        if len(_dirty(atlas, np.array([0]))):
            refits.append(k)
            mass = atlas.columns["fit_mass"][:1] + atlas.columns["fresh_mass"][:1]
            seen = np.ones((1, 16, 16), np.float32)
            atlas.store_fit(np.array([0]), seen, mass, np.zeros(1, np.bool_), k, _nothing_remembered())
    assert 7 <= len(refits) <= 9


@pytest.mark.parametrize("count", [1, 255, 256, 700])
def test_growth_keeps_everything(count: int) -> None:
    atlas = _atlas(count)
    before = {n: atlas.column(n).copy() for n in atlas.columns}
    capacity = atlas.capacity
    atlas.grow()
    assert atlas.capacity == 2 * capacity
    assert len(atlas) == count
    for name, values in before.items():
        np.testing.assert_array_equal(atlas.column(name), values)


def _near(atlas: Atlas, point: npt.NDArray[np.float64]) -> set[int]:
    """Charts in the grid cells around a point, by walking the grid's chains."""
    table, keys, head, following, counters = atlas.grid
    out = set()
    for cell in range(int(counters[0])):
        level = int(keys[cell, 2]) % LEVELS
        at = np.array([*keys[cell, :2], keys[cell, 2] // LEVELS])
        if np.abs(at - np.floor(point / atlas.scales_m[level])).max() <= 1:
            c = int(head[cell])
            while c >= 0:
                out.add(c)
                c = int(following[c])
    assert (table >= -1).all()
    return out


@pytest.mark.parametrize("count", [5, 300])
def test_restore_gives_the_same_columns_and_look_up(count: int) -> None:
    atlas = _atlas(count)
    columns = {n: values.copy() for n, values in atlas.stored_columns().items()}
    assert columns.keys() == atlas.columns.keys() - {"rotation"}
    again = Atlas.restore(0.04, 0.064, columns, lambda rows: [np.zeros((33, 33, 3), np.float32)] * len(rows))
    assert len(again) == count
    for name in atlas.columns:
        assert again.column(name).tobytes() == atlas.column(name).tobytes(), name
        assert again.column(name).dtype == atlas.column(name).dtype
    for c in range(0, count, 7):
        point = atlas.column("anchor")[c]
        assert _near(again, point) == _near(atlas, point)
        assert c in _near(again, point)
    for a, b in zip(atlas.supports, again.supports, strict=True):
        np.testing.assert_array_equal(a, b)


def _unit_normals(rng: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
    """Random ones, and before them the axes and directions next to the poles."""
    special = [*np.eye(3), *-np.eye(3), (0.0, -0.0, -1.0), (1e-5, 0, -1), (2e-5, -3e-5, -1), (1, 1e-9, -1e-9)]
    normals = np.concatenate([special, rng.normal(size=(count, 3))])
    out: npt.NDArray[np.float64] = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    return out


def test_charts_face_where_they_are_told_to() -> None:
    """To half a step of 1/32767 in every component of the normal; the stored one says how they stand."""
    normals = _unit_normals(np.random.default_rng(0), 600)
    atlas = Atlas(0.04, 0.064, 12)
    while atlas.capacity <= len(normals):
        atlas.grow()
    charts = atlas.appended(len(normals), 0)
    atlas.face(charts, normals)
    rotation, stored = atlas.column("rotation"), atlas.column("normal")
    assert stored.dtype == np.int16
    angle = np.linalg.norm(np.cross(rotation[:, :, 2], normals), axis=1)
    assert angle.max() <= np.sqrt(3) / 2 / 32767 + 1e-12
    assert (rotation[:, :, 2] * normals).sum(1).min() > 0.999
    unit = stored / np.linalg.norm(stored.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(rotation[:, :, 2], unit, rtol=0, atol=1e-15)
    # Next to the downward pole the tangents come from a difference of 2^-30: half of the digits are left.
    products = np.einsum("cki,ckj->cij", rotation, rotation)
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(3), products.shape), atol=1e-7)
    assert np.linalg.det(rotation).min() > 0.999


def test_restored_charts_face_the_same_way_to_the_bit() -> None:
    """Rotations are made from the stored normals: one by one or at once, they are the same bits."""
    normals = _unit_normals(np.random.default_rng(1), 700)
    count = len(normals)
    atlas = _atlas(count)
    atlas.face(np.arange(count), normals)
    at_once = atlas.column("rotation").copy()
    for c in np.random.default_rng(2).permutation(count):
        atlas.face(np.array([c]), normals[c : c + 1])
    assert atlas.column("rotation").tobytes() == at_once.tobytes()
    columns = {n: values.copy() for n, values in atlas.stored_columns().items()}
    assert "rotation" not in columns
    again = Atlas.restore(0.04, 0.064, columns, lambda rows: [np.zeros((33, 33, 3), np.float32)] * len(rows))
    assert again.column("rotation").tobytes() == at_once.tobytes()
    grown = again.capacity
    again.grow()
    assert again.capacity == 2 * grown
    assert again.column("rotation").tobytes() == at_once.tobytes()


def test_parameters_are_stored_as_half_and_read_as_single() -> None:
    atlas = _atlas(3)
    given = np.array([[1.0, -2.5, 65504, 6e-8, 0.1, 1e-3, *[0] * 6]], np.float32)
    atlas.store_weights(np.array([1]), given, np.zeros((1, 33, 33, 3), np.float32))
    stored = atlas.column("parameters")
    assert stored.dtype == np.float16
    read = atlas.parameters(np.array([1, 1]))
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, np.repeat(given.astype(np.float16).astype(np.float32), 2, 0))
    read[:] = 7
    assert not (atlas.column("parameters") == 7).any(), "what is read is a copy"


def test_mass_is_kept_to_few_bits() -> None:
    """Eight bits (0.4 %): enough for the dirty rule; no cell is emptied."""
    atlas = _atlas(2)
    rng = np.random.default_rng(0)
    mass = (10 ** rng.uniform(-3, 9, (1, _CELLS)) * (rng.uniform(size=(1, _CELLS)) < 0.7)).astype(np.float32)
    seen = np.ones((1, SUPPORT_CELLS, SUPPORT_CELLS), np.float32)
    atlas.store_fit(np.array([1]), seen, mass, np.zeros(1, np.bool_), 6, _nothing_remembered())
    np.testing.assert_array_equal(atlas.columns["fit_mass"][1], to_bits(mass[0], 8))
    assert ((atlas.columns["fit_mass"][1] > 0) == (mass[0] > 0)).all()
    fresh = rng.normal(size=_CELLS).astype(np.float32)
    atlas.columns["fresh_mass"][:2] = fresh
    _dirty(atlas, np.array([1]))
    np.testing.assert_array_equal(atlas.columns["fresh_mass"][1], to_bits(fresh, 8))
    np.testing.assert_array_equal(atlas.columns["fresh_mass"][0], fresh, "what is not touched keeps its bits")


def test_store_weights_does_not_write_into_held_rasters() -> None:
    atlas = _atlas(4)
    atlas.store_weights(np.array([2]), np.ones((1, 12), np.float32), np.full((1, 33, 33, 3), 5, np.float32))
    held = atlas.rasters.held()
    for value in (1, 2, 3):
        raster = np.full((1, 33, 33, 3), value, np.float32)
        atlas.store_weights(np.array([2]), np.ones((1, 12), np.float32), raster)
    assert (held[2] == 5).all()
    assert (atlas.rasters[2] == 3).all()


def test_store_weights_copies_rasters_and_parameters() -> None:
    atlas = _atlas(4)
    rasters = np.stack([np.full((33, 33, 3), k, np.float32) for k in range(2)])
    parameters = np.ones((2, 12), np.float32)
    atlas.store_weights(np.array([3, 1]), parameters, rasters)
    parameters[:], rasters[:] = 7, 7
    assert (atlas.rasters[3] == 0).all()
    assert (atlas.rasters[1] == 1).all()
    assert (atlas.columns["parameters"][[1, 3]] == 1).all()


def _supports(hits: npt.NDArray[np.uint8], passes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    support = np.empty_like(hits)
    show_cells(np.arange(len(hits)), hits, passes, support)
    return support


def _hits_only(hits: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Supports of cells that nothing passed through."""
    return _supports(hits.astype(np.uint8), np.zeros(hits.shape, np.uint8))


def test_support_closes_gaps_and_keeps_its_boundary() -> None:
    hits = np.zeros((2, 16, 16))
    hits[0, 2:14:2, 2:14:2] = 1
    masks = _hits_only(hits)
    assert masks.shape == (2, 16, 16)
    assert masks.dtype == np.uint8
    assert (masks[0, 3:12, 3:12] == 255).all(), "gaps between samples are closed"
    assert masks[0, :2].sum() == masks[0, 13:].sum() == 0, "the outer boundary does not move"
    assert masks[1].sum() == 0


def test_support_keeps_a_real_hole_and_the_border() -> None:
    hits = np.ones((1, 16, 16))
    hits[0, 4:12, 4:12] = 0
    mask = _hits_only(hits)[0]
    assert mask[6:10, 6:10].sum() == 0
    assert mask[0].all()
    assert mask[:, -1].all()
    half = np.zeros((1, 16, 16))
    half[0, :8] = 1
    np.testing.assert_array_equal(_hits_only(half)[0], 255 * half[0])


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.6, 0.95])
def test_support_is_a_binary_closing(share: float) -> None:
    """Against scipy, mask by mask, on random evidence up to the border that nothing passed through."""
    rng = np.random.default_rng(0)
    hits = (rng.uniform(size=(60, 16, 16)) < share) * rng.integers(1, 241, (60, 16, 16))
    for mask, seen in zip(_hits_only(hits), hits > 0, strict=True):
        want = binary_closing(np.pad(seen, 8), iterations=2)[8:-8, 8:-8]
        np.testing.assert_array_equal(mask, 255 * want.astype(int))


def _against(hits: npt.ArrayLike, passes: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """What passes count: all but half of the first one for three hits each, or two where 26 saw a surface."""
    weight = np.interp(hits, [16, 26], [3, 2])
    return np.asarray(weight * np.maximum(np.asarray(passes) - 0.5, 0))


@pytest.mark.parametrize(("hits", "passes"), [(1, 0), (3, 1), (6, 2), (10, 3), (16, 5), (26, 13), (40, 20)])
def test_what_many_saw_takes_many_to_deny(hits: int, passes: int) -> None:
    """The most passes with which a cell still shows; one more opens it."""
    votes = np.full((2, 16, 16), hits, np.uint8), np.full((2, 16, 16), passes, np.uint8)
    votes[1][1] += 1
    shows, denied = _supports(*votes)
    assert (shows >= 127.5).all()
    assert (denied < 127.5).all()


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.95])
def test_support_is_the_share_of_hits_where_something_passed(share: float) -> None:
    """By definition, with scipy's closing: hits over weighted votes; gaps passed at most twice."""
    rng = np.random.default_rng(1)
    shape = (80, 16, 16)
    hits = (rng.uniform(size=shape) < share) * rng.integers(1, 41, shape)
    many = np.where(rng.uniform(size=shape) < 0.5, rng.integers(1, 5, shape), rng.integers(1, 41, shape))
    passes = (rng.uniform(size=shape) < 0.5) * many
    odds = hits / np.maximum(hits + _against(hits, passes), 1)
    filled = partial = opened = denied = 0
    for k, mask in enumerate(_supports(hits.astype(np.uint8), passes.astype(np.uint8))):
        is_judged = hits[k] + passes[k] > 0
        closed = binary_closing(np.pad(hits[k] > 0, 8), iterations=2)[8:-8, 8:-8]
        gap = closed & (hits[k] == 0) & (passes[k] <= 2)
        # A cell that was judged is never 0, which says that nothing is known.
        want = np.where(gap, 255, np.maximum(np.rint(255 * odds[k]), is_judged))
        np.testing.assert_array_equal(mask, want.astype(int))
        filled += int(gap.sum())
        partial += int(((hits[k] > 0) & (odds[k] < 1)).sum())
        opened += int((closed & ~gap & (hits[k] == 0)).sum())
        denied += int((mask == 1).sum())
    assert min(filled, partial, opened, denied) > 50, "the cases must occur"


def test_support_of_no_charts() -> None:
    nothing = np.zeros((0, 16, 16), np.uint8)
    assert _supports(nothing, nothing).shape == (0, 16, 16)


def _with_flat_raster() -> Atlas:
    """One unfitted chart at z = 0.005 with its normal along z, whose raster is the identity."""
    atlas = Atlas(0.04, 0.064, 12)
    atlas.columns["anchor"][0] = (0.0, 0.0, 0.005)
    insert_chart(0, atlas.columns["anchor"], 0, atlas.scales_m[0], atlas.grid)
    atlas.appended(1, 0)
    atlas.face(np.array([0]), np.array([[0.0, 0.0, 1.0]]))
    v = np.linspace(-1, 1, 33, dtype=np.float32)
    raster = np.stack([*np.meshgrid(v, v, indexing="ij"), np.zeros((33, 33), np.float32)], -1)
    atlas.store_weights(np.array([0]), np.zeros((1, 12), np.float32), [raster])
    return atlas


def _remembering(left: int, right: int) -> SurfelMap:
    """Evidence of one layer of blocks about the origin; so many passes on either side of x = 0."""
    evidence = SurfelMap(_VOXEL, EvidenceConfig())
    x, y = np.meshgrid(np.arange(-16, 16, 8), np.arange(-16, 16, 8), indexing="ij")
    key = np.stack([x.ravel(), y.ravel(), np.zeros(16)], 1).astype(np.int32)
    columns = {name: np.zeros((16, *c.shape[1:]), c.dtype) for name, c in evidence.columns.items()}
    columns["key"] = key
    passes = np.repeat(np.where(key[:, :1] < 0, left, right), 64, 1).astype(np.uint8)
    return SurfelMap.restore(_VOXEL, EvidenceConfig(), columns, passes, np.zeros((0, 3), np.int32))


def _fit(atlas: Atlas, observations: npt.NDArray[np.float32], evidence: SurfelMap) -> None:
    mass = np.ones((1, _CELLS), np.float32)
    atlas.store_fit(np.array([0]), observations[None], mass, np.zeros(1, np.bool_), 1, evidence)


def test_a_cell_takes_over_what_the_evidence_remembers_once() -> None:
    """When it gets evidence for the first time; what it counts itself later stays its own."""
    atlas = _with_flat_raster()
    seen = np.ones((16, 16), np.float32)
    seen[:, 12:] = 0
    _fit(atlas, seen, _remembering(6, 240))
    passes = atlas.columns["passes"][0]
    # The evidence counts two at a time, of which the first is one look.
    assert (passes[:8, :12] == 5).all()
    # No more than can be outvoted soon.
    assert (passes[8:, :12] == 7).all()
    assert not passes[:, 12:].any()
    assert (atlas.columns["hits"][0] == (seen > 0)).all()
    assert (np.asarray(atlas.supports[0])[8:, :12] < 0.05).all(), "so the chart does not show there"
    _fit(atlas, np.ones((16, 16), np.float32), _remembering(10, 10))
    assert (passes[:8, :12] == 5).all()
    assert (passes[:, 12:] == 7).all()


def test_off_the_surface_a_cell_forgets_what_was_counted() -> None:
    atlas = _with_flat_raster()
    everywhere = np.ones((16, 16), np.float32)
    _fit(atlas, everywhere, _remembering(0, 0))
    atlas.columns["hits"][0], atlas.columns["passes"][0] = 30, 31
    half = everywhere.copy()
    half[8:] = 0
    half[4, 4] = 0
    _fit(atlas, half, _remembering(0, 0))
    for name, count in (("hits", 30), ("passes", 31)):
        votes = atlas.columns[name][0]
        assert (votes[:8] == count).all(), "a gap within the surface keeps what was seen of it"
        assert not votes[8:].any()
    shown = np.asarray(atlas.supports[0])
    np.testing.assert_allclose(shown[:8], 30 / (30 + _against(30, 31)), atol=0.5 / 255)
    assert not shown[8:].any()
