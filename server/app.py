"""The server process: services on a port, a clean start and a clean end."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable

import grpc

from streamdgp.errors import InvalidInputError
from streamdgp.v1 import ingest_service_pb2_grpc, scene_service_pb2_grpc, surface_service_pb2_grpc
from streamdgp.warmup import warm_up
from streamdgp.wire import MAX_MESSAGE_BYTES
from streamdgp_server.address import WANTED_ADDRESS, split_address
from streamdgp_server.ingest_service import IngestServicer
from streamdgp_server.options import ServerOptions
from streamdgp_server.registry import SceneRegistry
from streamdgp_server.scene_service import SceneServicer
from streamdgp_server.surface_service import SurfaceServicer

__all__ = ["serve"]

_LOGGER = logging.getLogger(__name__)
_GRACE_S = 5.0
_PINGS_ALLOWED_MS = 10_000


async def serve(options: ServerOptions, listen: str, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; then end streams, finish frames in hand, commit, return.

    Parameters
    ----------
    listen
        ``host:port``; port 0 takes a free one.
    ready
        Called once with the address in force, as ``host:port``.

    Raises
    ------
    InvalidInputError
        The address cannot be listened on.
    StorageError
        The data directory is locked or cannot be written; or, while serving, a disk refused frames:
        then nothing more is acknowledged and the process must end.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    registry = SceneRegistry(options)
    opening: asyncio.Task[None] | None = None
    server = grpc.aio.server(options=_channel_options(options.keepalive_s))
    try:
        scene_service_pb2_grpc.add_SceneServiceServicer_to_server(SceneServicer(registry), server)
        ingest_service_pb2_grpc.add_IngestServiceServicer_to_server(IngestServicer(registry), server)
        surface_service_pb2_grpc.add_SurfaceServiceServicer_to_server(SurfaceServicer(registry), server)
        address = _bind(server, listen)
        await asyncio.to_thread(warm_up)  # compiled kernels: the first frame and query must not wait for them
        await server.start()
        ready(address)
        opening = asyncio.create_task(registry.open_all())
        await _wait_for_either(stop, registry.failed)
        _LOGGER.info("shutting down")
    finally:
        stopped = asyncio.create_task(server.stop(_GRACE_S))  # refuses new calls at once
        await registry.close()  # ends ingest streams; server.stop does not wait for what they do
        await stopped
        if opening is not None:
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
        registry.release()
    if registry.failure is not None:
        raise registry.failure


def _channel_options(keepalive_s: float) -> list[tuple[str, int]]:
    patience_ms = max(1, int(500 * keepalive_s))
    return [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),  # a port in use is an error, not a second server
        # A robot that vanished closes nothing: without pings its stream would stay for ever.
        ("grpc.keepalive_time_ms", max(1, int(1000 * keepalive_s))),
        ("grpc.keepalive_timeout_ms", patience_ms),
        (
            "grpc.http2.ping_timeout_ms",
            max(1, int(2000 * keepalive_s)),
        ),  # a slow link answers behind much data
        ("grpc.http2.max_pings_without_data", 0),
        # Clients may ping as often as the server does, and every 10 s, without being cut off.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", min(_PINGS_ALLOWED_MS, patience_ms)),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def _bind(server: grpc.aio.Server, listen: str) -> str:
    host, _ = split_address(listen)
    try:
        bound = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise InvalidInputError(
            WANTED_ADDRESS,
            f"{listen}, which is in use or not this machine's",
            "Choose another port, or port 0.",
        ) from error
    return f"{host}:{bound}"


async def _wait_for_either(*events: asyncio.Event) -> None:
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
