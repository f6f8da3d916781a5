"""Stale tiles that nobody has asked for yet: those that changed last are the next to change again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["TileBacklog"]


class TileBacklog:
    """Places of tiles that wait to be extracted, by when they went stale last."""

    def __init__(self) -> None:
        self._places = np.zeros((0, 3), np.int64)
        self._stale_since = np.zeros(0, np.int64)
        self._now = 0

    def __len__(self) -> int:
        return len(self._places)

    def add(self, stale: npt.NDArray[np.int64]) -> None:
        """Tiles (T, 3), each once, that went stale just now; some may be waiting already."""
        self._now += 1
        places = np.concatenate([stale, self._places])
        since = np.concatenate([np.full(len(stale), self._now, np.int64), self._stale_since])
        _, newest = np.unique(places, axis=0, return_index=True)
        self._places, self._stale_since = places[newest], since[newest]

    def take(self, left: int) -> npt.NDArray[np.int64]:
        """Tiles (T, 3) that wait no more: all but the ``left`` that went stale last."""
        left = max(left, 0)
        order = np.argsort(-self._stale_since, kind="stable")
        kept, taken = np.sort(order[:left]), np.sort(order[left:])
        places = self._places[taken]
        self._places, self._stale_since = self._places[kept], self._stale_since[kept]
        return places
