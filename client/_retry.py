"""When to try again."""

from __future__ import annotations

import random
from dataclasses import dataclass

from streamdgp.errors import InvalidConfigError

__all__ = ["RetryPolicy"]


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential back-off with full jitter, so that many robots do not return at the same instant."""

    max_attempts: int | None = 15
    """Attempts without any progress before giving up, >= 0 (0: never try again). None: never give up."""
    initial_delay_s: float = 0.25
    """Upper bound of the first pause, > 0."""
    max_delay_s: float = 8.0
    """Upper bound of any pause, >= initial_delay_s."""

    def __post_init__(self) -> None:
        if (self.max_attempts or 0) < 0 or not 0 < self.initial_delay_s <= self.max_delay_s:
            raise InvalidConfigError(
                "max_attempts >= 0 and 0 < initial_delay_s <= max_delay_s", repr(self), "Change the policy."
            )

    def allows(self, attempt: int) -> bool:
        """Return whether there is to be another attempt, which would be number 1, 2, ..."""
        return self.max_attempts is None or attempt <= self.max_attempts

    def delay_s(self, attempt: int) -> float:
        """Return the pause before the given attempt (1, 2, ...), random."""
        bound = min(self.max_delay_s, self.initial_delay_s * 2.0 ** min(attempt - 1, 30))
        return bound * random.uniform(0.1, 1.0)
