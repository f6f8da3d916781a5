"""A TCP proxy whose connections can be cut or fall silent, also after so many bytes."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 4096
_LOOKS_EVERY_S = 0.02
_HANG_UP = struct.pack("ii", 1, 0)  # linger for no time: closing sends RST


class Proxy:
    """Forwards connections to a server; use as a context.

    ``target`` may change: later connections go there. What can strike the connections that there are:
    ``rst`` and ``fin`` close them; ``silence`` forwards nothing any more and closes nothing; ``hold`` keeps
    back what the client says, but not what the server says.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self._sent_bytes = 0
        self._changed = threading.Condition(threading.RLock())
        self._fault, self._strikes = "", 0
        self._trap: tuple[int, str, str] | None = None
        self._is_closing = False
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(_LOOKS_EVERY_S)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)

    def trap(self, after_bytes: int, fault: str, next_target: str = "") -> None:
        """Strike when clients have sent so many more bytes, once; later connections may go elsewhere."""
        with self._changed:
            self._trap = (self._sent_bytes + after_bytes, fault, next_target)

    def wait_for_trap(self, timeout_s: float = 60.0) -> None:
        """Until it has struck."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._trap is None, timeout_s), "not so many bytes came"

    def strike(self, fault: str) -> None:
        """Do this to all connections that there are."""
        with self._changed:
            self._fault = fault
            self._strikes += 1

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._is_closing:
            with contextlib.suppress(TimeoutError):
                client, _ = self._listener.accept()
                self._start(self._serve, client, self._strikes)

    def _serve(self, client: socket.socket, strikes: int) -> None:
        """One connection from its beginning to its end."""
        host, port = self.target.rsplit(":", 1)
        with client, contextlib.suppress(OSError), socket.create_connection((host, int(port))) as server:
            sources = [client, server]
            while not self._is_closing:
                if strikes != self._strikes:
                    strikes = self._strikes
                    if self._fault in ("rst", "fin"):
                        break
                    sources = [server] if self._fault == "hold" else []
                ready, _, _ = select.select(sources, [], [], _LOOKS_EVERY_S)
                for source in ready:
                    data = source.recv(_CHUNK_BYTES)
                    if not data:
                        return
                    if source is client:
                        self._count(len(data))
                    if strikes != self._strikes:
                        break  # what strikes here is lost with it
                    (server if source is client else client).sendall(data)
            if self._fault == "rst":
                for one in (client, server):
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _HANG_UP)

    def _count(self, count: int) -> None:
        with self._changed:
            self._sent_bytes += count
            if self._trap is not None and self._sent_bytes >= self._trap[0]:
                _, fault, next_target = self._trap
                self._trap, self.target = None, next_target or self.target
                self.strike(fault)
                self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closing = True
        for thread in self._threads:
            thread.join()
        self._listener.close()
