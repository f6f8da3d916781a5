"""Looking inside the engine: an independent fit of all charts, seams, and charts that no ray touched."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

import streamdgp.reconstructor
from streamdgp.atlas.atlas import Atlas
from streamdgp.atlas.changes import AtlasState
from streamdgp.config import ConsistencyConfig
from streamdgp.consistency.sweep import make_consistent, seam_distances_m
from streamdgp.fitting.types import Regime
from streamdgp.frames import DepthFrame
from streamdgp.reconstructor import Reconstructor

__all__ = [
    "SeamRecorder",
    "fit_independently",
    "rows_that_differ",
    "snapshot_state",
    "state_bytes",
    "untouched_charts",
]


def fit_independently(engine: Reconstructor, *, consistent: bool) -> None:
    """Fit every chart of the engine anew, cold, from the evidence it has now; its anchors stay.

    ``consistent`` adds the consistency step, over all charts at once.
    """
    inner = engine._map
    assert inner is not None, "frames first"
    charts = np.arange(len(inner.atlas))
    patches = engine._gather(inner, charts)
    cold = np.ones(len(charts), bool)
    engine._fit(inner, charts, patches, cold, engine.frame_count - 1)
    if consistent:
        make_consistent(inner.atlas, inner.regime, charts, inner.config.consistency)


class SeamRecorder:
    """Records, while frames stream in, how far fitted charts lie from the stored ones they overlap.

    Distances are measured at the supported samples of the fitted charts, to the mean prediction of
    the neighbours that were not fitted in that frame, before and after the consistency step.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self._calls = 0
        self.before_m: list[npt.NDArray[np.float64]] = []
        self.after_m: list[npt.NDArray[np.float64]] = []

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Watch every engine inside this context."""
        with mock.patch.object(streamdgp.reconstructor, "make_consistent", self._watched):
            yield

    def _watched(
        self, atlas: Atlas, regime: Regime, dirty: npt.NDArray[np.int64], config: ConsistencyConfig
    ) -> None:
        self._calls += 1
        measured = self._calls % self._every == 0 and 0 < len(dirty) < len(atlas)
        if measured:
            self.before_m.append(_seams_to_stored(atlas, regime, dirty))
        make_consistent(atlas, regime, dirty, config)
        if measured:
            self.after_m.append(_seams_to_stored(atlas, regime, dirty))


def _seams_to_stored(atlas: Atlas, regime: Regime, dirty: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Each dirty chart alone against the stored ones: what is being fitted predicts nothing."""
    return seam_distances_m(atlas, regime, dirty, silent=dirty)


def snapshot_state(engine: Reconstructor) -> AtlasState:
    """A copy of everything that a commit holds."""
    changes = engine.changes()
    tables = {
        name: {column: values.copy() for column, values in table.columns.items()}
        for name, table in changes.tables.items()
    }
    arrays = {name: values.copy() for name, values in changes.arrays.items()}
    return AtlasState(tables, arrays, copy.deepcopy(changes.metadata))


def state_bytes(state: AtlasState) -> dict[str, bytes]:
    """The bytes of every column."""
    return {
        f"{table}.{name}": np.ascontiguousarray(values).tobytes()
        for table, columns in state.tables.items()
        for name, values in columns.items()
    }


def untouched_charts(
    anchors_m: npt.NDArray[np.float64], ball_m: npt.NDArray[np.float64], frame: DepthFrame
) -> npt.NDArray[np.bool_]:
    """Charts (K,) whose ball (K,) no ray of the frame entered on its way to a return; some may be missed.

    A ball is out of reach when it projects beside the image or lies behind all that the rays about
    it hit. Pixels without a return count as rays of no length.
    """
    from scipy.ndimage import maximum_filter

    k, pose = frame.intrinsics, frame.world_T_sensor
    local = (anchors_m - pose[:3, 3]) @ pose[:3, :3]
    z = np.maximum(local[:, 2] - ball_m, 1e-3)
    height, width = frame.depth_m.shape
    shares = (ball_m / z)[local[:, 2] > 2 * ball_m]
    reach_px = int(np.ceil(max(k.fx, k.fy) * shares.max(initial=0.0))) + 2
    u = local[:, 0] / np.maximum(local[:, 2], 1e-3) * k.fx + k.cx
    v = local[:, 1] / np.maximum(local[:, 2], 1e-3) * k.fy + k.cy
    beside = (u < -reach_px) | (u > width + reach_px) | (v < -reach_px) | (v > height + reach_px)
    depth = np.where(
        (frame.depth_m >= frame.min_range_m) & (frame.depth_m <= frame.max_range_m), frame.depth_m, 0
    )
    padded = np.pad(np.asarray(depth, np.float32), reach_px)
    farthest = maximum_filter(padded, size=2 * reach_px + 1)
    row = np.clip(np.round(v) + reach_px, 0, padded.shape[0] - 1).astype(int)
    column = np.clip(np.round(u) + reach_px, 0, padded.shape[1] - 1).astype(int)
    near_camera = local[:, 2] <= 2 * ball_m
    return np.asarray(~near_camera & (beside | (farthest[row, column] < local[:, 2] - ball_m)))


def rows_that_differ(
    before: dict[str, npt.NDArray[Any]], after: dict[str, npt.NDArray[Any]], rows: npt.NDArray[np.bool_]
) -> int:
    """How many of the marked rows of the first table differ in the second by as much as a bit."""
    count = len(rows)
    different = np.zeros(count, bool)
    for name, values in before.items():
        old, new = values[:count].reshape(count, -1), after[name][:count].reshape(count, -1)
        different |= (old.view(np.uint8) != new.view(np.uint8)).any(axis=1) if old.size else False
    return int((different & rows).sum())
