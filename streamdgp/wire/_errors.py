"""Errors over the wire: one table from exception to status, and the way back.

A status carries ErrorInfo with the exception's stable ``reason``; the client makes the same
exception of it. A rejected frame travels in band with the same parts.
"""

from __future__ import annotations

from typing import Final, NoReturn, Protocol, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from streamdgp import errors
from streamdgp.errors import (
    AlreadyExistsError,
    DatasetError,
    InvalidInputError,
    NotFoundError,
    ResourceLimitError,
    SequenceError,
    ServerUnavailableError,
    StorageError,
    StreamdgpError,
)
from streamdgp.v1 import ingest_service_pb2

__all__ = [
    "abort",
    "abort_arguments",
    "error_from_rejection",
    "error_from_rpc",
    "is_retryable",
    "rejection_from_error",
]

DOMAIN: Final = "streamdgp"
DETAILS_KEY: Final = "grpc-status-details-bin"
RETRY_DELAY_S: Final = 1
_MAX_TEXT: Final = 1000  # a status travels in HTTP/2 headers, 8 KiB in all
# What grpc.aio makes of a write that meets a breaking connection; the true status is lost then.
_LOST_CONNECTION: Final = "Internal error from Core"
_PARTS: Final = ("wanted", "got", "remedy")

# These codes are frozen: clients of other languages see them. First match wins, root last.
_CODES: Final[tuple[tuple[type[StreamdgpError], grpc.StatusCode], ...]] = (
    (InvalidInputError, grpc.StatusCode.INVALID_ARGUMENT),
    (DatasetError, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (AlreadyExistsError, grpc.StatusCode.ALREADY_EXISTS),
    (SequenceError, grpc.StatusCode.FAILED_PRECONDITION),
    (ResourceLimitError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (StorageError, grpc.StatusCode.DATA_LOSS),
    (ServerUnavailableError, grpc.StatusCode.UNAVAILABLE),
    (StreamdgpError, grpc.StatusCode.INTERNAL),
)
_CLASS_OF_REASON: Final[dict[str, type[StreamdgpError]]] = {
    cls.reason: cls for cls in (getattr(errors, name) for name in errors.__all__)
}
# For statuses without our ErrorInfo: from grpc itself, or from something in between.
_CLASS_OF_CODE: Final[dict[grpc.StatusCode, type[StreamdgpError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInputError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceLimitError,
    grpc.StatusCode.UNAVAILABLE: ServerUnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: ServerUnavailableError,
}


class _Aborting(Protocol):
    """The part of ``grpc.aio.ServicerContext`` that is used."""

    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: tuple[tuple[str, str | bytes], ...] = (),
    ) -> NoReturn: ...


def _metadata(error: StreamdgpError) -> dict[str, str]:
    parts = {name: str(getattr(error, name))[:_MAX_TEXT] for name in _PARTS}
    return {**{name: value[:_MAX_TEXT] for name, value in error.metadata.items()}, **parts}


def _rebuild(cls: type[StreamdgpError], message: str, metadata: dict[str, str]) -> StreamdgpError:
    facts = {name: value for name, value in metadata.items() if name not in _PARTS}
    if metadata.get("wanted"):
        return cls(metadata["wanted"], metadata.get("got", ""), metadata.get("remedy", ""), metadata=facts)
    return cls(message, metadata=facts)


def abort_arguments(
    error: StreamdgpError,
) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]]:
    """Return code, message and trailing metadata with which a call ends for this error."""
    code = next(code for cls, code in _CODES if isinstance(error, cls))
    message = str(error)[: 2 * _MAX_TEXT]
    status = status_pb2.Status(code=code.value[0], message=message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=_metadata(error))
    status.details.add().Pack(info)
    if isinstance(error, InvalidInputError):
        bad = error_details_pb2.BadRequest()
        bad.field_violations.add(field=error.metadata.get("field", ""), description=message[:_MAX_TEXT])
        status.details.add().Pack(bad)
    elif isinstance(error, ResourceLimitError):
        quota = error_details_pb2.QuotaFailure()
        quota.violations.add(subject=error.metadata.get("subject", ""), description=message[:_MAX_TEXT])
        status.details.add().Pack(quota)
    elif isinstance(error, ServerUnavailableError):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.seconds = RETRY_DELAY_S
        status.details.add().Pack(retry)
    return code, message, ((DETAILS_KEY, status.SerializeToString()),)


async def abort(context: _Aborting, error: StreamdgpError) -> NoReturn:
    """End a grpc.aio call for this error."""
    code, message, trailing_metadata = abort_arguments(error)
    await context.abort(code, message, trailing_metadata)


def error_from_rpc(error: grpc.RpcError, server: str = "the server") -> StreamdgpError:
    """Return the exception that a failed call stands for (its cause is left to ``raise ... from``)."""
    call = cast("grpc.Call", error)  # every RpcError of a client is one, in grpc and in grpc.aio
    code, message = call.code(), call.details() or ""
    for key, value in call.trailing_metadata() or ():
        if key != DETAILS_KEY:
            continue
        info = _error_info(value)
        if info is not None and info.reason in _CLASS_OF_REASON:
            return _rebuild(_CLASS_OF_REASON[info.reason], message, dict(info.metadata))
    name = code.name
    cls = _CLASS_OF_CODE.get(code, StreamdgpError)
    if code is grpc.StatusCode.INTERNAL and message == _LOST_CONNECTION:
        cls, message = ServerUnavailableError, "the connection broke while something was sent"
    if cls is ServerUnavailableError:
        return cls(
            f"an answer of {server}", f"{name}: {message}", "Check the address and that the server runs."
        )
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return cls(
            f"a call that {server} knows", f"{name}: {message}", "Client and server differ in version."
        )
    return cls(f"{server} to answer", f"{name}: {message}", "See the server's log.")


def _error_info(data: str | bytes) -> error_details_pb2.ErrorInfo | None:
    try:
        status = status_pb2.Status.FromString(data if isinstance(data, bytes) else data.encode())
    except DecodeError:
        return None
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            return info
    return None


def is_retryable(error: StreamdgpError) -> bool:
    """True when the same call may succeed later without any change."""
    return isinstance(error, ServerUnavailableError)


def rejection_from_error(
    error: StreamdgpError, sequence_number: int, *, number_consumed: bool
) -> ingest_service_pb2.FrameRejected:
    """Return the in-band message that a frame was refused for this error."""
    return ingest_service_pb2.FrameRejected(
        sequence_number=sequence_number,
        reason=error.reason,
        message=str(error)[: 2 * _MAX_TEXT],
        metadata=_metadata(error),
        number_consumed=number_consumed,
    )


def error_from_rejection(message: ingest_service_pb2.FrameRejected) -> StreamdgpError:
    """Return the exception that a rejection stands for."""
    cls = _CLASS_OF_REASON.get(message.reason, StreamdgpError)
    return _rebuild(cls, message.message, dict(message.metadata))
