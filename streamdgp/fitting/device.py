"""Where charts are fitted: the name a user gives, checked before work begins."""

from __future__ import annotations

import torch

from streamdgp.errors import InvalidConfigError

__all__ = ["choose_device"]


def choose_device(name: str) -> torch.device:
    """Return the torch device ``cpu``, ``cuda`` or ``cuda:N``.

    Raises
    ------
    InvalidConfigError
        Another name, or a GPU that this machine or this build of torch does not have.
    """
    remedy = "Use cpu, or install a build of torch for this machine's GPU."
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidConfigError("a device cpu, cuda or cuda:N", repr(name), remedy) from error
    if device.type not in {"cpu", "cuda"}:
        raise InvalidConfigError("a device cpu, cuda or cuda:N", repr(name), remedy)
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise InvalidConfigError(f"a CUDA device for {name!r}", f"{count} of them", remedy)
    return device
