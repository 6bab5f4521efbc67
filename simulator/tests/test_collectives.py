"""Collectives between processes, each a rank with a device of its own, against plain formulas."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simulator.tests.ranks import Warm

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    """The parent of all ranks of this file."""
    made = Warm()
    yield made
    made.close()


def check(found: list[Any], least: int = 1) -> None:
    """Every rank that lived made at least ``least`` comparisons, and found nothing wrong."""
    assert any(one is not None for one in found)
    for rank, one in enumerate(found):
        assert one is None or one["wrong"] == [], f"rank {rank}"
        assert one is None or one["made"] >= least


# ---- numbers -------------------------------------------------------------------------------------

REDUCED = ("int8", "int16", "int32", "int64", "float16", "float32", "bfloat16")
MOVED = (*REDUCED, "uint8", "uint16", "uint32", "uint64", "float64")


@pytest.mark.parametrize(
    ("count", "types"),
    [
        pytest.param(2, REDUCED, id="2"),
        pytest.param(4, ("int16", "float16", "bfloat16"), id="4"),
        pytest.param(8, ("float32",), id="8"),
        pytest.param(4, REDUCED, id="4-all", marks=slow),
        pytest.param(5, REDUCED, id="5-all", marks=slow),
        pytest.param(8, REDUCED, id="8-all", marks=slow),
    ],
)
def test_reductions_are_the_formulas_in_the_order_of_ranks(
    count: int, types: tuple[str, ...], warm: Warm
) -> None:
    check(warm.run(count, "collective_programs:reductions", types), 90 * len(types))


@pytest.mark.parametrize(
    ("count", "types"),
    [
        pytest.param(2, MOVED, id="2"),
        pytest.param(4, ("uint8", "float32"), id="4"),
        pytest.param(8, ("bfloat16",), id="8"),
        pytest.param(4, MOVED, id="4-all", marks=slow),
        pytest.param(5, MOVED, id="5-all", marks=slow),
        pytest.param(8, MOVED, id="8-all", marks=slow),
    ],
)
def test_data_arrive_where_they_belong(count: int, types: tuple[str, ...], warm: Warm) -> None:
    check(warm.run(count, "collective_programs:moves", types), 30 * len(types))


# ---- torch.distributed ---------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 4, 8])
def test_torch_distributed_works_over_hccl(count: int, warm: Warm) -> None:
    check(warm.run(count, "distributed_programs:collectives"), 45)


def test_gradients_of_parallel_training_are_those_of_the_whole_batch(warm: Warm) -> None:
    check(warm.run(2, "distributed_programs:parallel_training"), 4)


def test_torch_npus_watchdog_ends_a_process_whose_peer_has_died(warm: Warm) -> None:
    with pytest.raises(AssertionError, match="rank 0 ended with -6"):
        warm.run(2, "distributed_programs:a_peer_dies")


# ---- communicators -------------------------------------------------------------------------------


def test_subgroups_work_beside_their_group(warm: Warm) -> None:
    check(warm.run(4, "group_programs:subgroups"), 13)


def test_a_communicators_own_settings_hold(warm: Warm) -> None:
    check(warm.run(2, "group_programs:configured"), 7)


def test_ranks_meet_by_a_rank_table(warm: Warm) -> None:
    check(warm.run(3, "group_programs:rank_table"), 14)


@pytest.mark.parametrize("number", [1, 3, 8, pytest.param(32, marks=slow)])
def test_devices_of_one_process_are_ranks(number: int, warm: Warm) -> None:
    check(warm.run(1, "group_programs:devices_of_one_process", number), number + 1)


def test_a_child_has_no_part_in_its_parents_communicator(warm: Warm) -> None:
    check(warm.run(2, "group_programs:forked_children"), 5)


def test_destroying_waits_for_what_can_run(warm: Warm) -> None:
    check(warm.run(2, "group_programs:destroyed_early"), 1)


def test_a_collective_runs_in_its_streams_turn(warm: Warm) -> None:
    check(warm.run(2, "group_programs:order"), 5)


def test_collectives_are_counted(warm: Warm) -> None:
    root, other = warm.run(2, "group_programs:counted")
    assert root == {
        "HcclAllReduce": [2, 80],
        "HcclAllGather": [1, 20],
        "HcclReduceScatter": [1, 40],
        "HcclBroadcast": [1, 3],
        "HcclScatter": [1, 6],
        "HcclAlltoAll": [1, 32],
        "HcclBarrier": [1, 0],
        "HcclBatchSendRecv": [1, 160],
    }
    assert other == root | {"HcclScatter": [1, 3]}


def test_threads_drive_communicators_at_once(warm: Warm) -> None:
    check(warm.run(2, "group_programs:threads"))


@pytest.mark.parametrize("turns", [6, pytest.param(200, marks=slow)])
def test_communicators_leave_nothing_behind(turns: int, warm: Warm) -> None:
    before = set(Path("/dev/shm").iterdir())
    check(warm.run(2, "group_programs:many", turns), turns)
    assert not {path for path in set(Path("/dev/shm").iterdir()) - before if "cannsim" in path.name}


# ---- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("waits", ["reduce", "receive", "send", "barrier"])
def test_the_end_of_a_peer_is_told_at_once(waits: str, warm: Warm) -> None:
    check(warm.run(3 if waits == "reduce" else 2, "failure_programs:a_peer_dies", waits), 4)


def test_a_peer_that_does_not_come_is_told_after_the_timeout(warm: Warm) -> None:
    check(warm.run(2, "failure_programs:a_peer_does_not_come", HCCL_EXEC_TIMEOUT="1"), 0)


def test_a_rank_that_stays_away_is_named(warm: Warm) -> None:
    check(warm.run(3, "failure_programs:a_rank_stays_away", HCCL_CONNECT_TIMEOUT="1"), 0)


def test_a_rank_that_dies_while_joining_is_named(warm: Warm) -> None:
    check(warm.run(3, "failure_programs:a_rank_dies_while_joining"), 0)


@pytest.mark.parametrize("fault", ["fail", "hang"])
def test_a_collective_has_the_fault_that_is_asked_for(fault: str, warm: Warm) -> None:
    check(warm.run(3, "failure_programs:a_fault_is_asked_for", fault), 3)


def test_calls_that_differ_are_told(warm: Warm) -> None:
    check(warm.run(2, "failure_programs:calls_differ"), 5)


def test_what_hccl_refuses_is_refused(warm: Warm) -> None:
    check(warm.run(2, "failure_programs:refusals"), 33)


@pytest.mark.parametrize("what", ["device", "number", "twice", "setting"])
def test_what_cannot_be_joined_is_refused(what: str, warm: Warm) -> None:
    variables = {"HCCL_BUFFSIZE": "none"} if what == "setting" else {}
    check(warm.run(2, "failure_programs:joining_is_checked", what, **variables))


# ---- hosts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [4, 5])
def test_hosts_that_one_machine_plays_speak_tcp(count: int, warm: Warm) -> None:
    check(warm.run(count, "group_programs:over_hosts", "play"), 7)


def test_a_rank_table_may_have_several_servers(warm: Warm) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = max(1024, min(65520, free.getsockname()[1]))
    check(warm.run(4, "group_programs:rank_table_over_hosts", port), 2)


def test_the_end_of_a_host_is_told_at_once(warm: Warm) -> None:
    check(warm.run(3, "group_programs:a_host_dies"), 2)


NETWORK = "10.213.77"


@pytest.fixture
def namespaces() -> Iterator[list[str]]:
    """Two network namespaces with a link between them; skips where they are not permitted."""
    ip = shutil.which("ip")
    names = [f"cannsim-{os.getpid()}-{side}" for side in "ab"]

    def run(*words: str) -> None:
        subprocess.run([str(ip), *words], check=True, capture_output=True, timeout=10)

    try:
        if ip is None:
            pytest.skip("no `ip` command")
        for name in names:
            run("netns", "add", name)
        ends = [f"cs{os.getpid() % 1_000_000}{side}" for side in "ab"]
        peer = ("peer", ends[1], "netns", names[1])
        run("link", "add", ends[0], "netns", names[0], "type", "veth", *peer)
        for number, (name, end) in enumerate(zip(names, ends, strict=True), 1):
            run("-n", name, "address", "add", f"{NETWORK}.{number}/24", "dev", end)
            run("-n", name, "link", "set", end, "up")
            run("-n", name, "link", "set", "lo", "up")
        yield names
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not permitted: {error.stderr.decode().strip()}")
    finally:
        for name in names if ip else []:
            subprocess.run([ip, "netns", "delete", name], capture_output=True, timeout=10)


def test_hosts_of_their_own_networks_speak_tcp(namespaces: list[str], tmp_path: Path) -> None:
    hosts = [Warm("ip", "netns", "exec", name) for name in namespaces]
    for number, host in enumerate(hosts):
        ranks, store = [2 * number, 2 * number + 1], str(tmp_path / "store")
        host.start(4, "group_programs:over_hosts", "real", ranks, store)
    for host in hosts:
        check(host.results(), 7)
        host.close()
