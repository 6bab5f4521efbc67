"""The C interface by ctypes, where a test needs what torch-npu does not offer."""

from __future__ import annotations

import ctypes
import threading
from types import TracebackType

import torch

runtime = ctypes.CDLL("libascendcl.so")
HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
PATIENCE = 60.0
"""Seconds after which a gate that nobody opens opens itself: a failing test does not hang."""

QUERY_COMPLETE = 0
SUCCESS = 0


class Gate:
    """Holds a stream: what is put on it afterwards runs only once the gate is open."""

    def __init__(self, stream: torch.npu.Stream) -> None:
        self._open = threading.Event()
        self._function = HOST_FUNCTION(lambda _: self._open.wait(PATIENCE) and None)
        code = runtime.aclrtLaunchHostFunc(ctypes.c_void_p(stream.npu_stream), self._function, None)
        assert code == SUCCESS
        self._stream = stream

    def open(self) -> None:
        self._open.set()

    def __enter__(self) -> Gate:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.open()
        self._stream.synchronize()


def stream_is_idle(stream: torch.npu.Stream) -> bool:
    status = ctypes.c_int(-1)
    assert (
        runtime.aclrtStreamQuery(ctypes.c_void_p(stream.npu_stream), ctypes.byref(status))
        == SUCCESS
    )
    return status.value == QUERY_COMPLETE
