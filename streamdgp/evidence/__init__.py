"""Evidence: what all frames together say about the surface, fused into surfels."""

from streamdgp.evidence.surfels import SurfelMap, TouchedSurfels

__all__ = ["SurfelMap", "TouchedSurfels"]
