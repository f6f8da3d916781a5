"""Rounding to steps and to significant bits, by definition."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

__all__ = ["steps_by_turns", "to_bits", "to_bits_by_turns", "turn_of"]

_GOLDEN = Fraction(40503, 65536)
_THIRD = Fraction(21845, 65536)


def turn_of(observation: int, channel: int) -> float:
    """Where the ``observation``-th of a surfel, counted from 1, is rounded: fractions of golden multiples."""
    return float((observation * _GOLDEN + channel * _THIRD) % 1)


def steps_by_turns(values: npt.ArrayLike, step: float, turn: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Whole numbers of steps: those above where the fraction and the turn together make a whole."""
    scaled = np.asarray(values, np.float64) / step
    return np.floor(scaled + np.asarray(turn, np.float64)).astype(np.int64)


def to_bits_by_turns(values: npt.ArrayLike, bits: int, turn: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Numbers of ``bits`` significant bits: those above where the rest and the turn together make a whole."""
    mantissa, exponent = np.frexp(np.asarray(values, np.float64))
    out: npt.NDArray[np.float64] = np.ldexp(
        steps_by_turns(np.ldexp(mantissa, bits), 1.0, turn).astype(np.float64), exponent - bits
    )
    return out


def to_bits(values: npt.ArrayLike, bits: int) -> npt.NDArray[np.float64]:
    """The nearest numbers to float32 values that have ``bits`` significant bits; ties to the even one."""
    mantissa, exponent = np.frexp(np.asarray(values, np.float32).astype(np.float64))
    out: npt.NDArray[np.float64] = np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits)
    return out
