"""Where to listen. Light, so that a wrong address is refused before the engine is loaded."""

from __future__ import annotations

from streamdgp.errors import InvalidInputError

__all__ = ["WANTED_ADDRESS", "split_address"]

WANTED_ADDRESS = "an address to listen on as HOST:PORT, for example 127.0.0.1:50051"


def split_address(listen: str) -> tuple[str, int]:
    """Host and port; raises :class:`InvalidInputError` when it is not an address."""
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise InvalidInputError(WANTED_ADDRESS, repr(listen), "Use port 0 for any free one.")
    return host, int(port)
