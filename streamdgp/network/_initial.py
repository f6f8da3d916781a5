"""Initial weights of chart networks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from streamdgp.network._charts import pack
from streamdgp.network._spec import NetworkSpec

__all__ = ["initial_parameters"]


def initial_parameters(
    spec: NetworkSpec, chart_count: int, seed: int, *, shared: bool = False, zero_output: bool = False
) -> Tensor:
    """Random flat rows (chart_count, P), float32, on the CPU.

    ``standard`` scaling draws weights and biases uniformly in +-1/sqrt(fan-in), torch's default for
    linear layers; ``ntk`` and ``mean_field`` draw unit normal weights times sqrt(2) before a ReLU
    (the layer's scale is part of the network) and unit normal biases. The affine part is
    the tangent plane (v_0, v_1, 0).

    Parameters
    ----------
    spec
        The network.
    chart_count
        Rows.
    seed
        Same spec, count and seed give the same weights.
    shared
        All charts get the same weights.
    zero_output
        The last layer starts at zero: phi is the tangent plane exactly.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = 1 if shared else chart_count
    parameters: dict[str, Tensor] = {}
    last = len(spec.hidden)
    for layer, (fan_out, fan_in) in enumerate(spec.layer_sizes):
        weight_shape, bias_shape = (drawn, fan_out, fan_in), (drawn, fan_out)
        if spec.scaling == "standard":
            bound = 1.0 / math.sqrt(fan_in)
            weight = (2.0 * torch.rand(weight_shape, generator=generator) - 1.0) * bound
            bias = (2.0 * torch.rand(bias_shape, generator=generator) - 1.0) * bound
        else:
            gain = math.sqrt(2.0) if layer < last else 1.0
            weight = torch.randn(weight_shape, generator=generator) * gain
            bias = torch.randn(bias_shape, generator=generator)
            if layer == last:
                bias = torch.zeros_like(bias)
        if layer == last and zero_output:
            weight, bias = torch.zeros_like(weight), torch.zeros_like(bias)
        parameters[f"weight{layer}"] = weight
        parameters[f"bias{layer}"] = bias
    if spec.affine:
        parameters["affine"] = torch.diag(torch.tensor([1.0, 1.0, 0.0]))[None]
    return pack(parameters, spec).expand(chart_count, -1).clone()
