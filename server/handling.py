"""From exceptions to statuses, once for all handlers; and the paging of lists."""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc

from streamdgp.errors import InvalidInputError, StreamdgpError
from streamdgp.wire import abort

__all__ = ["page_bounds", "reports_errors", "streams_errors"]

_LOGGER = logging.getLogger(__name__)
_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_Servicer = TypeVar("_Servicer")
_Context = grpc.aio.ServicerContext[Any, Any]


def reports_errors(
    handler: Callable[[_Servicer, _Request, _Context], Awaitable[_Response]],
) -> Callable[[_Servicer, _Request, _Context], Awaitable[_Response]]:
    """Answer a unary call that raises one of this project's errors with its status."""

    @functools.wraps(handler)
    async def handle(servicer: _Servicer, request: _Request, context: _Context) -> _Response:
        try:
            return await handler(servicer, request, context)
        except StreamdgpError as error:
            _log(handler.__name__, error)
            await abort(context, error)

    return handle


def streams_errors(
    handler: Callable[[_Servicer, _Request, _Context], AsyncIterator[_Response]],
) -> Callable[[_Servicer, _Request, _Context], AsyncIterator[_Response]]:
    """End a stream that raises one of this project's errors with its status."""

    @functools.wraps(handler)
    async def handle(servicer: _Servicer, request: _Request, context: _Context) -> AsyncIterator[_Response]:
        try:
            async for response in handler(servicer, request, context):
                yield response
        except StreamdgpError as error:
            _log(handler.__name__, error)
            await abort(context, error)

    return handle


def page_bounds(
    page_size: int, page_token: str, count: int, *, default: int, maximum: int
) -> tuple[int, int, str]:
    """First and last-plus-one item of a page, and the token of the next page ("" on the last).

    Raises
    ------
    InvalidInputError
        A negative size, or a token that is not one of ours.
    """
    if page_size < 0:
        raise InvalidInputError("a page_size of 0 (default) or more", str(page_size), "Leave it out.")
    if page_token and not (page_token.isascii() and page_token.isdigit()):
        raise InvalidInputError(
            "a next_page_token of an earlier answer", repr(page_token)[:60], "Leave it out."
        )
    start = min(int(page_token or 0), count)
    stop = min(start + min(page_size or default, maximum), count)
    return start, stop, str(stop) if stop < count else ""


def _log(name: str, error: StreamdgpError) -> None:
    _LOGGER.info("%s: %s: %s", name, error.reason, error)
