"""Chart networks, batched over charts (section 3.1 of the paper)."""

from streamdgp.network._charts import (
    ChartParameters,
    evaluate,
    evaluate_with_jacobian,
    hidden_features,
    pack,
    unpack,
)
from streamdgp.network._initial import initial_parameters
from streamdgp.network._spec import NetworkKind, NetworkSpec, ParameterBlock, Scaling

__all__ = [
    "ChartParameters",
    "NetworkKind",
    "NetworkSpec",
    "ParameterBlock",
    "Scaling",
    "evaluate",
    "evaluate_with_jacobian",
    "hidden_features",
    "initial_parameters",
    "pack",
    "unpack",
]
