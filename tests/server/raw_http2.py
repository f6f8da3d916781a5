"""An HTTP/2 client that does only what it is told: it answers no ping and gives back no window."""

from __future__ import annotations

import socket
import struct
from types import TracebackType
from typing import Self

from streamdgp.v1 import ingest_service_pb2
from tests.server.harness import TIMEOUT_S

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_END_STREAM, _END_HEADERS = 1, 4
_STREAM = 1


class RawIngest:
    """A call of ``IngestService.Ingest`` on a connection of its own; use as a context."""

    def __init__(self, address: str) -> None:
        host, port = address.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), timeout=TIMEOUT_S)
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": "/streamdgp.v1.IngestService/Ingest",
            ":authority": address,
            "content-type": "application/grpc",
            "te": "trailers",  # codespell:ignore te
        }
        # Literal fields with names of their own, in no table.
        block = b"".join(b"\0" + _short(name) + _short(value) for name, value in fields.items())
        self._socket.sendall(
            _PREFACE + _frame(_SETTINGS, 0, 0, b"") + _frame(_HEADERS, _END_HEADERS, _STREAM, block)
        )

    def send(self, request: ingest_service_pb2.IngestRequest, *, is_last: bool = False) -> None:
        """One message; the last one closes the client's half."""
        message = request.SerializeToString()
        data = struct.pack(">BI", 0, len(message)) + message
        self._socket.sendall(_frame(_DATA, _END_STREAM if is_last else 0, _STREAM, data))

    def wait_closed(self) -> None:
        """Until the server has closed the connection."""
        try:
            while self._socket.recv(4096):
                pass
        except ConnectionResetError:
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()


def _short(text: str) -> bytes:
    assert len(text) < 127
    return bytes([len(text)]) + text.encode()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload
