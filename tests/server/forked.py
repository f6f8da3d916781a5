"""A server process that has not to load everything again: forked from one that has.

It runs the command's own main module with its arguments, environment and streams, like a process that was
executed; tests start some two hundred, and to load torch is most of what each of them would do.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.reduction import DupFd
from typing import IO, Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.server.preloaded"])


class _Descriptor:
    """A file descriptor on its way to a process that is being started."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (DupFd(self._number),)


def _received(sent: Any) -> int:
    return int(sent.detach())


def _run(module: str, arguments: list[str], environment: dict[str, str], folder: str, streams: Any) -> None:
    for number, stream in zip((1, 2), streams, strict=True):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class ForkedProcess:
    """What tests use of ``subprocess.Popen``: ``python -m module`` with its standard output in a pipe."""

    def __init__(
        self, module: str, arguments: Sequence[str], environment: Mapping[str, str], stderr: IO[str]
    ) -> None:
        read, write = os.pipe()
        streams = (_Descriptor(write), _Descriptor(stderr.fileno()))
        self._process = _CONTEXT.Process(
            target=_run,
            args=(module, list(arguments), dict(environment), str(os.getcwd()), streams),
            daemon=True,
        )
        self._process.start()
        # Before multiprocessing waits for its processes, without end, at the end of this one.
        atexit.register(self.kill)
        os.close(write)
        self.stdout = os.fdopen(read)

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        # It may have ended although we have not been told yet.
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        atexit.unregister(self.kill)
        return code
