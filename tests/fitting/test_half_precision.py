"""Weights are kept in half precision: what is stored, shown and restored is one and the same chart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from benchmarks.inside import snapshot_state
from streamdgp.config import ConsistencyConfig, FitConfig, RegimeName, SceneConfig
from streamdgp.fitting.batches import fit_in_batches, in_half_precision, rasters_of
from streamdgp.fitting.lazy import LazyRegime
from streamdgp.fitting.types import FitResult, PatchBatch
from streamdgp.reconstructor import Reconstructor
from tests.reference.scans import VOXEL_M, scan_frames

Array = npt.NDArray[Any]
_MOST = 65504.0
"""The largest finite number in half precision."""
_CPU = torch.device("cpu")


def test_weights_are_the_nearest_in_half_precision() -> None:
    """Numpy, which rounds them when they are stored, agrees; nothing is left for it to round."""
    rng = np.random.default_rng(0)
    values = (rng.choice([-1, 1], 50_000) * 10 ** rng.uniform(-9, 4.8, 50_000)).astype(np.float32)
    values = np.concatenate([values, np.float32([0, -0.0, 1, _MOST, 2.0**-14, 2.0**-24, 2.0**-25, 1e-45])])
    found = in_half_precision(torch.from_numpy(values))
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), values.astype(np.float16).astype(np.float32))
    assert torch.equal(in_half_precision(found), found)
    assert found.numpy().astype(np.float16).astype(np.float32).tobytes() == found.numpy().tobytes()
    # Eleven bits, but for numbers below 6e-5, whose steps are 6e-8.
    error = np.abs(found.numpy().astype(np.float64) - values)
    assert (error <= np.maximum(2.0**-11 * np.abs(values), 2.0**-25)).all()
    assert in_half_precision(found.double()).dtype == torch.float64


def test_what_half_precision_cannot_hold_is_cut_and_finite() -> None:
    given = torch.tensor([65504, 65505, 65519.99, 65520, 1e9, 3e38, torch.inf])
    assert in_half_precision(given).tolist() == [_MOST] * 7
    assert in_half_precision(-given).tolist() == [-_MOST] * 7


class _Steep(LazyRegime):
    """A regime whose weights are beyond all bounds, some infinitely."""

    def _exaggerated(self, fit: FitResult) -> FitResult:
        steep = 1e6 * fit.parameters
        steep[::2, 5] = 1e38
        steep[::3, 7] = -torch.inf
        return replace(fit, parameters=steep)

    def fit_new(self, patches: PatchBatch) -> FitResult:
        return self._exaggerated(super().fit_new(patches))

    def fit_warm(self, patches: PatchBatch, parameters: torch.Tensor) -> FitResult:
        return self._exaggerated(super().fit_warm(patches, parameters))


def _patches(charts: int) -> tuple[Array, Array, Array]:
    """Noisy saddles: points, weights and thickness."""
    rng = np.random.default_rng(1)
    tangential = rng.uniform(-0.7, 0.7, (charts, 120, 2))
    height = 0.2 * (tangential[..., 0] ** 2 - tangential[..., 1] ** 2) + 0.01 * rng.normal(size=(charts, 120))
    points = np.concatenate([tangential, height[..., None]], 2).astype(np.float32)
    return points, np.full((charts, 120), 1e4, np.float32), np.full(charts, 0.01, np.float32)


@pytest.mark.parametrize("kind", [LazyRegime, _Steep])
@pytest.mark.parametrize("is_warm", [False, True])
def test_a_fit_gives_what_is_stored_and_its_rasters(kind: type[LazyRegime], is_warm: bool) -> None:
    """More charts than a batch: the rasters are those of the weights as they come back from the store."""
    regime = kind(seed=0)
    patches = _patches(70)
    stored = fit_in_batches(LazyRegime(seed=0), *patches, None, _CPU).parameters if is_warm else None
    fit = fit_in_batches(regime, *patches, stored, _CPU)
    assert fit.parameters.dtype == np.float32
    back = fit.parameters.astype(np.float16).astype(np.float32)
    assert back.tobytes() == fit.parameters.tobytes()
    assert np.isfinite(fit.parameters).all()
    assert (np.abs(fit.parameters).max() == _MOST) == (kind is _Steep)
    for shown, again in zip(fit.rasters, rasters_of(regime, torch.from_numpy(back)), strict=True):
        assert shown.tobytes() == again.tobytes()
        assert np.isfinite(shown).all()


def _rasters(r: Reconstructor) -> list[bytes]:
    return [np.asarray(raster).tobytes() for raster in r.surface().rasters]


@pytest.mark.parametrize("sweeps", [0, 1])
def test_replaced_rasters_make_room_for_others(sweeps: int) -> None:
    """With the consistency step or without it, a stream takes room for its charts and for a frame's more."""
    config = SceneConfig(evidence_voxel_m=VOXEL_M, consistency=ConsistencyConfig(sweeps=sweeps))
    r, most, replaced = Reconstructor(config), 0, 0
    for frame in scan_frames("torus", True)[:8]:
        report = r.integrate(frame)
        fitted = report.charts_created + report.charts_warm + report.charts_cold
        most, replaced = max(most, fitted), replaced + fitted * (1 + sweeps)
        assert len(r.surface().rasters), "held by nobody"
    assert r._map is not None
    assert replaced > 2 * r.chart_count
    assert r._map.atlas.rasters._used <= r.chart_count + 2 * most


@pytest.mark.parametrize("regime", ["lazy", "active"])
def test_what_is_stored_shown_and_restored_is_the_same(regime: RegimeName) -> None:
    """After cold and warm fits and the consistency step, rasters follow from stored weights to the bit."""
    fit = FitConfig() if regime == "lazy" else FitConfig(width=32)
    r = Reconstructor(SceneConfig(evidence_voxel_m=VOXEL_M, resolution_m=VOXEL_M, regime=regime, fit=fit))
    reports = [r.integrate(frame) for frame in scan_frames("torus", True)[: 6 if regime == "lazy" else 2]]
    assert sum(report.charts_warm for report in reports) > (regime == "lazy")
    assert r._map is not None
    stored = r._map.atlas.column("parameters")
    assert stored.dtype == np.float16
    assert np.isfinite(stored).all()
    shown = _rasters(r)
    made = rasters_of(r._map.regime, torch.from_numpy(stored.astype(np.float32)))
    assert [raster.tobytes() for raster in made] == shown
    again = Reconstructor.restore(snapshot_state(r))
    assert again._map is not None
    assert again._map.atlas.column("parameters").tobytes() == stored.tobytes()
    assert _rasters(again) == shown
