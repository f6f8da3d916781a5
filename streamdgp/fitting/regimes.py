"""Choose a fitting regime by name."""

from __future__ import annotations

import torch

from streamdgp.config import SceneConfig
from streamdgp.fitting.types import Regime

__all__ = ["make_regime"]


def make_regime(config: SceneConfig, device: torch.device) -> Regime:
    """Return the regime the configuration names, seeded and on ``device``."""
    if config.regime == "lazy":
        from streamdgp.fitting.lazy import LazyRegime

        return LazyRegime(config.fit, config.seed, device)
    if config.regime == "active":
        from streamdgp.fitting.active import ActiveRegime

        return ActiveRegime(config.fit, config.seed, device)
    from streamdgp.fitting.paper import PaperRegime

    return PaperRegime(config.fit, config.seed, device)
