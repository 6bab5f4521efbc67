"""Counters of a block, modelled time, timelines, the profiler, and paced mode."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import cannsim
import pytest
import torch
from cannsim.environment import profiles

ROOT = Path(__file__).parents[2]
LIMIT = 180


def run(program: str, *options: str, **variables: str) -> dict[str, Any]:
    """What a program of observed.py found under ``options`` of `cannsim run`."""
    removed = ("CANNSIM_", "ASCEND_", "TASK_QUEUE")
    base = {k: v for k, v in os.environ.items() if not k.startswith(removed)}
    module = [sys.executable, "-m", "simulator.tests.observed", *program.split()]
    ran = subprocess.run(
        [sys.executable, "-m", "cannsim", "run", *options, "--", *module],
        cwd=ROOT,
        env=base | variables,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert ran.returncode == 0, ran.stderr
    line = next(line for line in ran.stdout.splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))


class TestBlock:
    def test_a_product_counts_its_operations_and_operands(self) -> None:
        m, k, n = 8, 16, 4
        a, b = torch.ones(m, k, device="npu"), torch.ones(k, n, device="npu")
        with cannsim.counters() as c:
            a @ b
        assert c.launches == {"aclnnMatmul": 1}
        assert c.flops == 2 * m * k * n
        assert c.bytes_read == 4 * (m * k + k * n)
        assert c.bytes_written == 4 * m * n

    def test_an_operator_in_place_reads_what_it_writes(self) -> None:
        x = torch.ones(100, device="npu")
        with cannsim.counters() as c:
            x.add_(1)
        assert (c.bytes_read, c.bytes_written, c.flops) == (400, 400, 100)

    def test_a_look_up_reads_its_rows_and_not_the_table(self) -> None:
        table = torch.ones(1000, 8, device="npu")
        rows = torch.tensor([3, 5], device="npu")
        with cannsim.counters() as c:
            torch.nn.functional.embedding(rows, table)
        assert c.bytes_read == 2 * 8 * 4 + 2 * 8
        assert c.bytes_written == 2 * 8 * 4

    def test_a_convolution_is_a_product_for_each_output(self) -> None:
        x, w = torch.ones(2, 3, 8, 8, device="npu"), torch.ones(5, 3, 3, 3, device="npu")
        with cannsim.counters() as c:
            y = torch.nn.functional.conv2d(x, w)
        assert c.raw["launches"]["aclnnConvolution"]["flops"] == 2 * y.numel() * 3 * 3 * 3

    def test_streams_are_apart_and_sum_to_the_whole(self) -> None:
        x = torch.ones(4, device="npu")
        stream = torch.npu.Stream()
        with cannsim.counters() as c:
            x + x
            with torch.npu.stream(stream):
                x * x
        launches = [stream["launches"].items() for stream in c.streams.values()]
        parts = [Counter({name: e["count"] for name, e in of_one}) for of_one in launches]
        assert len([part for part in parts if part.total()]) == 2
        assert sum(parts, Counter()) == Counter({"aclnnAdd": 1, "aclnnMul": 1})

    def test_steps_sum_to_the_block(self) -> None:
        x = torch.ones(4, device="npu")
        with cannsim.counters() as c:
            x + x
            first = c.step("first")
            x * x
            x * x
            x.cpu()
            second = c.step()
        assert first.launches == {"aclnnAdd": 1}
        assert second.launches == {"aclnnMul": 2}
        assert c.launches == {"aclnnAdd": 1, "aclnnMul": 2}
        assert first.synchronizations["device"] == 0
        for kind, count in c.synchronizations.items():
            assert first.synchronizations[kind] + second.synchronizations[kind] == count

    def test_the_counting_itself_is_not_counted(self) -> None:
        with cannsim.counters() as c:
            pass
        assert c.synchronizations == {"stream": 0, "device": 0, "event": 0}
        assert c.launches == {}

    def test_the_line_that_waits_is_named_on_request(self) -> None:
        x = torch.ones(4, device="npu")
        with cannsim.counters(lines=True) as c:
            x.sum().item()
            torch.npu.synchronize()
        by_kind = {line.kind: line for line in c.lines}
        assert Path(by_kind["stream"].file) == Path(__file__)
        assert by_kind["device"].line == by_kind["stream"].line + 1
        assert by_kind["device"].function == "test_the_line_that_waits_is_named_on_request"
        assert sum(c.lines.values()) == sum(c.synchronizations.values())

    def test_without_the_request_no_line_is_noted(self) -> None:
        with cannsim.counters() as c:
            torch.ones(4, device="npu").sum().item()
        assert not c.lines

    def test_the_module_keeps_its_functions(self) -> None:
        before = cannsim.counters.snapshot()
        after = cannsim.counters.snapshot()
        changed = cannsim.counters.difference(after, before)
        assert not any(entry["count"] for entry in changed["launches"].values())


class TestModel:
    def test_a_large_product_takes_what_the_profile_says(self) -> None:
        size = 512
        a = torch.ones(size, size, device="npu", dtype=torch.float16)
        with cannsim.counters() as c:
            a @ a
        chip = {k: v["value"] for k, v in profiles("chips")["Ascend910B1"].items() if "value" in v}
        arithmetic = 2 * size**3 / chip["cube_float16_flops"]
        traffic = 3 * size * size * 2 / chip["hbm_bytes_per_second"]
        seconds = chip["launch_ns"] / 1e9 + max(arithmetic, traffic) / chip["efficiency"]
        assert c.modelled_seconds == pytest.approx(seconds, abs=2e-9)

    def test_more_bytes_take_longer(self) -> None:
        def modelled(elements: int) -> float:
            x = torch.ones(elements, device="npu")
            with cannsim.counters() as c:
                x + x
            return c.modelled_seconds

        assert modelled(1 << 20) > modelled(1 << 10)


class TestPaced:
    def test_the_host_goes_on_while_the_device_works(self) -> None:
        slower = 1000
        found = run("overlap", CANNSIM_PACED=str(slower))
        assert found["done"] >= 0.95 * slower * found["modelled"]
        assert found["launched"] < found["done"] / 2

    def test_a_missing_wait_gives_wrong_data(self) -> None:
        found = run("race without", CANNSIM_PACED="500")
        assert found["result"] == [100.0] * 16
        assert found["seen"] != found["result"]

    def test_with_the_wait_the_data_are_right(self) -> None:
        found = run("race wait", CANNSIM_PACED="500")
        assert found["seen"] == found["result"] == [100.0] * 16


# ---- timelines ----------------------------------------------------------------------------------

REQUIRED = {
    "X": {"name", "pid", "tid", "ts", "dur"},
    "M": {"name", "pid", "args"},
    "C": {"name", "pid", "ts", "args"},
    "s": {"name", "cat", "id", "pid", "tid", "ts"},
    "f": {"name", "cat", "id", "pid", "tid", "ts", "bp"},
}
"""Keys of each phase in Chrome's trace-event format."""


def check_trace(events: list[dict[str, Any]]) -> None:
    """What the trace-event format (and Perfetto's import of it) asks of a trace."""
    begun: dict[Any, dict[str, Any]] = {}
    for event in events:
        assert REQUIRED[event["ph"]] <= event.keys(), event
        assert isinstance(event["pid"], int)
        assert event["pid"] < 2**31
        if event["ph"] in ("X", "s", "f", "C"):
            assert float(event["ts"]) >= 0
        if event["ph"] == "X":
            assert float(event["dur"]) > 0
        if event["ph"] == "s":
            begun[event["id"]] = event
    slices = {(e["pid"], e["tid"], e["ts"]) for e in events if e["ph"] == "X"}
    ends = [event for event in events if event["ph"] == "f"]
    for end in ends:
        begin = begun.pop(end["id"])
        assert float(begin["ts"]) <= float(end["ts"])
        for side in (begin, end):
            assert (side["pid"], side["tid"], side["ts"]) in slices
    named = {(e["pid"], e.get("tid")) for e in events if e["name"] == "thread_name"}
    assert {(e["pid"], e["tid"]) for e in events if e["ph"] == "X"} <= named


class TestTimeline:
    def test_a_block_has_its_launches_runs_and_waits(self, tmp_path: Path) -> None:
        x = torch.ones(8, 8, device="npu")
        with cannsim.timeline(tmp_path / "trace.json") as path:
            (x @ x).cpu()
        events = json.loads(path.read_text())
        check_trace(events)
        device = [e for e in events if e["ph"] == "X" and e["cat"] in ("operator", "copy")]
        assert [e["name"] for e in device if e["cat"] == "operator"] == ["aclnnMatmul"]
        assert device[0]["args"]["flops"] == 2 * 8 * 8 * 8
        assert device[0]["args"]["modelled_ns"] > 0
        assert {"wait for stream", "aclrtMemcpy"} & {e["name"] for e in events}
        processes = {e["args"]["name"] for e in events if e["name"] == "process_name"}
        assert processes == {"host", "NPU 0 (Ascend910B1, simulated)"}

    def test_a_program_leaves_one_with_its_streams(self, tmp_path: Path) -> None:
        run("work", "--timeline", str(tmp_path))
        (file,) = tmp_path.glob("timeline.*.json")
        events = json.loads(file.read_text())
        check_trace(events)
        product = next(e for e in events if e["name"] == "aclnnMatmul" and e["cat"] == "operator")
        added = next(e for e in events if e["name"] == "aclnnAdds" and e["cat"] == "operator")
        assert product["tid"] != added["tid"]

    def test_a_path_that_cannot_be_written_is_refused(self, tmp_path: Path) -> None:
        with (
            pytest.raises(OSError, match="cannot write a timeline"),
            cannsim.timeline(tmp_path / "missing" / "trace.json"),
        ):
            pass


def test_the_profiler_of_torch_npu_writes_its_views(tmp_path: Path) -> None:
    """kernel_details.csv, operator_details.csv and a trace in which operators point to kernels."""
    run(f"profile {tmp_path}")
    (output,) = tmp_path.glob("*_ascend_pt/ASCEND_PROFILER_OUTPUT")
    with (output / "kernel_details.csv").open() as file:
        kernels = list(csv.DictReader(file))
    assert [row["Type"] for row in kernels] == ["Matmul", "Softmax", "ReduceSum"]
    assert all(float(row["Duration(us)"]) > 0 for row in kernels)
    with (output / "operator_details.csv").open() as file:
        operators = {row["Name"]: row for row in csv.DictReader(file)}
    total = float(operators["aten::matmul"]["Device Total Duration(us)"])
    assert total == pytest.approx(float(kernels[0]["Duration(us)"]), abs=0.01)
    trace = json.loads((output / "trace_view.json").read_text())
    assert sum(e.get("cat") == "async_npu" and e["ph"] == "f" for e in trace) == len(kernels)


def test_a_run_of_the_profiler_is_exported_as_a_trace(tmp_path: Path) -> None:
    run(f"export {tmp_path / 'trace.json'}")
    exported = json.loads((tmp_path / "trace.json").read_text())
    assert any(e["name"] == "Matmul" and e["ph"] == "X" for e in exported)
    assert any(e["name"] == "aten::matmul" for e in exported)
