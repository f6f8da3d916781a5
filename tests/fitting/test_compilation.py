"""A chart's bits are the same in the process that compiles kernels and in those that find them compiled."""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

from numba.core.registry import CPUDispatcher

import streamdgp

_FIT = """
import hashlib
import numpy as np
from streamdgp.fitting.batches import fit_in_batches
from streamdgp.fitting.lazy import LazyRegime
import torch

rng = np.random.default_rng(0)
points = rng.uniform(-0.7, 0.7, (40, 150, 3)).astype(np.float32)
points[..., 2] = 0.2 * points[..., 0] ** 2 + 0.1 * np.sin(3 * points[..., 1])
points[..., 2] += 0.02 * rng.normal(size=(40, 150))
weights = rng.uniform(500, 4000, (40, 150)).astype(np.float32)
fit = fit_in_batches(
    LazyRegime(seed=0), points, weights, np.full(40, 0.02, np.float32), None, torch.device("cpu")
)
print(hashlib.sha256(fit.parameters.tobytes()).hexdigest())
"""


def test_who_compiles_makes_no_difference(tmp_path: Path) -> None:
    """A helper that is linked anew would round otherwise than the copy of it in a stored kernel."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    said = [
        subprocess.run(
            [sys.executable, "-c", _FIT], env=environment, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert any(tmp_path.rglob("*.nbc"))
    assert said[0] == said[1]
    assert len(said[0].strip()) == 64


def test_kernels_that_may_take_sums_apart_are_inlined() -> None:
    """Else which of two compiled copies runs, with other sums, depends on what else the process compiled."""
    found = 0
    for info in pkgutil.walk_packages(streamdgp.__path__, "streamdgp."):
        if ".v1" in info.name or info.name.endswith("__main__"):
            continue
        for name, kernel in vars(importlib.import_module(info.name)).items():
            if isinstance(kernel, CPUDispatcher) and kernel.targetoptions.get("fastmath"):
                found += 1
                assert kernel.targetoptions.get("forceinline"), f"{info.name}.{name}"
    assert found > 15
