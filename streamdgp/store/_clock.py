"""Commits and a clock that may be set: Icechunk refuses a snapshot that is older than the one before it."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable

from streamdgp.errors import StorageError

__all__ = ["wait_until_after"]

_LOGGER = logging.getLogger(__name__)
_PATIENCE_S = 30.0


def wait_until_after(
    moment: datetime.datetime,
    *,
    now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return when the clock is past a moment; a clock set back by seconds only delays a commit.

    Raises
    ------
    StorageError
        It would take more than half a minute.
    """
    behind_s = (moment - now()).total_seconds()
    if behind_s < 0:
        return
    if behind_s > _PATIENCE_S:
        raise StorageError(
            f"a clock past {moment:%Y-%m-%d %H:%M:%S} UTC, when the newest revision was committed",
            f"{now():%Y-%m-%d %H:%M:%S} UTC",
            "Set the clock right and start the server again; durable frames are fitted then.",
        )
    _LOGGER.warning("the clock was set back; the next revision waits for %.1f s", behind_s)
    while (behind_s := (moment - now()).total_seconds()) >= 0:
        sleep(min(1.0, behind_s + 0.001))
