"""The shape of a chart network and how its weights are scaled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from streamdgp.errors import InvalidConfigError

__all__ = ["NetworkKind", "NetworkSpec", "ParameterBlock", "Scaling"]

NetworkKind = Literal["relu", "residual"]
Scaling = Literal["standard", "ntk", "mean_field"]


@dataclass(frozen=True)
class ParameterBlock:
    """One weight or bias of a chart: its name, shape, and place in the flat row."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class NetworkSpec:
    """phi(v) = A [v; 1] + s_L W_L h_L(v) + b_L, a chart's network.

    Hidden layers are h' = relu(s W h + b); in the residual form h' = h + relu(s W h + b) wherever
    the width does not change (section 3.1 of the paper).
    """

    hidden: tuple[int, ...] = (128, 256, 512, 512)
    """Widths of the hidden layers; the paper's by default."""
    kind: NetworkKind = "relu"
    """``relu`` or ``residual``."""
    scaling: Scaling = "standard"
    """What multiplies the weights. ``standard``: nothing. ``ntk``: 1/sqrt(fan-in) before every
    layer, with unit normal weights, so that a wide net moves little in each weight (lazy regime).
    ``mean_field``: the same, but 1/fan-in before the last layer, so that the features move (active
    regime)."""
    affine: bool = True
    """Whether the affine part A (3, 3) is a parameter; without it phi starts from 0."""

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise InvalidConfigError(
                "a chart network needs hidden layers of at least one unit",
                f"widths {self.hidden}",
                "Name one width per hidden layer.",
            )
        for name, value, known in (
            ("kind", self.kind, ("relu", "residual")),
            ("scaling", self.scaling, ("standard", "ntk", "mean_field")),
        ):
            if value not in known:
                raise InvalidConfigError(
                    f"the network's {name} must be one of {', '.join(known)}",
                    repr(value),
                    "Name one of them.",
                )

    @property
    def layer_sizes(self) -> tuple[tuple[int, int], ...]:
        """(fan-out, fan-in) of every linear layer, the last one included."""
        widths = (2, *self.hidden, 3)
        return tuple(zip(widths[1:], widths[:-1], strict=True))

    @property
    def layer_scales(self) -> tuple[float, ...]:
        """s of every linear layer."""
        sizes = self.layer_sizes
        if self.scaling == "standard":
            return (1.0,) * len(sizes)
        scales = [1.0 / math.sqrt(fan_in) for _, fan_in in sizes]
        if self.scaling == "mean_field":
            scales[-1] = 1.0 / sizes[-1][1]
        return tuple(scales)

    @property
    def blocks(self) -> tuple[ParameterBlock, ...]:
        """Parameters in the order of the flat row: weight0, bias0, ..., and affine last."""
        shapes: list[tuple[str, tuple[int, ...]]] = []
        for layer, (fan_out, fan_in) in enumerate(self.layer_sizes):
            shapes.append((f"weight{layer}", (fan_out, fan_in)))
            shapes.append((f"bias{layer}", (fan_out,)))
        if self.affine:
            shapes.append(("affine", (3, 3)))
        blocks, start = [], 0
        for name, shape in shapes:
            stop = start + math.prod(shape)
            blocks.append(ParameterBlock(name, shape, start, stop))
            start = stop
        return tuple(blocks)

    @property
    def parameter_count(self) -> int:
        """Scalars per chart: the length of the flat row."""
        return self.blocks[-1].stop
