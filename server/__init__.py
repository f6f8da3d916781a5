"""The gRPC server: takes frames in, keeps scenes, answers with the current surface.

``streamdgp-server serve`` runs it; :func:`serve` is the same in a program.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["ServerOptions", "serve"]

_LAZY = {"ServerOptions": "streamdgp_server.options", "serve": "streamdgp_server.app"}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Load the engine on first use: ``streamdgp-server --help`` must not wait for torch (PEP 562)."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
