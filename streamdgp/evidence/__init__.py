from streamdgp.evidence.surfels import SurfelMap, TouchedSurfels
__all__ = ["SurfelMap", "TouchedSurfels"]
