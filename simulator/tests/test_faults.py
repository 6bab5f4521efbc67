"""Faults on request: each with the code that CANN gives, and what torch-npu makes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from cannsim import faults

from simulator.tests.acl import stream_is_idle


def run(program: str, wanted: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", f"import torch\n{program}"],
        env=os.environ | {"CANNSIM_FAULTS": wanted} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


class TestGrammar:
    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("operator-eror", "did you mean operator-error"),
            ("slow:delay=5", "did you mean delay-us"),
            ("out-of-memory:launch=3", "key of out-of-memory 'launch'"),
            ("bit-flip:bit=x", "bit=x is not a whole number"),
            ("kill:launch=0", "launch=0 is not a whole number from 1"),
            ("hang:device=63", "devices are visible"),
            ("hang:device", "is not key=value"),
        ],
    )
    def test_a_fault_that_is_not_well_formed_is_told(self, text: str, told: str) -> None:
        with pytest.raises(faults.FaultError, match=told):
            faults.check(text)
        program = "import ctypes; ctypes.CDLL('libascendcl.so').aclrtSetDevice(0)"
        done = subprocess.run(
            [sys.executable, "-S", "-c", program],
            env=os.environ | {"CANNSIM_FAULTS": text},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert told in done.stderr

    def test_faults_end_with_their_block(self) -> None:
        with faults.inject("operator-error:operator=aclnnNeg", "slow:delay-us=1"):
            assert faults.struck() == [0, 0]
        assert faults.struck() == []
        assert torch.ones(2, device="npu").neg().sum().item() == -2


class TestOperators:
    def test_the_nth_launch_fails_at_the_wait(self) -> None:
        x = torch.ones(4, device="npu")
        with faults.inject("operator-error:operator=aclnnMul,launch=3"):
            for _ in range(2):
                x.mul(x)
            torch.npu.synchronize()
            x.mul(x)
            with pytest.raises(RuntimeError, match="507015"):
                torch.npu.synchronize()
            assert faults.struck() == [1]
            assert x.mul(x).sum().item() == 4, "once"

    def test_another_code(self) -> None:
        with faults.inject("operator-error:code=507034"):
            torch.ones(2, device="npu").neg()
            with pytest.raises(RuntimeError, match="507034"):
                torch.npu.synchronize()

    def test_only_the_named_device(self) -> None:
        with faults.inject("operator-error:device=1,operator=aclnnNeg,times=0"):
            assert torch.ones(2, device="npu:0").neg().sum().item() == -2
            torch.ones(2, device="npu:1").neg()
            with pytest.raises(RuntimeError, match="507015"):
                torch.npu.synchronize(1)
            torch.npu.set_device(0)

    def test_a_flipped_bit_corrupts_one_element(self) -> None:
        x = torch.full((8,), 3.0, device="npu")
        with faults.inject("bit-flip:operator=aclnnMuls,launch=2,bit=31"):
            first, second = (x * 2).cpu(), (x * 2).cpu()
        assert first.tolist() == [6.0] * 8
        assert second.tolist() == [-6.0] + [6.0] * 7

    def test_in_a_replay(self) -> None:
        x = torch.ones(4, device="npu")
        graph = torch.npu.NPUGraph()
        with torch.npu.graph(graph):
            y = x * 3
        with faults.inject("operator-error:operator=aclnnMuls,launch=2"):
            graph.replay()
            assert y.sum().item() == 12
            graph.replay()
            with pytest.raises(RuntimeError, match="507015"):
                torch.npu.synchronize()

    def test_a_hang_holds_its_stream_until_it_is_cleared(self) -> None:
        stream = torch.npu.Stream()
        x = torch.ones(4, device="npu")
        torch.npu.synchronize()
        with faults.inject("hang:operator=aclnnMuls"):
            with torch.npu.stream(stream):
                y = x * 5
            for _ in range(20):
                assert not stream_is_idle(stream)
                assert x.sum().item() == 4, "other streams go on"
        stream.synchronize()
        assert y.sum().item() == 20

    def test_a_slow_device_takes_longer_by_its_own_clock(self) -> None:
        first, last = (torch.npu.Event(enable_timing=True) for _ in range(2))
        x = torch.ones(4, device="npu")
        with faults.inject("slow:delay-us=2000"):
            first.record()
            for _ in range(10):
                x.neg_()
            last.record()
            torch.npu.synchronize()
        assert first.elapsed_time(last) >= 20


class TestMemory:
    def test_the_nth_allocation_is_refused(self) -> None:
        size = 32 << 20
        torch.npu.empty_cache()
        with faults.inject("out-of-memory:allocation=2,times=0"):
            kept = torch.empty(size, dtype=torch.uint8, device="npu")
            with pytest.raises(torch.OutOfMemoryError):
                torch.empty(size, dtype=torch.uint8, device="npu")
        again = torch.ones(size, dtype=torch.uint8, device="npu")
        assert again[-1].item() == 1
        del kept

    def test_torch_frees_its_cache_and_tries_again(self) -> None:
        torch.npu.empty_cache()
        with faults.inject("out-of-memory"):
            torch.empty(32 << 20, dtype=torch.uint8, device="npu")
            assert faults.struck() == [1]


class TestProcesses:
    def test_a_killed_process(self) -> None:
        done = run(
            "x = torch.ones(2, device='npu')\nwhile True: x = x.neg()",
            "kill:operator=aclnnNeg,launch=50",
        )
        assert done.returncode == -signal.SIGKILL

    def test_only_the_named_rank(self) -> None:
        program = "print(torch.ones(2, device='npu').neg().sum().item())"
        for rank, expected in (("0", 0), ("1", -signal.SIGKILL)):
            assert run(program, "kill:operator=aclnnNeg,rank=1", RANK=rank).returncode == expected

    def test_a_lost_device_stays_lost(self) -> None:
        done = run(
            """
import ctypes, json
runtime = ctypes.CDLL("libascendcl.so")
x = torch.ones(2, device="npu:1")
told = []
for _ in range(3):
    try:
        x = x.neg()
        torch.npu.synchronize(1)
        told.append("")
    except RuntimeError as error:
        told.append(str(error))
good = torch.ones(3, device="npu:0").sum().item()
assert runtime.aclrtResetDevice(1) == 0
assert runtime.aclrtSetDevice(1) == 0
print(json.dumps({"told": told, "good": good, "reset": runtime.aclrtSynchronizeDevice()}))
""",
            "device-lost:operator=aclnnNeg,launch=2",
            TASK_QUEUE_ENABLE="0",
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["told"][0] == ""
        assert all("507010" in told for told in found["told"][1:])
        assert found["good"] == 3
        assert found["reset"] == 0
