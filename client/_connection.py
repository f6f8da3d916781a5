"""How a connection is kept, and how it is noticed that it is dead."""

from __future__ import annotations

from typing import Final

from streamdgp.errors import InvalidConfigError

__all__ = ["DEFAULT_KEEPALIVE_S", "channel_options"]

DEFAULT_KEEPALIVE_S: Final = 20.0
_MAX_RECEIVE_BYTES: Final = 64 * 2**20  # the client chose its server; a dense tile may be some MiB


def channel_options(keepalive_s: float) -> list[tuple[str, int]]:
    """Return the options of a channel.

    Parameters
    ----------
    keepalive_s
        See ``AsyncClient``.

    Raises
    ------
    InvalidConfigError
        It is not positive.
    """
    if not 0 < keepalive_s < 1e6:
        raise InvalidConfigError("a keepalive_s above 0 and below 1e6", f"{keepalive_s:g}", "Change it.")
    patience_ms = max(1, int(500 * keepalive_s))
    return [
        ("grpc.max_receive_message_length", _MAX_RECEIVE_BYTES),
        # grpc's own pause between connection attempts grows to two minutes: too long for a robot.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2000),
        # An attempt gives up after this: a router that swallows packets never says no.
        ("grpc.min_reconnect_backoff_ms", max(1000, patience_ms)),
        # A cable that was pulled closes nothing: without pings a stream would wait for ever.
        ("grpc.keepalive_time_ms", max(1, int(1000 * keepalive_s))),
        ("grpc.keepalive_timeout_ms", patience_ms),
        # What gRPC waits for a ping's answer: a minute by default, whatever the line above says (that is how
        # long TCP waits for acknowledgements). Not shorter, for on a slow link it comes behind much data.
        ("grpc.http2.ping_timeout_ms", max(1, int(2000 * keepalive_s))),
        ("grpc.http2.max_pings_without_data", 0),
    ]
