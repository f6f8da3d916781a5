"""Choose a fitting regime by name."""

from __future__ import annotations

import torch

from streamdgp.config import SceneConfig
from streamdgp.fitting.features import SharedFeatures
from streamdgp.fitting.types import Regime

__all__ = ["make_regime"]


def make_regime(config: SceneConfig, device: torch.device, features: SharedFeatures | None = None) -> Regime:
    """Return the regime the configuration names, seeded and on ``device``.

    ``features`` are those of an atlas that exists: what the seed gives depends, in its last bits and its
    signs, on the processor.
    """
    if config.regime == "lazy":
        from streamdgp.fitting.lazy import LazyRegime

        return LazyRegime(config.fit, config.seed, device, features)
    if config.regime == "active":
        from streamdgp.fitting.active import ActiveRegime

        return ActiveRegime(config.fit, config.seed, device, features=features)
    from streamdgp.fitting.paper import PaperRegime

    return PaperRegime(config.fit, config.seed, device)
