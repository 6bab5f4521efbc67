"""HCCL's C interface by ctypes, where a test needs what torch.distributed does not offer."""

from __future__ import annotations

import ctypes
import os
import time
from ctypes import byref, c_char, c_char_p, c_int, c_int32, c_uint32, c_uint64, c_void_p
from pathlib import Path

import torch

library = ctypes.CDLL("libhccl.so")
runtime = ctypes.CDLL("libascendcl.so")
runtime.aclGetRecentErrMsg.restype = c_char_p

SUCCESS, PARA, PTR, NOT_SUPPORT, NOT_FOUND, UNAVAIL, TIMEOUT = 0, 1, 2, 5, 6, 7, 9
OPEN_FILE, TCP_CONNECT, TCP_TRANSFER, REMOTE, OOM = 10, 11, 13, 21, 24
STREAM_TIMED_OUT = 507048
"""ACL's code on a stream on which a collective has waited in vain."""

TYPES = {
    torch.int8: 0, torch.int16: 1, torch.int32: 2, torch.float16: 3, torch.float32: 4,
    torch.int64: 5, torch.uint64: 6, torch.uint8: 7, torch.uint16: 8, torch.uint32: 9,
    torch.float64: 10, torch.bfloat16: 11,
}  # fmt: skip
SUM, PROD, MAX, MIN = range(4)


class HcclError(RuntimeError):
    """A call that failed: ``code`` is HCCL's, the message ACL's most recent one."""

    def __init__(self, call: str, code: int) -> None:
        self.code = code
        super().__init__(f"{call}: {code}: {message()}")


def message() -> str:
    return runtime.aclGetRecentErrMsg().decode()


def call(name: str, *arguments: object) -> None:
    """Calls a function of libhccl.so; raises HcclError unless it succeeds."""
    code = getattr(library, name)(*arguments)
    if code != SUCCESS:
        raise HcclError(name, code)


class RootInfo(ctypes.Structure):
    """Opaque, as HCCL's: 4108 bytes that the root hands to the others."""

    _fields_ = (("internal", c_char * 4108),)


def root_info() -> RootInfo:
    made = RootInfo()
    call("HcclGetRootInfo", byref(made))
    return made


def share(key: str, rank: int, made: RootInfo | None) -> RootInfo:
    """The root's information, passed through a file beside the ranks' store."""
    path = Path(f"{os.environ['STORE']}.{key}")
    if made is not None:
        part = path.with_suffix(".part")
        part.write_bytes(bytes(made))
        part.rename(path)
        return made
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"rank {rank} waited for the root's information"
        time.sleep(0.002)
    return RootInfo.from_buffer_copy(path.read_bytes())


class Communicator:
    """A handle, and the calls on it with tensors for buffers and the current stream."""

    def __init__(self, handle: c_void_p) -> None:
        self.handle = handle

    @classmethod
    def join(cls, key: str, rank: int, count: int) -> Communicator:
        info = share(key, rank, root_info() if rank == 0 else None)
        return cls.init(info, rank, count)

    @classmethod
    def init(cls, info: RootInfo, rank: int, count: int) -> Communicator:
        handle = c_void_p()
        call("HcclCommInitRootInfo", c_uint32(count), byref(info), c_uint32(rank), byref(handle))
        return cls(handle)

    def subgroup(self, ranks: list[int], number: int, rank: int) -> Communicator:
        made, ids = c_void_p(), (c_uint32 * len(ranks))(*ranks)
        call(
            "HcclCreateSubCommConfig", byref(self.handle), c_uint32(len(ranks)), ids,
            c_uint64(number), c_uint32(rank), None, byref(made),
        )  # fmt: skip
        return Communicator(made)

    def run(self, name: str, *arguments: object) -> None:
        """Puts a collective on the current stream. Tensors become addresses, lists arrays of
        64-bit counts, dtypes HCCL's types; the communicator and the stream come last.
        """
        stream = c_void_p(torch.npu.current_stream().npu_stream)
        call(name, *(_c(one) for one in arguments), self.handle, stream)

    def text(self, function: str) -> str:
        buffer = ctypes.create_string_buffer(128)
        call(function, self.handle, buffer)
        return buffer.value.decode()

    def error(self) -> int:
        found = c_int(-1)
        call("HcclGetCommAsyncError", self.handle, byref(found))
        return found.value

    def destroy(self) -> None:
        call("HcclCommDestroy", self.handle)


class Item(ctypes.Structure):
    """HcclSendRecvItem."""

    _fields_ = (
        ("kind", c_int),
        ("buffer", c_void_p),
        ("count", c_uint64),
        ("type", c_int),
        ("peer", c_uint32),
    )


def items(*rows: tuple[str, torch.Tensor, int]) -> ctypes.Array[Item]:
    """Items of HcclBatchSendRecv: ("send" or "receive", tensor, peer)."""
    made = [
        Item(int(kind == "receive"), tensor.data_ptr(), tensor.numel(), TYPES[tensor.dtype], peer)
        for kind, tensor, peer in rows
    ]
    return (Item * len(made))(*made)


class Narrow(int):
    """An integer that C takes as 32 bits: a root, a peer, an operation."""


def _c(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return c_void_p(value.data_ptr())
    if isinstance(value, torch.dtype):
        return c_int(TYPES[value])
    if isinstance(value, Narrow):
        return c_uint32(value)
    if isinstance(value, int):
        return c_uint64(value)
    if isinstance(value, list):
        return (c_uint64 * len(value))(*value)
    return value


def init_all(devices: list[int]) -> list[Communicator]:
    """One communicator for each device of this process."""
    made = (c_void_p * len(devices))()
    call("HcclCommInitAll", c_uint32(len(devices)), (c_int32 * len(devices))(*devices), made)
    return [Communicator(c_void_p(handle)) for handle in made]
