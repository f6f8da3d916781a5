"""Optimal transport between parameter samples and evidence (section 3 of the paper)."""

from streamdgp.transport._config import TransportConfig, TransportMethod
from streamdgp.transport._exact import assign
from streamdgp.transport._plan import TransportPlan, squared_distances, transport_plan
from streamdgp.transport._sinkhorn import sinkhorn

__all__ = [
    "TransportConfig",
    "TransportMethod",
    "TransportPlan",
    "assign",
    "sinkhorn",
    "squared_distances",
    "transport_plan",
]
