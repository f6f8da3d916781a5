"""Random features shared by all lazy charts of an atlas.

Two hidden ReLU layers whose creases are spread over the parameter domain. The features are then
made orthonormal to the affine functions and to each other under the uniform measure on the disk,
ordered from smooth to rough (a Demmler-Reinsch basis of the random-feature kernel): a ridge on the
network's own weights becomes a diagonal penalty, and rough directions that no evidence can
determine are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from streamdgp.errors import StorageError

__all__ = ["SharedFeatures", "draw_features"]

_STORED = ("shared_w1", "shared_w2", "shared_mix", "shared_penalty")


@dataclass(frozen=True)
class SharedFeatures:
    """psi(v) = relu(relu([v, 1] w1) w2) t - affine part; float32, shared by all charts.

    w1 (3, width), w2 (width + 1, width), mix (width + 3, m): columns of ``mix`` combine the hidden
    features, v and 1 into m orthonormal features; penalty (m,) is the ridge weight of each.
    """

    w1: torch.Tensor
    w2: torch.Tensor
    mix: torch.Tensor
    penalty: torch.Tensor

    @property
    def count(self) -> int:
        return int(self.penalty.numel())

    @classmethod
    def stored(
        cls, arrays: Mapping[str, npt.NDArray[Any]], drawn: Mapping[str, npt.NDArray[Any]]
    ) -> SharedFeatures:
        """Features as an atlas keeps them, though its seed gives others here (``drawn``).

        The random layers are the seed's but for rounding; how they are combined is up to the processor:
        eigenvectors take other signs.

        Raises
        ------
        StorageError
            They are not of this seed, do not fit together, or are not finite.
        """
        width = drawn["shared_w1"].shape[1]
        found = {name: np.asarray(arrays.get(name, ()), np.float32) for name in _STORED}
        for name in _STORED[:2]:
            values = drawn[name]
            if found[name].shape != values.shape or not np.allclose(found[name], values, 1e-4, 1e-5):
                raise StorageError(
                    f"shared weights {name!r} as the seed gives them",
                    "different values",
                    "Another version of the random features wrote the atlas; reconstruct it from its log.",
                )
        count = found["shared_penalty"].size
        for name, shape in (("shared_mix", (width + 3, count)), ("shared_penalty", (count,))):
            if found[name].shape != shape or not count or not np.isfinite(found[name]).all():
                raise StorageError(
                    f"finite shared weights {name!r} of shape {shape}",
                    f"{found[name].shape}",
                    "Check the scene's files; reconstruct it from its log.",
                )
        return cls(*(torch.from_numpy(found[name].copy()) for name in _STORED))

    def __call__(self, v: torch.Tensor) -> torch.Tensor:
        """Design rows [v, 1, psi(v)]: (..., 2) -> (..., 3 + m)."""
        affine = torch.cat([v, torch.ones_like(v[..., :1])], -1)
        hidden = self._hidden(affine)
        return torch.cat([affine, torch.cat([hidden, affine], -1) @ self.mix], -1)

    def with_jacobian(self, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Design rows (..., 3 + m) and their derivatives by v (..., 3 + m, 2)."""
        affine = torch.cat([v, torch.ones_like(v[..., :1])], -1)
        z1 = affine @ self.w1
        h1 = torch.relu(z1)
        j1 = (z1 > 0).to(v.dtype).unsqueeze(-1) * self.w1[:2].T
        z2 = h1 @ self.w2[:-1] + self.w2[-1]
        h2 = torch.relu(z2)
        j2 = (z2 > 0).to(v.dtype).unsqueeze(-1) * torch.einsum("...id,ij->...jd", j1, self.w2[:-1])
        rows = torch.cat([affine, torch.cat([h2, affine], -1) @ self.mix], -1)
        eye = torch.eye(3, 2, dtype=v.dtype, device=v.device).expand(*v.shape[:-1], 3, 2)
        psi = torch.einsum("...id,im->...md", torch.cat([j2, eye], -2), self.mix)
        return rows, torch.cat([eye, psi], -2)

    def _hidden(self, affine: torch.Tensor) -> torch.Tensor:
        h1 = torch.relu(affine @ self.w1)
        return torch.relu(h1 @ self.w2[:-1] + self.w2[-1])

    def to(self, device: torch.device | str) -> SharedFeatures:
        """Return a copy on ``device``."""
        return SharedFeatures(*(x.to(device) for x in (self.w1, self.w2, self.mix, self.penalty)))


def draw_features(width: int, seed: int, keep: float = 3e-4, most: int = 64) -> SharedFeatures:
    """Draw the hidden layers and build the orthonormal features, deterministically from ``seed``.

    At most ``most`` directions are kept, and none below the share ``keep`` of the largest eigenvalue. Many
    random features and few directions: the leading ones are then close to those of the kernel itself.
    """
    rng = np.random.default_rng(seed)

    def disk(n: int, radius: float) -> np.ndarray:
        r = radius * np.sqrt(rng.uniform(size=n))
        a = rng.uniform(0, 2 * np.pi, n)
        return np.stack([r * np.cos(a), r * np.sin(a)], 1)

    # Every crease passes through a point of the disk: relu(w . (v - p)).
    angle = rng.uniform(0, 2 * np.pi, width)
    direction = np.stack([np.cos(angle), np.sin(angle)], 1)
    through = disk(width, 1.1)
    w1 = np.vstack([direction.T, -(direction * through).sum(1)])
    # Quasi-uniform quadrature of the disk.
    k = np.arange(4096) + 0.5
    radius, theta = np.sqrt(k / len(k)), k * np.pi * (1 + 5**0.5)
    v = np.stack([radius * np.cos(theta), radius * np.sin(theta), np.ones_like(radius)], 1)
    h1 = np.maximum(v @ w1, 0)
    w2 = rng.normal(size=(width, width)) * np.sqrt(2.0 / width)
    through = np.hstack([disk(width, 1.1), np.ones((width, 1))])
    bias = -(np.maximum(through @ w1, 0) * w2.T).sum(1)
    w2 = np.vstack([w2, bias])
    h2 = np.maximum(h1 @ w2[:-1] + w2[-1], 0)
    # Remove the affine part, then diagonalise.
    affine, *_ = np.linalg.lstsq(v, h2, rcond=None)
    rest = h2 - v @ affine
    values, vectors = np.linalg.eigh(rest.T @ rest / len(v))
    order = np.argsort(values)[::-1]
    values, vectors = values[order], vectors[:, order]
    kept = (values > keep * values[0]) & (np.arange(len(values)) < most)
    values, vectors = values[kept], vectors[:, kept]
    # A fixed sign, so that the basis does not depend on the LAPACK in use.
    vectors *= np.where(vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])] < 0, -1, 1)
    mix = np.vstack([vectors, -affine @ vectors]) / np.sqrt(values)
    tensors = (
        torch.from_numpy(np.ascontiguousarray(x, np.float32)) for x in (w1, w2, mix, values[0] / values)
    )
    return SharedFeatures(*tensors)
