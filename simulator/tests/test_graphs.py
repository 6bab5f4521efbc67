"""Captured graphs: capture, replay, branches, updates, and what a capture refuses."""

from __future__ import annotations

import ctypes
import gc
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch_npu
from cannsim import counters

from simulator.tests.acl import SUCCESS, Gate, runtime

GLOBAL, THREAD_LOCAL, RELAXED = 0, 1, 2
CAPTURE_DEPENDENCY, UNJOINED, MODEL_CAPTURED, STREAM_CAPTURED, EVENT_CAPTURED = range(
    107024, 107029
)
MODE_NOT_SUPPORTED, IMPLICIT, CONFLICT, GROUP_STATUS = range(107030, 107034)
RUNNING, WRONG_THREAD = 107037, 107038
UPDATE_FAILED = 107040
INVALIDATED = 507903


@pytest.fixture(scope="module", autouse=True)
def no_memory_left() -> Iterator[None]:
    """Frees the graphs' pools here: a later free would wait for the streams that its test holds."""
    yield
    gc.collect()
    torch.npu.empty_cache()


@pytest.fixture(autouse=True)
def default_stream() -> Iterator[None]:
    """torch.npu.graph leaves its stream current when the end of the capture fails."""
    yield
    torch.npu.set_stream(torch.npu.default_stream())


def capture(body: Callable[[], object], **options: object) -> tuple[torch.npu.NPUGraph, object]:
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph, **options):
        made = body()
    return graph, made


def handle(stream: torch.npu.Stream) -> ctypes.c_void_p:
    return ctypes.c_void_p(stream.npu_stream)


@contextmanager
def capturing(stream: torch.npu.Stream, mode: int = GLOBAL) -> Iterator[ctypes.c_void_p]:
    """A capture by the C interface; ends it, whatever the end says."""
    assert runtime.aclmdlRICaptureBegin(handle(stream), mode) == SUCCESS
    model = ctypes.c_void_p()
    try:
        yield model
    finally:
        if runtime.aclmdlRICaptureEnd(handle(stream), ctypes.byref(model)) == SUCCESS:
            runtime.aclmdlRIDestroy(model)


def message() -> str:
    runtime.aclGetRecentErrMsg.restype = ctypes.c_char_p
    return runtime.aclGetRecentErrMsg().decode()


class TestReplay:
    def test_a_capture_runs_nothing_and_each_replay_everything(self) -> None:
        x = torch.arange(6.0, device="npu").view(2, 3)
        total = torch.zeros(2, 2, device="npu")
        graph, _ = capture(lambda: total.add_(x @ x.t()))
        assert total.cpu().tolist() == [[0, 0], [0, 0]]
        expected = torch.zeros(2, 2)
        for factor in (1.0, -2.0, 0.5):
            x.copy_(torch.arange(6.0).view(2, 3) * factor)
            graph.replay()
            expected += (x @ x.t()).cpu()
            assert torch.equal(total.cpu(), expected)

    def test_a_replay_is_ordered_on_its_stream(self) -> None:
        x = torch.zeros(4, device="npu")
        graph, _ = capture(lambda: x.add_(1))
        stream = torch.npu.Stream()
        with Gate(stream) as gate:
            with torch.npu.stream(stream):
                graph.replay()
                x.mul_(10)
                graph.replay()
            assert x.cpu().tolist() == [0] * 4
            gate.open()
        assert x.cpu().tolist() == [11] * 4

    def test_replays_on_two_streams_follow_each_other(self) -> None:
        x = torch.zeros(1000, device="npu")
        graph, _ = capture(lambda: [x.add_(1) for _ in range(20)])
        streams = [torch.npu.Stream() for _ in range(2)]
        torch.npu.synchronize()
        for i in range(40):
            with torch.npu.stream(streams[i % 2]):
                graph.replay()
        torch.npu.synchronize()
        assert x.cpu().unique().tolist() == [800]

    def test_it_counts_as_a_replay(self) -> None:
        x = torch.zeros(4, device="npu")
        before = counters.snapshot()
        graph, _ = capture(lambda: x.add_(1).mul_(2))
        for _ in range(5):
            graph.replay()
        torch.npu.synchronize()
        done = counters.difference(counters.snapshot(), before)
        assert done["graphs"] == {"captures": 1, "replays": 5}

    def test_page_locked_copies_happen_at_each_replay(self) -> None:
        source, target = torch.zeros(4).pin_memory(), torch.zeros(4).pin_memory()
        x = torch.zeros(4, device="npu")

        def body() -> None:
            x.copy_(source, non_blocking=True)
            target.copy_(x + 1, non_blocking=True)

        graph, _ = capture(body)
        for value in (3.0, 5.0):
            source.fill_(value)
            graph.replay()
            torch.npu.synchronize()
            assert target.tolist() == [value + 1] * 4

    def test_random_numbers_differ_between_replays_and_repeat_with_the_seed(self) -> None:
        def body() -> tuple[torch.Tensor, ...]:
            kept = torch.nn.functional.dropout(torch.ones(4000, device="npu"), 0.25)
            return torch.randn(4000, device="npu"), torch.rand(4000, device="npu"), kept

        def draw() -> list[torch.Tensor]:
            graph.replay()
            return [made.cpu() for made in outputs]

        graph, outputs = capture(body)
        torch.npu.manual_seed(11)
        first, second = draw(), draw()
        torch.npu.manual_seed(11)
        again = draw()
        for a, b, c in zip(first, second, again, strict=True):
            assert not torch.equal(a, b)
            assert torch.equal(a, c)
        assert abs(first[0].mean()) < 0.1
        assert abs(first[0].std() - 1) < 0.1
        assert abs(first[1].mean() - 0.5) < 0.05
        assert abs((first[2] == 0).float().mean() - 0.25) < 0.05

    def test_an_error_in_a_replay_is_told_at_the_wait(self) -> None:
        x, index = torch.zeros(4, 2, device="npu"), torch.zeros(2, dtype=torch.int64, device="npu")
        graph, _ = capture(lambda: x.index_select(0, index))
        graph.replay()
        torch.npu.synchronize()
        index.fill_(9)
        graph.replay()
        with pytest.raises(RuntimeError, match="in the replay of graph"):
            torch.npu.synchronize()

    def test_graphs_share_a_pool(self) -> None:
        x = torch.ones(1 << 20, device="npu")
        first, _ = capture(lambda: x.add(1).sum())
        reserved = torch.npu.memory_reserved()
        second, out = capture(lambda: x.add(2).sum(), pool=first.pool())
        assert torch.npu.memory_reserved() == reserved
        second.replay()
        assert out.item() == 3 * (1 << 20)

    def test_it_cannot_be_destroyed_while_it_runs(self) -> None:
        stream = torch.npu.Stream()
        other = torch.npu.Stream()
        assert runtime.aclmdlRICaptureBegin(handle(stream), GLOBAL) == SUCCESS
        model = ctypes.c_void_p()
        assert runtime.aclmdlRICaptureEnd(handle(stream), ctypes.byref(model)) == SUCCESS
        with Gate(other) as gate:
            assert runtime.aclmdlRIExecuteAsync(model, handle(other)) == SUCCESS
            assert runtime.aclmdlRIDestroy(model) == RUNNING
            gate.open()
        assert runtime.aclmdlRIDestroy(model) == SUCCESS
        assert runtime.aclmdlRIDestroy(model) != SUCCESS, "destroyed twice"
        assert runtime.aclmdlRIExecuteAsync(model, handle(other)) != SUCCESS

    def test_graphed_callables_train(self) -> None:
        torch.manual_seed(0)
        module = torch.nn.Linear(6, 3)
        x = torch.randn(4, 6)
        eager = module(x)
        eager.square().sum().backward()
        expected = [x.grad for x in module.parameters()]

        device = torch.nn.Linear(6, 3).npu()
        device.load_state_dict(module.state_dict())
        sample = torch.randn(4, 6, device="npu")
        graphed = torch.npu.make_graphed_callables(device, (sample,))
        for parameter in device.parameters():
            parameter.grad = None
        out = graphed(x.npu())
        torch.testing.assert_close(out.cpu(), eager.detach())
        out.square().sum().backward()
        for parameter, gradient in zip(device.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad.cpu(), gradient)

    def test_it_can_be_printed_as_a_trace(self, tmp_path: Path) -> None:
        x = torch.zeros(4, device="npu")
        graph, _ = capture(lambda: x.add_(1).mul_(2))
        graph.debug_dump(str(tmp_path / "graph.json"))
        events = json.loads((tmp_path / "graph.json").read_text())
        assert [event["args"]["Stream Id"] for event in events] == [0, 0]
        assert (tmp_path / "graph.aligned.json").exists()


class TestBranches:
    def test_a_stream_that_waits_for_a_captured_event_joins(self) -> None:
        side = torch.npu.Stream()
        x = torch.ones(4, device="npu")

        def body() -> torch.Tensor:
            main = torch.npu.current_stream()
            y = x * 2
            side.wait_stream(main)
            with torch.npu.stream(side):
                z = y + 5
            w = y * 10
            main.wait_stream(side)
            return z + w

        graph, out = capture(body)
        for value in (1.0, 3.0):
            x.fill_(value)
            graph.replay()
            assert out.cpu().tolist() == [value * 22 + 5] * 4

    def test_branches_run_at_the_same_time(self) -> None:
        """Each branch waits for the other's host function: only side by side can both finish."""
        side = torch.npu.Stream()
        both = threading.Barrier(2)
        met: list[int] = []
        meet = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: met.append(both.wait(30)) and None)

        def body() -> None:
            main = torch.npu.current_stream()
            side.wait_stream(main)
            runtime.aclrtLaunchHostFunc(handle(side), meet, None)
            runtime.aclrtLaunchHostFunc(handle(main), meet, None)
            main.wait_stream(side)

        graph, _ = capture(body)
        for _ in range(3):
            graph.replay()
        torch.npu.synchronize()
        assert sorted(met) == [0, 0, 0, 1, 1, 1]

    def test_a_stream_is_free_again_after_the_capture(self) -> None:
        side = torch.npu.Stream()
        x = torch.zeros(4, device="npu")

        def body() -> None:
            side.wait_stream(torch.npu.current_stream())
            with torch.npu.stream(side):
                x.add_(1)
            torch.npu.current_stream().wait_stream(side)

        capture(body)
        with torch.npu.stream(side):
            x.add_(7)
        side.synchronize()
        assert x.cpu().tolist() == [7] * 4

    def test_an_unjoined_stream_is_refused(self) -> None:
        side = torch.npu.Stream()
        x = torch.zeros(4, device="npu")

        def body() -> None:
            side.wait_stream(torch.npu.current_stream())
            with torch.npu.stream(side):
                x.add_(1)

        with pytest.raises(RuntimeError, match=str(UNJOINED)):
            capture(body)
        with torch.npu.stream(side):
            assert x.add_(1).cpu().tolist() == [1] * 4

    def test_an_external_event_holds_a_replay(self) -> None:
        x = torch.zeros(4, device="npu")
        event = torch.npu.ExternalEvent()

        def body() -> None:
            event.wait(torch.npu.current_stream())
            event.reset(torch.npu.current_stream())
            x.add_(1)

        graph, _ = capture(body)
        stream, other = torch.npu.Stream(), torch.npu.Stream()
        for expected in (1, 2):
            with torch.npu.stream(stream):
                graph.replay()
            assert not stream.query()
            event.record(other)
            stream.synchronize()
            assert x.cpu().tolist() == [expected] * 4

    def test_a_conditional_branch(self) -> None:
        pred = torch.tensor(True, device="npu")
        x = torch.zeros(4, device="npu")
        graph = torch.npu.NPUGraph()
        with torch.npu.graph(graph):
            x.add_(1)
            graph.begin_capture_to_if_node(pred)
            x.add_(100)
            graph.end_capture_to_conditional_node()
            x.mul_(2)
        for choice, expected in ((True, 202), (False, 406), (True, 1014)):
            pred.fill_(choice)
            graph.replay()
            assert x.cpu().tolist() == [expected] * 4


class TestUpdates:
    def test_arguments_of_a_task_group_are_updated(self) -> None:
        x, out = torch.ones(4, device="npu"), torch.zeros(4, device="npu")
        side = torch.npu.Stream()

        def body() -> object:
            stream = torch.npu.current_stream()
            torch.npu.graph_task_group_begin(stream)
            torch.add(x, 2.0, out=out)
            group = torch.npu.graph_task_group_end(stream)
            out.mul_(10)
            return group

        graph, group = capture(body)
        graph.replay()
        assert out.cpu().tolist() == [30] * 4
        for value in (4.0, 8.0):
            with torch.npu.stream(side):
                torch.npu.graph_task_update_begin(side, group)
                torch.add(x, value, out=out)
                torch.npu.graph_task_update_end(side)
            side.synchronize()
            assert out.cpu().tolist() != [(1 + value) * 10] * 4, "an update runs nothing"
            graph.replay()
            assert out.cpu().tolist() == [(1 + value) * 10] * 4

    def test_a_replay_that_waits_sees_the_update(self) -> None:
        """As engines do it: replay, then update and record the event that the graph awaits."""
        x, out = torch.ones(4, device="npu"), torch.zeros(4, device="npu")
        side, event = torch.npu.Stream(), torch.npu.ExternalEvent()

        def body() -> object:
            stream = torch.npu.current_stream()
            event.wait(stream)
            event.reset(stream)
            torch.npu.graph_task_group_begin(stream)
            torch.add(x, 2.0, out=out)
            return torch.npu.graph_task_group_end(stream)

        graph, group = capture(body)
        for value in (4.0, 8.0):
            graph.replay()
            with torch.npu.stream(side):
                torch.npu.graph_task_update_begin(side, group)
                torch.add(x, value, out=out)
                torch.npu.graph_task_update_end(side)
                event.record(side)
            torch.npu.synchronize()
            assert out.cpu().tolist() == [1 + value] * 4

    def test_lengths_of_captured_attention_are_updated(self) -> None:
        heads, width, most = 2, 16, 32
        torch.manual_seed(5)
        query = torch.randn(1, 1, heads * width, dtype=torch.float16)
        key, value = (torch.randn(1, most, heads * width, dtype=torch.float16) for _ in range(2))
        q, k, v = query.npu(), key.npu(), value.npu()
        graph = torch.npu.NPUGraph()
        with torch.npu.graph(graph, auto_dispatch_capture=True):
            out, _ = torch_npu.npu_fused_infer_attention_score(
                q,
                k,
                v,
                num_heads=heads,
                input_layout="BSH",
                scale=width**-0.5,
                actual_seq_lengths_kv=[most],
            )
        for length in (7, 19, 32):
            graph.replay()
            graph.update(cpu_update_input=[{"actual_seq_lengths_kv": [length]}])
            torch.npu.synchronize()
            split = [
                t.float()[0].view(-1, heads, width).transpose(0, 1) for t in (query, key, value)
            ]
            weights = torch.softmax(split[0] @ split[1][:, :length].mT * width**-0.5, -1)
            expected = (weights @ split[2][:, :length]).transpose(0, 1).reshape(1, 1, -1)
            torch.testing.assert_close(out.cpu().float(), expected, atol=2e-3, rtol=2e-3)

    def test_another_number_of_tasks_is_refused(self) -> None:
        x, out, side = torch.ones(4, device="npu"), torch.zeros(4, device="npu"), torch.npu.Stream()

        def body() -> object:
            torch.npu.graph_task_group_begin(torch.npu.current_stream())
            torch.add(x, 2.0, out=out)
            return torch.npu.graph_task_group_end(torch.npu.current_stream())

        graph, group = capture(body)
        torch.npu.graph_task_update_begin(side, group)
        with pytest.raises(RuntimeError, match=str(UPDATE_FAILED)):
            torch.npu.graph_task_update_end(side)
        graph.replay()
        assert out.cpu().tolist() == [3] * 4

    def test_groups_must_be_paired(self) -> None:
        stream = torch.npu.Stream()
        group = ctypes.c_void_p()
        with capturing(stream):
            assert (
                runtime.aclmdlRICaptureTaskGrpEnd(handle(stream), ctypes.byref(group))
                == GROUP_STATUS
            )
            assert runtime.aclmdlRICaptureTaskGrpBegin(handle(stream)) == SUCCESS
            assert runtime.aclmdlRICaptureTaskGrpBegin(handle(stream)) == GROUP_STATUS
        assert runtime.aclmdlRICaptureTaskGrpBegin(handle(stream)) == 107029
        assert runtime.aclmdlRICaptureTaskUpdateEnd(handle(stream)) == GROUP_STATUS


class TestRefusals:
    """What fails in a capture, with the codes of CANN's table."""

    def test_reading_a_value_waits_for_the_captured_stream(self) -> None:
        x = torch.ones(4, device="npu")
        with pytest.raises(RuntimeError, match=f"error code is {STREAM_CAPTURED}"):
            capture(lambda: x.sum().item())
        with pytest.raises(RuntimeError, match=f"error code is {MODE_NOT_SUPPORTED}"):
            capture(x.cpu)
        assert x.sum().item() == 4, "the device goes on"

    def test_waiting_and_asking(self) -> None:
        stream = torch.npu.Stream()
        event = torch.npu.Event()
        with capturing(stream):
            event.record(stream)
            with pytest.raises(RuntimeError, match=str(STREAM_CAPTURED)):
                stream.synchronize()
            assert "is captured" in message()
            with pytest.raises(RuntimeError, match=str(EVENT_CAPTURED)):
                event.query()
            with pytest.raises(RuntimeError, match=str(EVENT_CAPTURED)):
                event.synchronize()
            assert runtime.aclrtSynchronizeDevice() == STREAM_CAPTURED
            status = ctypes.c_int()
            assert runtime.aclrtStreamQuery(handle(stream), ctypes.byref(status)) == STREAM_CAPTURED
            assert runtime.aclrtDestroyStream(handle(stream)) == STREAM_CAPTURED
            assert runtime.aclmdlRICaptureBegin(handle(stream), GLOBAL) == STREAM_CAPTURED
        stream.synchronize()

    def test_dependencies_on_what_is_not_captured(self) -> None:
        stream, other = torch.npu.Stream(), torch.npu.Stream()
        outside, inside = torch.npu.Event(), torch.npu.Event()
        outside.record(other)
        model = ctypes.c_void_p()
        assert runtime.aclmdlRICaptureBegin(handle(stream), GLOBAL) == SUCCESS
        with pytest.raises(RuntimeError, match=str(CAPTURE_DEPENDENCY)):
            stream.wait_event(outside)
        status = ctypes.c_int()
        runtime.aclmdlRICaptureGetInfo(handle(stream), ctypes.byref(status), ctypes.byref(model))
        assert status.value == 2, "invalidated"
        assert runtime.aclmdlRICaptureEnd(handle(stream), ctypes.byref(model)) == INVALIDATED
        with capturing(stream):
            inside.record(stream)
            event = ctypes.c_void_p(inside.npu_event)
            assert runtime.aclrtStreamWaitEvent(None, event) == IMPLICIT
        with capturing(stream), capturing(other):
            inside.record(stream)
            with pytest.raises(RuntimeError, match=str(CONFLICT)):
                other.wait_event(inside)

    def test_the_default_stream(self) -> None:
        assert runtime.aclmdlRICaptureBegin(None, GLOBAL) == IMPLICIT

    @pytest.mark.parametrize(
        ("mode", "thread_mode", "here", "elsewhere"),
        [
            (GLOBAL, GLOBAL, MODE_NOT_SUPPORTED, MODE_NOT_SUPPORTED),
            (GLOBAL, RELAXED, SUCCESS, SUCCESS),
            (GLOBAL, THREAD_LOCAL, MODE_NOT_SUPPORTED, SUCCESS),
            (THREAD_LOCAL, GLOBAL, MODE_NOT_SUPPORTED, SUCCESS),
            (THREAD_LOCAL, RELAXED, SUCCESS, SUCCESS),
            (RELAXED, GLOBAL, SUCCESS, SUCCESS),
        ],
    )
    def test_synchronous_copies_by_mode(
        self, mode: int, thread_mode: int, here: int, elsewhere: int
    ) -> None:
        stream = torch.npu.Stream()
        x = torch.zeros(4, device="npu")
        source = (ctypes.c_float * 4)(1, 2, 3, 4)
        size = ctypes.c_size_t(16)
        found: dict[str, int] = {}

        def copy(name: str) -> None:
            torch.npu.set_device(0)
            wanted = ctypes.c_int(thread_mode)
            runtime.aclmdlRICaptureThreadExchangeMode(ctypes.byref(wanted))
            assert wanted.value == GLOBAL, "the thread's mode until now"
            found[name] = runtime.aclrtMemcpy(ctypes.c_void_p(x.data_ptr()), size, source, size, 1)
            runtime.aclmdlRICaptureThreadExchangeMode(ctypes.byref(wanted))

        with capturing(stream, mode):
            copy("here")
            thread = threading.Thread(target=copy, args=("elsewhere",))
            thread.start()
            thread.join()
        assert found == {"here": here, "elsewhere": elsewhere}

    def test_it_ends_in_the_thread_where_it_began(self) -> None:
        found: list[int] = []
        for mode in (GLOBAL, RELAXED):
            stream = torch.npu.Stream()
            assert runtime.aclmdlRICaptureBegin(handle(stream), mode) == SUCCESS

            def end(stream: torch.npu.Stream = stream) -> None:
                torch.npu.set_device(0)
                model = ctypes.c_void_p()
                found.append(runtime.aclmdlRICaptureEnd(handle(stream), ctypes.byref(model)))

            thread = threading.Thread(target=end)
            thread.start()
            thread.join()
        assert found == [WRONG_THREAD, SUCCESS]

    def test_a_graph_under_capture_cannot_run(self) -> None:
        stream, other = torch.npu.Stream(), torch.npu.Stream()
        status, model = ctypes.c_int(), ctypes.c_void_p()
        with capturing(stream):
            runtime.aclmdlRICaptureGetInfo(
                handle(stream), ctypes.byref(status), ctypes.byref(model)
            )
            assert runtime.aclmdlRIExecuteAsync(model, handle(other)) == MODEL_CAPTURED
            assert runtime.aclmdlRIDestroy(model) == MODEL_CAPTURED
