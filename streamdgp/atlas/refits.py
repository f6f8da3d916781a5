"""Which charts are fitted again: those whose evidence changed enough since they were fitted last."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from streamdgp.parts import in_parts

__all__ = ["MASS_BITS", "has_changed"]

MASS_BITS = 8
"""Significant bits of an evidence mass."""
_BACKED_SHARE = 0.05
_GROWN_SHARE = 0.2
_EARLY_GROWTH = 0.45
_APPEARED_SHARE = 0.08
_VANISHED_SHARE = np.float32(0.25)
_TO_BITS = np.float32(2 ** (24 - MASS_BITS) + 1)
# Charts, half a microsecond each.
_LEAST_PART = 500


def has_changed(
    touched: npt.NDArray[np.int64],
    fit_mass: npt.NDArray[np.float32],
    fresh_mass: npt.NDArray[np.float32],
    fits: npt.NDArray[np.int32],
    growth: float,
) -> npt.NDArray[np.bool_]:
    """Whether touched charts (K,) are to be fitted again; what they gained is rounded in place.

    A cell counts when it becomes backed or its evidence mass has grown enough since the last fit: to
    1.7 times after the first fit, to less later, to ``growth`` times in the end. Early fits are soon
    outdated anyway; late ones decide how much of the evidence the surface shows. Newly backed cells must
    be a twelfth of the backed ones, grown cells a fifth: each fit costs the same, and one that changes
    little is better spent elsewhere. One cell that lost three quarters of its evidence to free space
    suffices: surface has to go. (Half is what the edges of a real room lose and find again all the time.)

    Parameters
    ----------
    fit_mass, fresh_mass
        (charts, 64) evidence weight per cell at and since the last fit.
    fits
        (charts,) how often a chart was fitted; the first time comes at once.
    """
    found = np.empty(len(touched), np.bool_)

    def judge(begin: int, end: int) -> None:
        _judge(touched[begin:end], fit_mass, fresh_mass, fits, growth, found[begin:end])

    in_parts(judge, len(touched), _LEAST_PART)
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def _judge(touched: Any, fit_mass: Any, fresh_mass: Any, fits: Any, growth: float, found: Any) -> None:
    for row in range(touched.shape[0]):
        c = touched[row]
        fit, fresh = fit_mass[c], fresh_mass[c]
        backed = 0
        total = np.float32(0.0)
        for k in range(fit.shape[0]):
            shifted = fresh[k] * _TO_BITS
            fresh[k] = shifted - (shifted - fresh[k])
            backed += fit[k] > 0.0
            total += fit[k]
        least = _BACKED_SHARE * (total / max(backed, 1))
        asked = growth + _EARLY_GROWTH / max(fits[c], 1)
        appeared = grown = vanished = 0
        for k in range(fit.shape[0]):
            now = fit[k] + fresh[k]
            is_backed = fit[k] > 0.0
            appeared += (not is_backed) & (fresh[k] > least)
            grown += is_backed & (now > asked * fit[k])
            vanished += is_backed & (now < _VANISHED_SHARE * fit[k])
        found[row] = (
            fits[c] == 0
            or vanished > 0
            or appeared >= max(_APPEARED_SHARE * backed, 1.0)
            or grown > _GROWN_SHARE * backed
        )
