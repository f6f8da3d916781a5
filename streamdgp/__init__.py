"""streamdgp keeps a surface up to date while a robot is still scanning (Deep Geometric Prior, streamed).

Importing the package is cheap: names that need torch are loaded when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from streamdgp.errors import StreamdgpError

__version__ = "0.1.0"

_LAZY = {
    "Reconstructor": "streamdgp.reconstructor",
    "SceneConfig": "streamdgp.config",
    "open_dataset": "streamdgp.datasets",
}

__all__ = ["Reconstructor", "SceneConfig", "StreamdgpError", "__version__", "open_dataset"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Load a heavy public name on first use (PEP 562)."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
