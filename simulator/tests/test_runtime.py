"""Devices, streams, events, copies and memory: the device runs apart from the host."""

from __future__ import annotations

import ctypes
import os
import threading

import pytest
import torch
import torch_npu  # noqa: F401
from cannsim import counters

from simulator.tests.acl import HOST_FUNCTION, SUCCESS, Gate, runtime, stream_is_idle

MIB = 1 << 20


@pytest.fixture
def stream() -> torch.npu.Stream:
    return torch.npu.Stream()


class TestDevices:
    def test_there_are_as_many_as_configured(self) -> None:
        assert torch.npu.device_count() == int(os.environ["CANNSIM_DEVICES"])

    def test_their_name_is_the_chip(self) -> None:
        assert torch.npu.get_device_name(0) == os.environ["CANNSIM_CHIP"]

    def test_each_thread_has_its_own(self) -> None:
        both = threading.Barrier(2)
        found: dict[int, tuple[int, int]] = {}

        def work(device: int) -> None:
            torch.npu.set_device(device)
            both.wait()  # the other thread has set its device by now
            x = torch.ones(3, device="npu")
            found[device] = torch.npu.current_device(), x.device.index

        threads = [threading.Thread(target=work, args=(device,)) for device in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == {0: (0, 0), 1: (1, 1)}

    def test_a_device_that_does_not_exist_is_refused(self) -> None:
        with pytest.raises(RuntimeError, match="device"):
            torch.npu.set_device(torch.npu.device_count())

    def test_tensors_move_between_devices(self) -> None:
        x = torch.arange(12.0, device="npu:0").view(3, 4)
        y = x.to("npu:1")
        assert y.device.index == 1
        assert torch.equal(y.cpu(), x.cpu())
        assert torch.equal((y.t().contiguous().to("npu:0") - x.t()).cpu(), torch.zeros(4, 3))


class TestOrder:
    def test_the_host_goes_on_while_the_device_waits(self, stream: torch.npu.Stream) -> None:
        x = torch.zeros(4, device="npu")
        torch.npu.synchronize()
        with Gate(stream) as gate:
            with torch.npu.stream(stream):
                x.fill_(3)
            assert not stream_is_idle(stream)
            assert not stream.query()
            assert x.cpu().tolist() == [0] * 4, "the copy on another stream overtakes"
            gate.open()
            stream.synchronize()
            assert stream.query()
        assert x.cpu().tolist() == [3] * 4

    def test_an_event_makes_one_stream_wait_for_another(self, stream: torch.npu.Stream) -> None:
        other = torch.npu.Stream()
        x, y = torch.zeros(4, device="npu"), torch.zeros(4, device="npu")
        torch.npu.synchronize()
        event = torch.npu.Event()
        with Gate(stream) as gate:
            with torch.npu.stream(stream):
                x.fill_(5)
                event.record()
            other.wait_event(event)
            with torch.npu.stream(other):
                y.copy_(x)
            assert not event.query()
            assert not other.query()
            gate.open()
            other.synchronize()
            assert event.query()
        assert y.cpu().tolist() == [5] * 4

    def test_a_stream_that_was_not_told_to_wait_does_not(self, stream: torch.npu.Stream) -> None:
        """The mistake that this simulator is to show: a missing wait_event reads old data."""
        other = torch.npu.Stream()
        x, y = torch.zeros(4, device="npu"), torch.ones(4, device="npu")
        torch.npu.synchronize()
        with Gate(stream):
            with torch.npu.stream(stream):
                x.fill_(5)
            with torch.npu.stream(other):
                y.copy_(x)
            other.synchronize()
            assert y.cpu().tolist() == [0] * 4

    def test_wait_stream(self, stream: torch.npu.Stream) -> None:
        x = torch.zeros(4, device="npu")
        torch.npu.synchronize()
        with Gate(stream) as gate:
            with torch.npu.stream(stream):
                x.fill_(2)
            torch.npu.current_stream().wait_stream(stream)
            y = x + 1
            gate.open()
        assert y.cpu().tolist() == [3] * 4

    def test_an_event_recorded_again_is_waited_for_again(self, stream: torch.npu.Stream) -> None:
        event = torch.npu.Event()
        event.record(stream)
        event.synchronize()
        assert event.query()
        with Gate(stream) as gate:
            event.record(stream)
            assert not event.query()
            gate.open()
            event.synchronize()
            assert event.query()

    def test_an_event_never_recorded_is_complete(self) -> None:
        assert torch.npu.Event().query()

    def test_elapsed_time_is_the_time_between_two_points_of_the_device(
        self, stream: torch.npu.Stream
    ) -> None:
        first, second, third = (torch.npu.Event(enable_timing=True) for _ in range(3))
        first.record(stream)
        with Gate(stream) as gate:
            second.record(stream)
            gate.open()
        third.record(stream)
        stream.synchronize()
        assert first.elapsed_time(second) >= 0
        assert second.elapsed_time(third) >= 0
        total = first.elapsed_time(second) + second.elapsed_time(third)
        assert first.elapsed_time(third) == pytest.approx(total, abs=1e-3)

    def test_synchronising_the_device_waits_for_every_stream(self) -> None:
        streams = [torch.npu.Stream() for _ in range(3)]
        x = torch.zeros(3, device="npu")
        torch.npu.synchronize()
        gates = [Gate(stream) for stream in streams]
        for i, stream in enumerate(streams):
            with torch.npu.stream(stream):
                x[i].fill_(i + 1)
        for gate in gates:
            gate.open()
        torch.npu.synchronize()
        assert all(stream.query() for stream in streams)
        assert x.cpu().tolist() == [1, 2, 3]


class TestCopies:
    def test_page_locked_memory_is_read_when_the_copy_runs(self, stream: torch.npu.Stream) -> None:
        """Overwriting the source of a copy that has not run yet changes what arrives."""
        source = torch.full((4,), 1.0).pin_memory()
        target = torch.zeros(4, device="npu")
        torch.npu.synchronize()
        with Gate(stream) as gate:
            with torch.npu.stream(stream):
                target.copy_(source, non_blocking=True)
            source.fill_(2.0)
            gate.open()
            stream.synchronize()
        assert target.cpu().tolist() == [2.0] * 4

    def test_pageable_memory_is_read_at_the_call(self, stream: torch.npu.Stream) -> None:
        source = torch.full((4,), 1.0)
        target = torch.zeros(4, device="npu")
        torch.npu.synchronize()
        with Gate(stream) as gate:
            code = runtime.aclrtMemcpyAsync(
                ctypes.c_void_p(target.data_ptr()),
                ctypes.c_size_t(16),
                ctypes.c_void_p(source.data_ptr()),
                ctypes.c_size_t(16),
                1,  # ACL_MEMCPY_HOST_TO_DEVICE
                ctypes.c_void_p(stream.npu_stream),
            )
            assert code == SUCCESS
            source.fill_(2.0)
            gate.open()
            stream.synchronize()
        assert target.cpu().tolist() == [1.0] * 4

    def test_results_arrive_in_page_locked_memory_when_the_copy_runs(
        self, stream: torch.npu.Stream
    ) -> None:
        source = torch.full((4,), 7.0, device="npu")
        target = torch.zeros(4).pin_memory()
        torch.npu.synchronize()
        with Gate(stream) as gate:
            with torch.npu.stream(stream):
                target.copy_(source, non_blocking=True)
            assert target.tolist() == [0.0] * 4
            gate.open()
            stream.synchronize()
        assert target.tolist() == [7.0] * 4

    def test_a_blocking_copy_has_arrived(self) -> None:
        x = torch.randn(1000, 100)
        assert torch.equal((x.npu() * 2).cpu(), x * 2)

    def test_pin_memory_is_page_locked(self) -> None:
        x = torch.zeros(10)
        assert not x.is_pinned()
        assert x.pin_memory().is_pinned()


class TestMemory:
    def test_allocated_memory_is_counted(self) -> None:
        before = torch.npu.memory_allocated()
        x = torch.empty(8 * MIB, dtype=torch.uint8, device="npu")
        assert 8 * MIB <= torch.npu.memory_allocated() - before < 9 * MIB
        assert torch.npu.max_memory_allocated() >= before + 8 * MIB
        del x
        assert torch.npu.memory_allocated() == before

    def test_the_device_counts_what_torch_has_reserved(self) -> None:
        torch.npu.empty_cache()
        free, total = torch.npu.mem_get_info()
        assert total == torch.npu.get_device_properties(0).total_memory
        x = torch.empty(100 * MIB, dtype=torch.uint8, device="npu")
        assert 100 * MIB <= free - torch.npu.mem_get_info()[0] < 130 * MIB
        del x
        assert torch.npu.mem_get_info()[0] < free, "torch keeps freed memory"
        torch.npu.empty_cache()
        assert torch.npu.mem_get_info()[0] == free

    def test_devices_count_apart(self) -> None:
        before = torch.npu.memory_allocated(1)
        x = torch.empty(4 * MIB, dtype=torch.uint8, device="npu:0")
        assert torch.npu.memory_allocated(1) == before
        del x

    def test_freeing_waits_for_the_device(self, stream: torch.npu.Stream) -> None:
        address = ctypes.c_void_p()
        assert runtime.aclrtMalloc(ctypes.byref(address), ctypes.c_size_t(MIB), 0) == SUCCESS
        done = threading.Event()

        def free() -> None:
            torch.npu.set_device(0)
            runtime.aclrtFree(address)
            done.set()

        with Gate(stream) as gate:
            thread = threading.Thread(target=free)
            thread.start()
            # Never true while the gate is shut, however long one waits.
            assert not done.wait(0.05)
            gate.open()
            thread.join()
        assert done.is_set()
        assert runtime.aclrtFree(address) != SUCCESS, "freed twice"

    def test_more_than_the_device_has_is_refused(self) -> None:
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(1 << 40, dtype=torch.uint8, device="npu")
        assert torch.ones(3, device="npu").sum().item() == 3


def test_an_operators_error_is_told_at_the_wait_and_only_once() -> None:
    x = torch.zeros(4, 2, device="npu")
    index = torch.tensor([0, 9], device="npu")
    x.index_select(0, index)
    with pytest.raises(RuntimeError, match="index out of range"):
        torch.npu.synchronize()
    torch.npu.synchronize()
    assert x.sum().item() == 0


class TestCounters:
    def test_launches_bytes_copies_and_waits_are_exact(self) -> None:
        x = torch.ones(8, 4, device="npu")
        torch.npu.synchronize()
        before = counters.snapshot()
        y = x + x
        y.cpu()
        torch.npu.synchronize()
        after = counters.difference(counters.snapshot(), before)
        ran = {name: tally for name, tally in after["launches"].items() if tally["count"]}
        assert list(ran) == ["aclnnAdd"]
        assert (ran["aclnnAdd"]["count"], ran["aclnnAdd"]["bytes"]) == (1, 3 * 8 * 4 * 4)
        assert after["copies"]["device_to_host"] == {"count": 1, "bytes": 128}
        assert after["copies"]["host_to_device"]["count"] == 0
        assert after["synchronizations"]["device"] == 1

    def test_the_same_work_counts_the_same(self) -> None:
        def work() -> counters.Counters:
            before = counters.snapshot()
            x = torch.arange(12, dtype=torch.float32).npu().view(3, 4)
            torch.softmax(x @ x.t(), -1).sum().item()
            return counters.difference(counters.snapshot(), before)["launches"]

        work()
        assert work() == work()

    def test_reset_starts_again_at_zero(self) -> None:
        torch.ones(2, device="npu").neg_()
        torch.npu.synchronize()  # torch-npu launches from a queue of its own
        counters.reset()
        made = counters.snapshot()
        assert made["launches"] == {}
        assert made["allocations"] == 0


class TestArguments:
    def test_a_negative_stride_is_refused_with_a_message(self) -> None:
        library = ctypes.CDLL("libopapi.so")
        x = torch.ones(4, device="npu")
        library.aclCreateTensor.restype = ctypes.c_void_p
        sizes, strides = (ctypes.c_int64 * 1)(4), (ctypes.c_int64 * 1)(-1)
        tensor = library.aclCreateTensor(
            sizes,
            ctypes.c_uint64(1),
            0,
            strides,
            ctypes.c_int64(3),
            2,
            sizes,
            ctypes.c_uint64(1),
            ctypes.c_void_p(x.data_ptr()),
        )
        size, executor = ctypes.c_uint64(), ctypes.c_void_p()
        code = library.aclnnAbsGetWorkspaceSize(
            ctypes.c_void_p(tensor),
            ctypes.c_void_p(tensor),
            ctypes.byref(size),
            ctypes.byref(executor),
        )
        runtime.aclGetRecentErrMsg.restype = ctypes.c_char_p
        assert code == 161002  # ACLNN_ERR_PARAM_INVALID
        assert b"aclnnAbs: a tensor with a negative stride" in runtime.aclGetRecentErrMsg()
        library.aclDestroyTensor(ctypes.c_void_p(tensor))


class TestPriorities:
    """Streams of priority 0 (first) to 7, as aclrtCreateStreamWithConfig takes them."""

    @staticmethod
    def of(stream: ctypes.c_void_p) -> int:
        found = ctypes.c_uint32(99)
        assert runtime.aclrtStreamGetPriority(stream, ctypes.byref(found)) == SUCCESS
        return found.value

    @pytest.mark.parametrize("priority", [0, 3, 7])
    def test_a_stream_keeps_its_own_and_gives_way_to_others(self, priority: int) -> None:
        stream = ctypes.c_void_p()
        created = runtime.aclrtCreateStreamWithConfig(ctypes.byref(stream), priority, 0)
        assert created == SUCCESS
        niceness: list[int] = []
        ask = HOST_FUNCTION(lambda _: niceness.append(os.getpriority(os.PRIO_PROCESS, 0)))
        try:
            assert self.of(stream) == priority
            assert runtime.aclrtLaunchHostFunc(stream, ask, None) == SUCCESS
            assert runtime.aclrtSynchronizeStream(stream) == SUCCESS
        finally:
            assert runtime.aclrtDestroyStream(stream) == SUCCESS
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert niceness == [max(own, priority)]

    def test_one_below_the_range_is_refused(self) -> None:
        stream = ctypes.c_void_p()
        assert runtime.aclrtCreateStreamWithConfig(ctypes.byref(stream), 8, 0) != SUCCESS
        message = runtime.aclGetRecentErrMsg
        message.restype = ctypes.c_char_p
        assert b"stream priority 8: from 0 (first) to 7" in message()

    def test_the_range_is_told(self) -> None:
        least, greatest = ctypes.c_int32(-1), ctypes.c_int32(-1)
        told = runtime.aclrtDeviceGetStreamPriorityRange(
            ctypes.byref(least), ctypes.byref(greatest)
        )
        assert (told, least.value, greatest.value) == (SUCCESS, 7, 0)
