"""The robot's client reads scans: no heavy package may come in with the readers."""

from __future__ import annotations

import subprocess
import sys

_HEAVY = ("torch", "open3d", "scipy", "zarr", "icechunk", "numba", "trimesh")


def test_reading_imports_nothing_heavy() -> None:
    code = f"""
import sys
import streamdgp.datasets, streamdgp.meshes
print([name for name in {_HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
