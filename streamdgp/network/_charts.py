"""Batched chart networks: value and Jacobian of thousands of charts at once.

Every parameter is one chart-major tensor, (C, out, in) or (C, out), so that a layer of all charts
is one batched matrix product. The first axis may be 1: then all charts share that parameter.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from streamdgp.errors import InvalidInputError
from streamdgp.network._spec import NetworkSpec

__all__ = ["ChartParameters", "evaluate", "evaluate_with_jacobian", "hidden_features", "pack", "unpack"]

ChartParameters = Mapping[str, Tensor]


def unpack(rows: Tensor, spec: NetworkSpec) -> dict[str, Tensor]:
    """Views into flat rows (C, P), one tensor per parameter; gradients flow through.

    Raises
    ------
    InvalidInputError
        If the rows do not have the spec's length.
    """
    if rows.ndim != 2 or rows.shape[1] != spec.parameter_count:
        raise InvalidInputError(
            f"charts of this network have flat rows of {spec.parameter_count} parameters",
            f"shape {tuple(rows.shape)}",
            "Use the spec the rows were packed with.",
        )
    chart_count = len(rows)
    return {
        block.name: rows[:, block.start : block.stop].reshape(chart_count, *block.shape)
        for block in spec.blocks
    }


def pack(parameters: ChartParameters, spec: NetworkSpec) -> Tensor:
    """Flat rows (C, P) of the given parameters; shared ones (first axis 1) are repeated."""
    chart_count = max(parameters[block.name].shape[0] for block in spec.blocks)
    return torch.cat(
        [
            parameters[block.name].reshape(-1, block.stop - block.start).expand(chart_count, -1)
            for block in spec.blocks
        ],
        dim=1,
    )


def hidden_features(parameters: ChartParameters, v: Tensor, spec: NetworkSpec) -> Tensor:
    """h_L(v), the last hidden layer: (C, K, 2) to (C, K, hidden[-1])."""
    z = v
    for layer, scale in enumerate(spec.layer_scales[:-1]):
        activated = torch.relu(_linear(parameters, layer, scale, z))
        z = z + activated if _is_residual(spec, layer) else activated
    return z


def evaluate(parameters: ChartParameters, v: Tensor, spec: NetworkSpec) -> Tensor:
    """phi(v): parameter samples (C, K, 2) to points (C, K, 3), chart units."""
    last = len(spec.hidden)
    z = hidden_features(parameters, v, spec)
    points = _linear(parameters, last, spec.layer_scales[last], z)
    if spec.affine:
        affine = parameters["affine"]
        points = points + torch.matmul(v, affine[:, :, :2].transpose(1, 2)) + affine[:, None, :, 2]
    return points


def evaluate_with_jacobian(
    parameters: ChartParameters, v: Tensor, spec: NetworkSpec
) -> tuple[Tensor, Tensor]:
    """phi(v) and its derivative, in one forward pass without autograd.

    The two tangents travel through the layers below the values, in one matrix product per layer.
    At a kink the derivative is that of the inactive side, as torch's.

    Returns
    -------
    (C, K, 3) points and (C, K, 3, 2) Jacobians dphi/dv.
    """
    chart_count, sample_count, _ = v.shape
    axes = torch.eye(2, dtype=v.dtype, device=v.device)
    # Rows: K values, then K tangents along v_0, then K along v_1.
    tangents = axes[:, None, :].expand(2, sample_count, 2).reshape(1, 2 * sample_count, 2)
    z = torch.cat([v, tangents.expand(chart_count, -1, -1)], dim=1)
    scales = spec.layer_scales
    for layer in range(len(spec.hidden)):
        product = torch.matmul(z, scales[layer] * parameters[f"weight{layer}"].transpose(1, 2))
        value = product[:, :sample_count] + parameters[f"bias{layer}"][:, None, :]
        active = (value > 0).to(value.dtype)
        activated = torch.cat([value * active, product[:, sample_count:] * active.repeat(1, 2, 1)], dim=1)
        z = z + activated if _is_residual(spec, layer) else activated
    last = len(spec.hidden)
    product = torch.matmul(z, scales[last] * parameters[f"weight{last}"].transpose(1, 2))
    points = product[:, :sample_count] + parameters[f"bias{last}"][:, None, :]
    jacobian = product[:, sample_count:].reshape(-1, 2, sample_count, 3).permute(0, 2, 3, 1)
    if spec.affine:
        affine = parameters["affine"]
        points = points + torch.matmul(v, affine[:, :, :2].transpose(1, 2)) + affine[:, None, :, 2]
        jacobian = jacobian + affine[:, None, :, :2]
    return points, jacobian


def _linear(parameters: ChartParameters, layer: int, scale: float, z: Tensor) -> Tensor:
    weight = parameters[f"weight{layer}"]
    if scale != 1.0:
        weight = scale * weight
    return torch.matmul(z, weight.transpose(1, 2)) + parameters[f"bias{layer}"][:, None, :]


def _is_residual(spec: NetworkSpec, layer: int) -> bool:
    fan_out, fan_in = spec.layer_sizes[layer]
    return spec.kind == "residual" and fan_out == fan_in
