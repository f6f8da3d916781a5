"""The atlas: charts with frames, weights, support and statistics, in columns; spatial look-up by grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streamdgp.atlas.addressed import AddressedArrays
from streamdgp.atlas.support import support_masks
from streamdgp.evidence.patches import DIRTY_CELLS, SUPPORT_CELLS
from streamdgp.sampling.anchors import insert_chart

__all__ = ["Atlas", "tangent_frames"]

_CELLS = DIRTY_CELLS * DIRTY_CELLS
_BACKED_SHARE = 0.05
_GROWN_SHARE = 0.3
_APPEARED_SHARE = 0.08
_VANISHED_SHARE = 0.5


def tangent_frames(normals: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Right-handed rotations (K, 3, 3) whose third columns are the unit normals (K, 3).

    Duff et al., "Building an orthonormal basis, revisited", JCGT 2017: continuous but for the pole.
    """
    x, y, z = normals.T
    sign = np.where(z >= 0, 1.0, -1.0)
    a = -1.0 / (sign + z)
    b = x * y * a
    first = np.stack([1.0 + sign * x * x * a, sign * b, -sign * x], 1)
    second = np.stack([b, sign + y * y * a, -y], 1)
    return np.stack([first, second, normals], 2)


class Atlas:
    """Charts of one scene. Numbers are given in order of creation and never reused.

    Columns: anchor (3,) float64 m; rotation (3, 3) float64 (columns: tangents, normal);
    parameters (P,) float32; support (16, 16) uint8; fit_mass and fresh_mass (64,) float32, evidence
    weight per cell at and since the last fit; residual, ridge float32; backed_at_cold int32, cells
    backed at the last cold fit; version, created, fits int32.
    """

    def __init__(self, radius_m: float, scale_m: float, parameter_count: int) -> None:
        self.radius_m = radius_m
        self.scale_m = scale_m
        self.columns: dict[str, npt.NDArray[Any]] = {
            "anchor": np.zeros((0, 3)),
            "rotation": np.zeros((0, 3, 3)),
            "parameters": np.zeros((0, parameter_count), np.float32),
            "support": np.zeros((0, SUPPORT_CELLS, SUPPORT_CELLS), np.uint8),
            "fit_mass": np.zeros((0, _CELLS), np.float32),
            "fresh_mass": np.zeros((0, _CELLS), np.float32),
            "residual": np.zeros(0, np.float32),
            "ridge": np.zeros(0, np.float32),
            "backed_at_cold": np.zeros(0, np.int32),
            "version": np.zeros(0, np.int32),
            "created": np.zeros(0, np.int32),
            "fits": np.zeros(0, np.int32),
        }
        self.rasters = AddressedArrays()
        self.supports = AddressedArrays()
        self._count = 0
        self.grid = self._empty_grid(256)
        self._reserve(256)

    def __len__(self) -> int:
        return self._count

    @property
    def capacity(self) -> int:
        """Charts that fit without growing."""
        return len(self.columns["anchor"])

    def column(self, name: str) -> npt.NDArray[Any]:
        """The live values of one column, (len(self), ...)."""
        return self.columns[name][: self._count]

    @staticmethod
    def _empty_grid(capacity: int) -> tuple[npt.NDArray[Any], ...]:
        return (
            np.full(4 * capacity, -1, np.int32),
            np.zeros((capacity, 3), np.int64),
            np.full(capacity, -1, np.int32),
            np.full(capacity, -1, np.int32),
            np.zeros(1, np.int64),
        )

    def _reserve(self, capacity: int) -> None:
        for name, values in self.columns.items():
            grown = np.zeros((capacity, *values.shape[1:]), values.dtype)
            grown[: self._count] = values[: self._count]
            self.columns[name] = grown
        self.grid = self._empty_grid(capacity)
        for chart in range(self._count):
            insert_chart(chart, self.columns["anchor"], self.scale_m, self.grid)

    def grow(self) -> None:
        """Double the capacity."""
        self._reserve(2 * self.capacity)

    def appended(self, count: int, frame_index: int) -> npt.NDArray[np.int64]:
        """Take in anchors written behind the last chart (and already in the grid); return their numbers."""
        new = np.arange(self._count, count)
        self._count = count
        self.columns["created"][new] = frame_index
        self.rasters.extend([np.zeros((0,), np.float32)] * len(new))
        self.supports.extend([np.zeros((0,), np.float32)] * len(new))
        return new

    def dirty(self, touched: npt.NDArray[np.int64], growth: float) -> npt.NDArray[np.int64]:
        """Of the touched charts, those whose evidence changed enough to be fitted again.

        A cell counts when it becomes backed or its evidence mass has grown by ``growth`` since the
        last fit. Newly backed cells must be a twelfth of the backed ones, grown cells three tenths: each
        fit costs the same, and one that changes little is better spent elsewhere. One cell that lost half of
        its evidence to free space suffices: surface has to go.
        """
        fit, fresh = self.columns["fit_mass"][touched], self.columns["fresh_mass"][touched]
        backed = fit > 0
        typical = fit.sum(1) / np.maximum(backed.sum(1), 1)
        appeared = (~backed & (fresh > _BACKED_SHARE * typical[:, None])).sum(1)
        enough = np.maximum(_APPEARED_SHARE * backed.sum(1), 1)
        grown = (backed & (fit + fresh > growth * fit)).sum(1) > _GROWN_SHARE * backed.sum(1)
        vanished = (backed & (fit + fresh < _VANISHED_SHARE * fit)).any(1)
        unfitted = self.columns["fits"][touched] == 0
        return np.sort(touched[(appeared >= enough) | grown | vanished | unfitted])

    def store_fit(
        self,
        charts: npt.NDArray[np.int64],
        observations: npt.NDArray[np.float32],
        mass: npt.NDArray[np.float32],
        cold: npt.NDArray[np.bool_],
        frame_index: int,
    ) -> None:
        """Record what evidence the charts were fitted to."""
        c = self.columns
        c["support"][charts] = support_masks(observations)
        c["fit_mass"][charts] = mass
        c["fresh_mass"][charts] = 0
        c["fits"][charts] += 1
        c["version"][charts] = frame_index
        c["backed_at_cold"][charts[cold]] = (mass[cold] > 0).sum(1)
        for chart in charts:
            self.supports[chart] = c["support"][chart].astype(np.float32)

    def store_weights(
        self,
        charts: npt.NDArray[np.int64],
        parameters: npt.NDArray[np.float32],
        rasters: Sequence[npt.NDArray[np.float32]],
    ) -> None:
        """Replace weights and rasters; old rasters stay untouched for the snapshots that hold them.

        The rasters are taken over: the caller must not write to them any more.
        """
        self.columns["parameters"][charts] = parameters
        for row, chart in enumerate(charts):
            self.rasters[chart] = rasters[row]

    @classmethod
    def restore(cls, radius_m: float, scale_m: float, columns: dict[str, npt.NDArray[Any]]) -> Atlas:
        """Rebuild from stored columns (rasters are to be filled in by the caller)."""
        count, parameter_count = columns["parameters"].shape
        atlas = cls(radius_m, scale_m, parameter_count)
        capacity = 256
        while capacity <= count:
            capacity *= 2
        atlas._count = count
        for name, values in columns.items():
            grown = np.zeros((capacity, *values.shape[1:]), values.dtype)
            grown[:count] = values
            atlas.columns[name] = grown
        atlas.grid = cls._empty_grid(capacity)
        for chart in range(count):
            insert_chart(chart, atlas.columns["anchor"], scale_m, atlas.grid)
        atlas.rasters.extend([np.zeros((0,), np.float32)] * count)
        atlas.supports.extend(s.astype(np.float32) for s in columns["support"])
        return atlas
