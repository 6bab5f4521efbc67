"""Virtual memory, expandable segments, and devices that are full."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from simulator.tests.acl import SUCCESS, runtime

MIB = 1 << 20
PAGE = 2 * MIB
INVALID, BAD_HANDLE, FULL = 107000, 107017, 207001


class Location(ctypes.Structure):
    _fields_ = (("id", ctypes.c_uint32), ("type", ctypes.c_uint32))


class Properties(ctypes.Structure):
    _fields_ = (
        ("handle_type", ctypes.c_uint32),
        ("allocation_type", ctypes.c_uint32),
        ("attribute", ctypes.c_uint32),
        ("location", Location),
        ("reserve", ctypes.c_uint64),
    )


def properties(device: int = 0) -> Properties:
    return Properties(0, 0, 4, Location(device, 1), 0)  # ACL_HBM_MEM_HUGE, on a device


def allocate(size: int, device: int = 0) -> tuple[int, ctypes.c_void_p]:
    block = ctypes.c_void_p()
    made = runtime.aclrtMallocPhysical(
        ctypes.byref(block), ctypes.c_size_t(size), ctypes.byref(properties(device)), 0
    )
    return made, block


def map_memory(address: int, size: int, block: ctypes.c_void_p) -> int:
    return runtime.aclrtMapMem(
        ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_size_t(0), block, 0
    )


def unmap(address: int) -> int:
    return runtime.aclrtUnmapMem(ctypes.c_void_p(address))


def run_with_expandable_segments(program: str, **environment: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def reserved() -> Iterator[int]:
    address = ctypes.c_void_p()
    code = runtime.aclrtReserveMemAddress(
        ctypes.byref(address), ctypes.c_size_t(16 * PAGE), ctypes.c_size_t(0), None, 0
    )
    assert code == SUCCESS
    yield address.value or 0
    runtime.aclrtReleaseMemAddress(address)


class TestVirtualMemory:
    def test_physical_memory_counts_and_addresses_do_not(self, reserved: int) -> None:
        free = torch.npu.mem_get_info()[0]
        code, block = allocate(4 * PAGE)
        assert code == SUCCESS
        assert free - torch.npu.mem_get_info()[0] == 4 * PAGE
        assert map_memory(reserved, 4 * PAGE, block) == SUCCESS
        assert runtime.aclrtFreePhysical(block) == SUCCESS
        assert free - torch.npu.mem_get_info()[0] == 4 * PAGE, "it is still mapped"
        assert unmap(reserved) == SUCCESS
        assert torch.npu.mem_get_info()[0] == free

    def test_one_block_at_two_addresses_is_the_same_memory(self, reserved: int) -> None:
        _, block = allocate(PAGE)
        first, second = reserved, reserved + 3 * PAGE
        for address in (first, second):
            assert map_memory(address, PAGE, block) == SUCCESS
        ctypes.memset(first, 0x5A, PAGE)
        assert ctypes.string_at(second, PAGE) == b"\x5a" * PAGE
        for address in (first, second):
            assert unmap(address) == SUCCESS
        assert runtime.aclrtFreePhysical(block) == SUCCESS

    def test_contents_move_with_the_block(self, reserved: int) -> None:
        """What sleep modes rely on: unmapped and mapped elsewhere, the bytes are there."""
        _, block = allocate(PAGE)
        map_memory(reserved, PAGE, block)
        ctypes.memmove(reserved, b"kept", 4)
        assert unmap(reserved) == SUCCESS
        assert map_memory(reserved + 5 * PAGE, PAGE, block) == SUCCESS
        assert ctypes.string_at(reserved + 5 * PAGE, 4) == b"kept"
        unmap(reserved + 5 * PAGE)
        runtime.aclrtFreePhysical(block)

    def test_what_is_refused(self, reserved: int) -> None:
        assert allocate(PAGE + 4096)[0] == INVALID, "no multiple of the granularity"
        assert allocate(PAGE, device=63)[0] == 107001
        _, block = allocate(PAGE)
        assert map_memory(reserved, 2 * PAGE, block) == INVALID, "more than the block"
        assert map_memory(reserved + 16 * PAGE, PAGE, block) == INVALID, "outside"
        assert map_memory(reserved + 4096, PAGE, block) == INVALID, "not aligned"
        assert map_memory(reserved, PAGE, block) == SUCCESS
        assert map_memory(reserved, PAGE, block) == INVALID, "mapped already"
        assert runtime.aclrtReleaseMemAddress(ctypes.c_void_p(reserved)) == INVALID, "still mapped"
        assert unmap(reserved) == SUCCESS
        assert unmap(reserved) == INVALID
        assert runtime.aclrtFreePhysical(block) == SUCCESS
        assert runtime.aclrtFreePhysical(block) == BAD_HANDLE

    def test_a_full_device_has_no_block(self) -> None:
        total = torch.npu.mem_get_info()[1]
        assert allocate(total + PAGE)[0] == FULL
        runtime.aclGetRecentErrMsg.restype = ctypes.c_char_p
        assert b"out of memory on device 0" in runtime.aclGetRecentErrMsg()

    def test_the_granularity_is_a_huge_page(self) -> None:
        size = ctypes.c_size_t()
        wanted = properties()
        code = runtime.aclrtMemGetAllocationGranularity(ctypes.byref(wanted), 0, ctypes.byref(size))
        assert (code, size.value) == (SUCCESS, PAGE)


class TestExpandableSegments:
    def test_a_segment_grows_and_shrinks(self) -> None:
        found = run_with_expandable_segments("""
import json, torch
MIB = 1 << 20
torch.zeros(1, device="npu")
free = torch.npu.mem_get_info()[0]
small = torch.arange(1 << 18, device="npu", dtype=torch.float32)
parts = [torch.full((30 * MIB,), i, dtype=torch.uint8, device="npu") for i in range(4)]
sums = [part[-1].item() for part in parts]
segments = [s for s in torch.npu.memory_snapshot() if s["is_expandable"]]
used = free - torch.npu.mem_get_info()[0]
del parts
torch.npu.empty_cache()
left = free - torch.npu.mem_get_info()[0]
big = torch.ones(50 * MIB, device="npu")
big.zero_()
print(json.dumps({"sums": sums, "segments": len(segments), "used": used // MIB, "left": left // MIB,
                  "small": small.sum().item(), "zero": big.sum().item()}))
""")
        assert found["sums"] == [0, 1, 2, 3]
        assert found["segments"] >= 1
        assert found["used"] >= 120
        assert found["left"] < 60
        assert found["small"] == pytest.approx((1 << 18) * ((1 << 18) - 1) / 2, rel=1e-6)
        assert found["zero"] == 0

    def test_a_small_device_runs_out_and_goes_on(self) -> None:
        found = run_with_expandable_segments(
            """
import json, torch
MIB = 1 << 20
kept = [torch.ones(64 * MIB, dtype=torch.uint8, device="npu") for _ in range(3)]
try:
    torch.empty(128 * MIB, dtype=torch.uint8, device="npu")
    refused = ""
except torch.OutOfMemoryError as error:
    refused = str(error)
total = torch.npu.mem_get_info()[1]
kept.clear()
again = torch.ones(150 * MIB, dtype=torch.uint8, device="npu")
print(json.dumps({"refused": refused, "total": total, "last": again[-1].item()}))
""",
            CANNSIM_DEVICE_MEMORY=str(256 * MIB),
        )
        assert "NPU out of memory" in found["refused"]
        assert found["total"] == 256 * MIB
        assert found["last"] == 1


def test_resetting_a_device_gives_its_memory_back() -> None:
    device = 1
    torch.npu.synchronize(device)
    torch.npu.set_device(device)
    before = torch.npu.mem_get_info(device)[0]
    address = ctypes.c_void_p()
    assert runtime.aclrtMalloc(ctypes.byref(address), ctypes.c_size_t(8 * MIB), 0) == SUCCESS
    assert before - torch.npu.mem_get_info(device)[0] == 8 * MIB
    code = subprocess.run(
        [
            sys.executable,
            "-c",
            """
import ctypes, torch
torch.zeros(1, device="npu:1")
free, total = torch.npu.mem_get_info(1)
assert free < total
assert ctypes.CDLL("libascendcl.so").aclrtResetDevice(1) == 0
assert torch.npu.mem_get_info(1) == (total, total)
""",
        ],
        timeout=120,
        check=False,
    ).returncode
    assert code == 0
    assert runtime.aclrtFree(address) == SUCCESS
    assert torch.npu.mem_get_info(device)[0] == before
