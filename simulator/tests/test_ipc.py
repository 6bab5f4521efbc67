"""Memory and events that processes share; many processes on many devices."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from simulator.tests.acl import SUCCESS, runtime
from simulator.tests.test_memory import PAGE, allocate, map_memory, unmap

NO_PERMISSION, INVALID = 207006, 107000
ANYONE = ctypes.c_uint64(1)


class Child:
    """A process of its own, started by exec, that runs ``program`` with arguments ``a``."""

    def __init__(self, program: str, *arguments: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import ctypes, sys, os\na = sys.argv[1:]\n{program}"]
            + [str(argument) for argument in arguments],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> int:
        self._process.communicate(timeout=60)
        return self._process.returncode


LOAD = """
runtime = ctypes.CDLL("libascendcl.so")
assert runtime.aclrtSetDevice(0) == 0
"""


def export(address: ctypes.c_void_p, size: int, flag: ctypes.c_uint64) -> str:
    key = ctypes.create_string_buffer(65)
    code = runtime.aclrtIpcMemGetExportKey(address, ctypes.c_size_t(size), key, 65, flag)
    assert code == SUCCESS
    return key.value.decode()


def _add(queue: mp.Queue, answers: mp.Queue) -> None:
    torch.npu.set_device(0)
    tensors = queue.get()
    answers.put([tensor.sum().item() for tensor in tensors])
    for tensor in tensors:
        tensor.add_(1)
    torch.npu.synchronize()
    answers.put("done")
    queue.get()
    del tensors, tensor


class TestMemory:
    def test_torch_multiprocessing_shares_tensors(self) -> None:
        context = mp.get_context("spawn")
        queue, answers = context.Queue(), context.Queue()
        process = context.Process(target=_add, args=(queue, answers))
        process.start()
        base = torch.arange(6.0, device="npu").view(2, 3)
        queue.put([base, base.t()[1], torch.ones(1 << 20, dtype=torch.int32, device="npu")])
        assert answers.get(timeout=90) == [15.0, 5.0, 1 << 20]
        assert answers.get(timeout=90) == "done"
        # The second tensor is a view of the first: its column was counted up twice.
        assert base.cpu().tolist() == [[1, 3, 3], [4, 6, 6]]
        queue.put(None)
        process.join(60)
        assert process.exitcode == 0

    def test_only_named_processes_import(self) -> None:
        address = ctypes.c_void_p()
        runtime.aclrtMalloc(ctypes.byref(address), ctypes.c_size_t(4096), 0)
        ctypes.memmove(address, b"shared", 6)
        key = export(address, 4096, ctypes.c_uint64(0))
        child = Child(
            LOAD
            + """
pid = ctypes.c_int32()
runtime.aclrtDeviceGetBareTgid(ctypes.byref(pid))
found = ctypes.c_void_p()
print(pid.value, flush=True)
print(runtime.aclrtIpcMemImportByKey(ctypes.byref(found), a[0].encode(), 0), flush=True)
sys.stdin.readline()
assert runtime.aclrtIpcMemImportByKey(ctypes.byref(found), a[0].encode(), 0) == 0
print(ctypes.string_at(found, 6).decode(), flush=True)
ctypes.memmove(found, b"SHARED", 6)
assert runtime.aclrtIpcMemClose(a[0].encode()) == 0
assert runtime.aclrtIpcMemClose(a[0].encode()) != 0
""",
            key,
        )
        pid = ctypes.c_int32(int(child.line()))
        assert int(child.line()) == NO_PERMISSION
        assert runtime.aclrtIpcMemSetImportPid(key.encode(), ctypes.byref(pid), 1) == SUCCESS
        child.go_on()
        assert child.line() == "shared"
        assert child.end() == 0
        assert ctypes.string_at(address, 6) == b"SHARED"
        assert runtime.aclrtIpcMemClose(key.encode()) == SUCCESS
        found = ctypes.c_void_p()
        code = runtime.aclrtIpcMemImportByKey(ctypes.byref(found), key.encode(), 0)
        assert code == INVALID, "the key has been closed"
        runtime.aclrtFree(address)

    def test_physical_memory_is_shared_by_handle(self) -> None:
        _, block = allocate(2 * PAGE)
        address, handle = ctypes.c_void_p(), ctypes.c_uint64()
        runtime.aclrtReserveMemAddress(ctypes.byref(address), ctypes.c_size_t(4 * PAGE), 0, None, 0)
        assert map_memory(address.value or 0, 2 * PAGE, block) == SUCCESS
        ctypes.memmove(address, b"physical", 8)
        code = runtime.aclrtMemExportToShareableHandle(block, 0, ANYONE, ctypes.byref(handle))
        assert code == SUCCESS
        child = Child(
            LOAD
            + """
block, address = ctypes.c_void_p(), ctypes.c_void_p()
size = ctypes.c_size_t(1 << 22)
handle = ctypes.c_uint64(int(a[0]))
assert runtime.aclrtMemImportFromShareableHandle(handle, 0, ctypes.byref(block)) == 0
assert runtime.aclrtReserveMemAddress(ctypes.byref(address), size, 0, None, 0) == 0
assert runtime.aclrtMapMem(address, size, 0, block, 0) == 0
print(ctypes.string_at(address, 8).decode(), flush=True)
ctypes.memmove(address, b"PHYSICAL", 8)
assert runtime.aclrtUnmapMem(address) == 0
assert runtime.aclrtFreePhysical(block) == 0
""",
            handle.value,
        )
        assert child.line() == "physical"
        assert child.end() == 0
        assert ctypes.string_at(address, 8) == b"PHYSICAL"
        unmap(address.value or 0)
        runtime.aclrtFreePhysical(block)
        runtime.aclrtReleaseMemAddress(address)

    def test_a_dead_exporter_is_told(self) -> None:
        child = Child(
            LOAD
            + """
address, key = ctypes.c_void_p(), ctypes.create_string_buffer(65)
runtime.aclrtMalloc(ctypes.byref(address), ctypes.c_size_t(4096), 0)
size, anyone = ctypes.c_size_t(4096), ctypes.c_uint64(1)
assert runtime.aclrtIpcMemGetExportKey(address, size, key, 65, anyone) == 0
print(key.value.decode(), flush=True)
os.kill(os.getpid(), 9)
"""
        )
        key = child.line()
        assert child.end() == -9
        found = ctypes.c_void_p()
        assert runtime.aclrtIpcMemImportByKey(ctypes.byref(found), key.encode(), 0) == INVALID

    def test_nothing_is_left_behind(self) -> None:
        child = Child(
            LOAD
            + """
address, key = ctypes.c_void_p(), ctypes.create_string_buffer(65)
runtime.aclrtMalloc(ctypes.byref(address), ctypes.c_size_t(4096), 0)
size, anyone = ctypes.c_size_t(4096), ctypes.c_uint64(1)
assert runtime.aclrtIpcMemGetExportKey(address, size, key, 65, anyone) == 0
print(key.value.decode(), flush=True)
assert os.path.exists("/dev/shm" + key.value.decode())
"""
        )
        key = child.line()
        assert child.end() == 0
        assert not Path(f"/dev/shm{key}").exists()


def test_an_event_orders_two_processes() -> None:
    event = torch.npu.Event(interprocess=True)
    stream = torch.npu.Stream()
    event.record(stream)
    stream.synchronize()
    handle = event.ipc_handle()
    child = Child(
        """
import base64, torch
torch.npu.set_device(0)
event = torch.npu.Event.from_ipc_handle(torch.device("npu:0"), base64.b64decode(a[0]))
stream = torch.npu.Stream()
print("opened", flush=True)
sys.stdin.readline()
stream.wait_event(event)
print("waits" if not stream.query() else "ran", flush=True)
stream.synchronize()
print("ran", flush=True)
""",
        __import__("base64").b64encode(handle).decode(),
    )
    assert child.line() == "opened"
    from simulator.tests.acl import Gate

    with Gate(stream) as gate:
        event.record(stream)
        child.go_on()
        assert child.line() == "waits"
        gate.open()
        assert child.line() == "ran"
    assert child.end() == 0


@pytest.mark.parametrize("devices", [4, 64])
def test_a_process_for_each_device(devices: int) -> None:
    """Each rank works on a device of its own; all at once."""
    program = """
import ctypes, sys
runtime = ctypes.CDLL("libascendcl.so")
device = int(sys.argv[1])
assert runtime.aclrtSetDevice(device) == 0
address = ctypes.c_void_p()
assert runtime.aclrtMalloc(ctypes.byref(address), ctypes.c_size_t(1 << 20), 0) == 0
assert runtime.aclrtMemset(address, ctypes.c_size_t(1 << 20), device, ctypes.c_size_t(1 << 20)) == 0
assert ctypes.string_at(address, 1 << 20) == bytes([device]) * (1 << 20)
"""
    environment = os.environ | {"CANNSIM_DEVICES": str(devices)}
    processes = [
        subprocess.Popen([sys.executable, "-S", "-c", program, str(i)], env=environment)
        for i in range(devices)
    ]
    assert [process.wait(120) for process in processes] == [0] * devices
