"""Batches of charts on a few worker threads.

Each worker runs torch single-threaded on its own batch: small matrices gain nothing from threads
inside an operation, and lose much to their barriers when the machine is busy. Batches are formed by
position alone, so results do not depend on how many workers there are.

Where charts are computed one by one, batches are larger and of one size: what Python does for each of
them is a seventh of its time, and an even number lets two cores end together.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from streamdgp.fitting.raster import RASTER
from streamdgp.fitting.types import FitResult, PatchBatch, Regime
from streamdgp.parts import cores, share_out

__all__ = [
    "BATCH",
    "CHARTWISE_BATCH",
    "ChartsToFit",
    "FittedCharts",
    "as_worker",
    "fit_groups",
    "fit_in_batches",
    "in_half_precision",
    "map_batches",
    "raster_block",
    "rasters_of",
]

BATCH = 64
"""Charts in a batch of a library's products."""
CHARTWISE_BATCH = 128
"""At most so many where charts are computed one by one."""
# Fewer are not worth another thread.
_LEAST_BATCH = 8
_T = TypeVar("_T")
_THREAD = threading.local()


def _initialise_worker() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), "streamdgp-fit", _initialise_worker)


@contextmanager
def as_worker() -> Iterator[None]:
    """The calling thread computes as the workers do, to the last bit. Within another of these: nothing."""
    if getattr(_THREAD, "is_worker", False):
        yield
        return
    threads = torch.get_num_threads()
    flushes = float(torch.tensor(1e-40) * 1.0) == 0.0
    _initialise_worker()
    try:
        _THREAD.is_worker = True
        yield
    finally:
        _THREAD.is_worker = False
        torch.set_flush_denormal(flushes)
        torch.set_num_threads(threads)


def map_batches(work: Callable[[slice], _T], count: int, *, is_chartwise: bool) -> list[_T]:
    """Run ``work`` on slices of ``count`` charts, results in order.

    If it is not chart by chart, the bits of a chart may depend on which others are in its slice.
    """
    with as_worker():
        return share_out(work, _slices(count, is_chartwise), _pool())


def _slices(count: int, is_chartwise: bool) -> Sequence[slice]:
    if not is_chartwise:
        return [slice(begin, min(begin + BATCH, count)) for begin in range(0, count, BATCH)]
    batches = min(-(-count // (2 * CHARTWISE_BATCH)) * 2, -(-count // _LEAST_BATCH))
    edges = [count * k // max(batches, 1) for k in range(batches + 1)]
    return [slice(begin, end) for begin, end in itertools.pairwise(edges)]


def in_half_precision(parameters: torch.Tensor) -> torch.Tensor:
    """Weights as the atlas keeps them, so that what is shown, stored and restored is the same."""
    most = torch.finfo(torch.float16).max
    return parameters.clamp(-most, most).half().to(parameters.dtype)


def raster_block(regime: Regime, parameters: torch.Tensor) -> npt.NDArray[np.float32]:
    """Rasters (C, 33, 33, 3) of one batch, the same bits in any company: if need be, of a full one."""
    count = len(parameters)
    if not regime.is_chartwise and count < BATCH:
        parameters = torch.cat([parameters, parameters.new_zeros(BATCH - count, parameters.shape[1])])
    rasters: npt.NDArray[np.float32] = regime.rasters(parameters).cpu().numpy()
    return rasters[:count]


def rasters_of(regime: Regime, parameters: torch.Tensor) -> npt.NDArray[np.float32]:
    """Rasters (C, 33, 33, 3) of charts (C, P)."""
    parts = map_batches(
        lambda part: raster_block(regime, parameters[part]),
        len(parameters),
        is_chartwise=regime.is_chartwise,
    )
    return np.concatenate([np.zeros((0, RASTER, RASTER, 3), np.float32), *parts])


@dataclass(frozen=True)
class FittedCharts:
    """parameters (C, P), residual and ridge (C,), and rasters: a block (n, 33, 33, 3) for every batch."""

    parameters: npt.NDArray[np.float32]
    residual: npt.NDArray[np.float32]
    ridge: npt.NDArray[np.float32]
    blocks: list[npt.NDArray[np.float32]]

    @property
    def rasters(self) -> list[npt.NDArray[np.float32]]:
        """All rasters, one after another; each keeps its block alive."""
        return [raster for block in self.blocks for raster in block]


@dataclass(frozen=True)
class ChartsToFit:
    """Patches of charts, points (C, N, 3), weights (C, N), thickness (C,), and where their fits start.

    Cold where ``stored`` is None; else warm, from stored weights (C, P) and where their rasters lie.
    """

    points: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]
    thickness: npt.NDArray[np.float32]
    stored: npt.NDArray[np.float32] | None = None
    raster_addresses: npt.NDArray[np.int64] | None = None


def fit_groups(regime: Regime, groups: Sequence[ChartsToFit], device: torch.device) -> list[FittedCharts]:
    """Fit groups of charts, all batches of all of them side by side. Results are on the CPU, with rasters."""

    def fit(item: tuple[ChartsToFit, slice]) -> tuple[FitResult, npt.NDArray[np.float32]]:
        charts, part = item
        whole = (charts.points, charts.weights, charts.thickness)
        rows = [torch.from_numpy(x[part]).to(device) for x in whole]
        patches = PatchBatch(rows[0], rows[1], rows[2])
        if charts.stored is None:
            result = regime.fit_new(patches)
        else:
            if charts.raster_addresses is not None and device.type == "cpu":
                patches = replace(patches, raster_addresses=charts.raster_addresses[part])
            result = regime.fit_warm(patches, torch.from_numpy(charts.stored[part]).to(device))
        result = replace(result, parameters=in_half_precision(result.parameters))
        return result, raster_block(regime, result.parameters)

    slices = [_slices(len(charts.points), regime.is_chartwise) for charts in groups]
    items = [(charts, part) for charts, parts in zip(groups, slices, strict=True) for part in parts]
    with as_worker():
        fitted = iter(share_out(fit, items, _pool()))
    return [_joined([next(fitted) for _ in parts]) for parts in slices]


def _joined(parts: Sequence[tuple[FitResult, npt.NDArray[np.float32]]]) -> FittedCharts:
    def whole(name: str) -> npt.NDArray[np.float32]:
        values: npt.NDArray[np.float32] = (
            torch.cat([getattr(result, name) for result, _ in parts]).cpu().numpy()
        )
        return values

    blocks = [block for _, block in parts]
    return FittedCharts(whole("parameters"), whole("residual"), whole("ridge"), blocks)


def fit_in_batches(
    regime: Regime,
    points: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32],
    thickness: npt.NDArray[np.float32],
    stored: npt.NDArray[np.float32] | None,
    device: torch.device,
) -> FittedCharts:
    """``fit_groups`` of one group."""
    return fit_groups(regime, [ChartsToFit(points, weights, thickness, stored)], device)[0]
