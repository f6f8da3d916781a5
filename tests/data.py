"""Where the real scans are: the one place that knows.

They lie in ``../shared/data`` beside the checkout, or where ``STREAMDGP_DATA`` says.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

__all__ = ["data_folder"]

_BESIDE_CHECKOUT = Path(__file__).resolve().parents[2] / "shared" / "data"


def data_folder(*parts: str) -> Path:
    """A file or folder of the real scans; the test fails where it is absent."""
    root = Path(os.environ.get("STREAMDGP_DATA", _BESIDE_CHECKOUT))
    path = root.joinpath(*parts)
    if not path.exists():
        pytest.fail(f"This test needs the real scan {path}: put it there, or set STREAMDGP_DATA to its root.")
    return path
