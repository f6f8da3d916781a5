"""Exact transport: linear assignment, and a linear program for general marginals."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment, linprog
from scipy.sparse import coo_array
from torch import Tensor

from streamdgp.errors import InvalidInputError

__all__ = ["assign", "exact_plan"]


def assign(cost: Tensor) -> Tensor:
    """Permutations of least total cost, min_pi sum_i C[i, pi(i)] (section 3.3 of the paper).

    One problem after another on the CPU (``scipy``): at 64 points faster than batched Sinkhorn.

    Parameters
    ----------
    cost
        (C, n, n), finite, any device.

    Returns
    -------
    (C, n) int64 on the device of ``cost``: row i goes to column ``result[:, i]``.

    Raises
    ------
    InvalidInputError
        If the problems are not square or a cost is not finite.
    """
    if cost.ndim != 3 or cost.shape[1] != cost.shape[2]:
        raise InvalidInputError(
            "an assignment needs costs of shape (C, n, n)",
            f"shape {tuple(cost.shape)}",
            "Use transport_plan for sides of different size.",
        )
    check_finite(cost)
    problems = cost.detach().cpu().numpy()
    columns = np.empty(problems.shape[:2], dtype=np.int64)
    for index, problem in enumerate(problems):
        columns[index] = linear_sum_assignment(problem)[1]
    return torch.from_numpy(columns).to(cost.device)


def exact_plan(cost: Tensor, weights_a: Tensor, weights_b: Tensor) -> Tensor:
    """Exact plans (C, n, m) for marginals (C, n) and (C, m) that each sum to 1; zeros are padding.

    Problems with as many equal weights on either side are assignments; the others are solved as
    linear programs, which is slow (tens of milliseconds at 64 points) and meant for small ones.
    """
    plan = np.zeros(cost.shape, dtype=np.float64)
    problems = cost.detach().cpu().to(torch.float64).numpy()
    marginals_a = weights_a.detach().cpu().to(torch.float64).numpy()
    marginals_b = weights_b.detach().cpu().to(torch.float64).numpy()
    for index, problem in enumerate(problems):
        rows, columns = np.flatnonzero(marginals_a[index]), np.flatnonzero(marginals_b[index])
        a, b = marginals_a[index, rows], marginals_b[index, columns]
        part = problem[np.ix_(rows, columns)]
        if is_assignment(a, b):
            matched_rows, matched_columns = linear_sum_assignment(part)
            solution = np.zeros_like(part)
            solution[matched_rows, matched_columns] = 1.0 / len(rows)
        else:
            solution = _linear_program(part, a, b)
        plan[index][np.ix_(rows, columns)] = solution
    return torch.from_numpy(plan).to(device=cost.device, dtype=cost.dtype)


def is_assignment(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    """Whether positive marginals (n,), (m,) are uniform and of one size."""
    return len(a) == len(b) and bool(np.ptp(a) <= 1e-5 * a[0]) and bool(np.ptp(b) <= 1e-5 * b[0])


def check_finite(cost: Tensor) -> None:
    """Raise InvalidInputError when a cost is NaN or infinite."""
    if not bool(torch.isfinite(cost).all()):
        raise InvalidInputError(
            "transport costs must be finite",
            f"{int((~torch.isfinite(cost)).sum())} values that are not",
            "Remove the points they come from, or give them zero weight and any finite cost.",
        )


def _linear_program(
    cost: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Kantorovich's problem min <P, C>, P 1 = a, P^T 1 = b, P >= 0, by the simplex of HiGHS."""
    n, m = cost.shape
    entry = np.arange(n * m)
    row, column = np.divmod(entry, m)
    ones = np.ones(2 * n * m)
    constraints = coo_array(
        (ones, (np.concatenate([row, n + column]), np.concatenate([entry, entry]))), shape=(n + m, n * m)
    )
    # One constraint follows from the others; without it, rounding cannot make the problem infeasible.
    kept = constraints.tocsr()[: n + m - 1]
    right_side = np.concatenate([a, b])[: n + m - 1]
    solution = linprog(cost.ravel(), A_eq=kept, b_eq=right_side, method="highs-ds")
    plan: NDArray[np.float64] = np.maximum(solution.x, 0.0).reshape(n, m)
    return plan
