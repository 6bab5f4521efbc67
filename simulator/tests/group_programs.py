"""What the ranks of the tests of communicators do: how they are made, what they occupy, in what
order they work, and over which hosts (ranks.py starts them).
"""

from __future__ import annotations

import ctypes
import json
import os
import threading
import time
from collections.abc import Callable
from ctypes import byref, c_char, c_int32, c_uint8, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import torch
from cannsim import counters

from simulator.tests import hccl
from simulator.tests.acl import Gate, stream_is_idle
from simulator.tests.collective_programs import Checks, data, on_device, start
from simulator.tests.failure_programs import QUICK, end_now
from simulator.tests.hccl import Communicator, Narrow

SUM = Narrow(hccl.SUM)


def add_up(c: Communicator, rank: int, ranks: list[int], checks: Checks, what: str) -> None:
    """An all-reduce in one step and one in two, over ``ranks`` (this process is ``rank``)."""
    for size in (100, 50_000):
        x = on_device(data(rank, torch.int32, size))
        c.run("HcclAllReduce", x, x, size, torch.int32, SUM)
        expected = sum(data(r, torch.int32, size) for r in ranks)
        checks.same(f"{what} of {size}", x, expected)


def subgroups(rank: int, count: int, argument: Any) -> Any:
    """Halves of a group in an order of their own, a single rank of a half, and an outsider."""
    start(rank)
    c = Communicator.join("subgroups", rank, count)
    checks = Checks()
    half = count // 2
    members = list(range(half))[::-1] if rank < half else list(range(half, count))
    sub = c.subgroup(members, 1 + (rank >= half), members.index(rank))
    add_up(sub, rank, members, checks, "a half")
    parts = on_device(torch.zeros(half, dtype=torch.int32))
    c_rank = on_device(torch.tensor([rank], dtype=torch.int32))
    sub.run("HcclAllGather", c_rank, parts, 1, torch.int32)
    checks.same("the subgroup's own order", parts, torch.tensor(members, dtype=torch.int32))
    size, place = c_uint32(), c_uint32()
    hccl.call("HcclGetRankSize", sub.handle, byref(size))
    hccl.call("HcclGetRankId", sub.handle, byref(place))
    checks.that("size and place", (size.value, place.value) == (half, members.index(rank)))

    names = {c.text("HcclGetCommName"), sub.text("HcclGetCommName")}
    single = sub.subgroup([members.index(rank)], 7, 0)
    add_up(single, rank, [rank], checks, "a single rank")
    names.add(single.text("HcclGetCommName"))
    checks.that(f"each has a name of its own: {names}", len(names) == 3)
    outsider = c_void_p(1)
    arguments = (c_uint32(0), None, c_uint64(0xFFFFFFFF), c_uint32(0xFFFFFFFF), None)
    hccl.call("HcclCreateSubCommConfig", byref(c.handle), *arguments, byref(outsider))
    checks.that("an outsider gets nothing", outsider.value is None)
    checks.refused(
        "a rank twice", hccl.PARA, "names a rank twice", lambda: c.subgroup([0, 0], 9, 0)
    )
    checks.refused("a rank that is not", hccl.PARA, "lacks", lambda: c.subgroup([count], 9, 0))
    wrong = (rank + 1) % count
    checks.refused("another's place", hccl.PARA, "is not number", lambda: c.subgroup([wrong], 9, 0))
    add_up(c, rank, list(range(count)), checks, "the whole")
    for one in (single, sub, c):
        one.destroy()
    return checks.report()


class Config(ctypes.Structure):
    """HcclCommConfig of the header that torch-npu carries (version 10)."""

    _fields_ = (
        ("size", c_uint64), ("magic", c_uint32), ("version", c_uint32), ("reserved", c_uint64),
        ("buffer_size", c_uint32), ("deterministic", c_uint32),
        ("name", c_char * 128), ("udi", c_char * 128),
        ("expansion", c_uint32), ("traffic_class", c_uint32), ("service_level", c_uint32),
        ("world_rank", c_uint32), ("job", c_uint64), ("zero_copy", c_uint8),
        ("exec_timeout", c_int32), ("algorithm", c_char * 1600),
        ("retry_enable", c_char * 50), ("retry_parameters", c_char * 128),
        ("buffer_name", c_char * 128), ("qos", c_uint32), ("window", c_uint64),
    )  # fmt: skip


UNSET = 0xFFFFFFFF


def configuration(**changes: Any) -> Config:
    made = Config(
        size=ctypes.sizeof(Config), magic=0xF0F0F0F0, version=10, buffer_size=UNSET,
        deterministic=UNSET, traffic_class=UNSET, service_level=UNSET, exec_timeout=-1, qos=UNSET,
    )  # fmt: skip
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def configured(rank: int, count: int, argument: Any) -> Any:
    """A name, a buffer size and a timeout of the communicator's own (HcclCommConfig)."""
    start(rank)
    checks = Checks()
    mib = 1 << 20

    def join(key: str, config: Config) -> Communicator:
        info = hccl.share(key, rank, hccl.root_info() if rank == 0 else None)
        made = c_void_p()
        arguments = (c_uint32(count), byref(info), c_uint32(rank), byref(config), byref(made))
        hccl.call("HcclCommInitRootInfoConfig", *arguments)
        return Communicator(made)

    free = torch.npu.mem_get_info()[0]
    c = join("own", configuration(name=b"tensor_parallel", buffer_size=50, exec_timeout=1))
    checks.that("its name", c.text("HcclGetCommName") == "tensor_parallel")
    checks.that("no memory before the first call", torch.npu.mem_get_info()[0] == free)
    c.run("HcclBarrier")
    torch.npu.synchronize()
    taken = free - torch.npu.mem_get_info()[0]
    checks.that(f"twice its buffer size: {taken}", taken == 100 * mib)
    if rank == 0:
        text = "within 1 s"
        checks.told("its timeout", hccl.STREAM_TIMED_OUT, text, lambda: c.run("HcclBarrier"))
    else:
        time.sleep(2)
    c.destroy()
    checks.that("its memory is given back", torch.npu.mem_get_info()[0] == free)
    words = "HcclCommConfigInit"
    checks.refused("no set-up", hccl.PARA, words, lambda: join("no", configuration(magic=0)))
    words = "hcclBufferSize is 0"
    checks.refused("no buffer", hccl.PARA, words, lambda: join("nb", configuration(buffer_size=0)))
    checks.that("all fields of 9.1", hccl.library.HcclGetCommConfigCapability() == 12)
    return checks.report()


def rank_table(rank: int, count: int, argument: Any) -> Any:
    """Ranks that know each other from a rank table; and tables that are wrong."""
    start(rank)
    checks = Checks()
    table: dict[str, Any] = {
        "version": "1.0",
        "status": "completed",
        "server_count": "1",
        "server_list": [
            {
                "server_id": "10.0.0.1",
                "device": [
                    {"device_id": str(r), "device_ip": f"192.168.0.{r}", "rank_id": str(r)}
                    for r in range(count)
                ],
            }
        ],
    }

    def join(name: str, text: str | None = None, number: int = rank) -> Communicator:
        path = Path(f"{os.environ['STORE']}.{name}")
        if text is not None:
            part = path.with_suffix(f".{rank}")
            part.write_text(text)
            part.rename(path)
        made = c_void_p()
        hccl.call("HcclCommInitClusterInfo", str(path).encode(), c_uint32(number), byref(made))
        return Communicator(made)

    for turn in range(2):  # the second after the first is destroyed
        if rank == 0:
            time.sleep(0.2)  # the others come first, and wait
        c = join(f"table{turn}", json.dumps(table))
        add_up(c, rank, list(range(count)), checks, "by a rank table")
        checks.that("its name", c.text("HcclGetCommName") == "hccl_world_group")
        c.destroy()

    refused = checks.refused
    refused("no file", hccl.OPEN_FILE, "cannot be read", lambda: join("none"))
    text = '{"server_list": [}'
    refused("no JSON", hccl.PARA, "EI0004: the rank table is not JSON", lambda: join("a", text))
    words = "has no 'server_list'"
    refused("no list", hccl.PARA, words, lambda: join("b", '{"status": "completed"}'))
    text = json.dumps(table | {"status": "initializing"})
    refused("incomplete", hccl.PARA, "status 'initializing'", lambda: join("c", text))
    words = f"has ranks 0 to {count - 1}, not 9"
    refused("no such rank", hccl.PARA, words, lambda: join("d", json.dumps(table), 9))
    words = f"puts rank {(rank + 1) % count} on device"
    other = (rank + 1) % count
    refused("not its device", hccl.PARA, words, lambda: join("e", json.dumps(table), other))
    text = json.dumps(table | {"server_count": "2"})
    refused("servers differ", hccl.PARA, "says there are 2", lambda: join("f", text))
    text = json.dumps(table).replace('"rank_id": "1"', '"rank_id": "0"')
    refused("a rank twice", hccl.PARA, "has one twice", lambda: join("g", text))
    return checks.report()


def rank_table_over_hosts(rank: int, count: int, argument: Any) -> Any:
    """A rank table of two servers, which are two addresses of the loopback interface."""
    server = rank // 2 + 1
    os.environ |= {"CANNSIM_HOST": f"server{server}", "HCCL_IF_IP": f"127.0.0.{server}"}
    os.environ["HCCL_IF_BASE_PORT"] = str(argument)
    start(rank % 2)
    table = {
        "version": "1.0",
        "status": "completed",
        "server_list": [
            {
                "server_id": f"127.0.0.{number + 1}",
                "device": [
                    {"device_id": r % 2, "rank_id": r} for r in range(2 * number, 2 * number + 2)
                ],
            }
            for number in range(count // 2)
        ],
    }
    path = Path(f"{os.environ['STORE']}.{rank}.json")
    path.write_text(json.dumps(table))
    made = c_void_p()
    hccl.call("HcclCommInitClusterInfo", str(path).encode(), c_uint32(rank), byref(made))
    checks = Checks()
    add_up(Communicator(made), rank, list(range(count)), checks, "by a rank table of two servers")
    Communicator(made).destroy()
    return checks.report()


def forked_children(rank: int, count: int, argument: Any) -> Any:
    """A child has no part in its parent's communicator, and does it no harm."""
    start(rank)
    c = Communicator.join("children", rank, count)
    checks = Checks()
    add_up(c, rank, list(range(count)), checks, "before")
    child = os.fork()
    if child == 0:
        try:
            c.run("HcclBarrier")
            os._exit(1)
        except hccl.HcclError as error:
            told = error.code == hccl.UNAVAIL and "belongs to the parent process" in str(error)
            c.destroy()
            os._exit(0 if told else 2)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    checks.that(f"the child was told: {status}", status == 0)
    add_up(c, rank, list(range(count)), checks, "after")
    c.destroy()
    return checks.report()


def destroyed_early(rank: int, count: int, argument: Any) -> Any:
    """Destroying waits for what is on streams; what can never run is ended, and told."""
    start(rank)
    checks = Checks()
    c = Communicator.join("early", rank, count)
    x = on_device(data(rank, torch.int32, 50_000))
    if rank == 1:
        time.sleep(0.5)
    c.run("HcclAllReduce", x, x, 50_000, torch.int32, SUM)
    c.destroy()
    expected = sum(data(r, torch.int32, 50_000) for r in range(count))
    checks.same("what was on the stream", x, expected)

    c = Communicator.join("never", rank, count)
    if rank == 0:  # rank 1 calls nothing, and waits for rank 0's word
        c.run("HcclRecv", x, 10, torch.int32, Narrow(1))
        words = "was destroyed before all that was on its streams had run"
        checks.told("the end", 107023, words, c.destroy)
        Path(f"{os.environ['STORE']}.told").touch()
    else:
        while not Path(f"{os.environ['STORE']}.told").exists():
            time.sleep(0.05)
        c.destroy()
    return checks.report()


def devices_of_one_process(rank: int, count: int, argument: Any) -> Any:
    """HcclCommInitAll: every device of the process is a rank; one thread drives them all."""
    number = int(argument)
    checks = Checks()
    for device in range(number):
        start(device)
    all_of_them = hccl.init_all(list(range(number)))
    tensors = []
    for device in range(number):
        torch.npu.set_device(device)
        tensors.append(on_device(data(device, torch.float32, 1000)))
    torch.npu.synchronize()
    for device, c in enumerate(all_of_them):
        torch.npu.set_device(device)
        c.run("HcclAllReduce", tensors[device], tensors[device], 1000, torch.float32, SUM)
    expected = data(0, torch.float32, 1000)
    for device in range(1, number):
        expected = expected + data(device, torch.float32, 1000)
    for device in range(number):
        torch.npu.set_device(device)
        torch.npu.synchronize()
        checks.same(f"device {device}", tensors[device], expected)
    for c in all_of_them:
        c.destroy()
    words = "does not exist"
    checks.refused("no such device", 15, words, lambda: hccl.init_all([0, 64]))
    return checks.report()


def order(rank: int, count: int, argument: Any) -> Any:
    """A collective is put on its stream and runs there in its turn; calls return at once."""
    start(rank)
    c = Communicator.join("order", rank, count)
    checks = Checks()
    x = on_device(torch.zeros(1000))
    stream = torch.npu.current_stream()
    with Gate(stream):
        c.run("HcclAllReduce", x, x, 1000, torch.float32, SUM)
        checks.that("the call has returned before it ran", not stream_is_idle(stream))
        # What the host writes now is what the collective finds, as on a device.
        ctypes.memmove(x.data_ptr(), bytes(torch.ones(1000).numpy().data), 4000)
    checks.same("after the gate", x, torch.full((1000,), float(count)))

    # Rank 1 comes late; rank 0's stream waits, its host and its other streams do not.
    if rank == 1:
        time.sleep(0.5)
    begin = time.monotonic()
    c.run("HcclBarrier")
    other = torch.npu.Stream()
    with torch.npu.stream(other):
        y = torch.ones(3, device="npu") * 2
    other.synchronize()
    waited = time.monotonic() - begin
    if rank == 0:
        checks.that(f"the host goes on: {waited:.2f} s", waited < 0.4)
    torch.npu.synchronize()
    checks.that("the stream waits", rank == 1 or time.monotonic() - begin > 0.3)
    checks.same("another stream", y, torch.full((3,), 2.0))

    # An event after a collective lets another stream see its result.
    big = on_device(torch.full((1_000_000,), float(rank)))
    c.run("HcclAllReduce", big, big, 1_000_000, torch.float32, SUM)
    event = torch.npu.Event()
    event.record()
    with torch.npu.stream(other):
        event.wait()
        copy = big + 1
    other.synchronize()
    total = float(sum(range(count)))
    checks.same("after an event", copy, torch.full((1_000_000,), total + 1))
    c.destroy()
    return checks.report()


def counted(rank: int, count: int, argument: Any) -> Any:
    """Launches and bytes by collective: of the larger of the two buffers on this rank."""
    start(rank)
    c = Communicator.join("counted", rank, count)
    x, y = (on_device(torch.zeros(10 * count)) for _ in range(2))
    before = counters.snapshot()
    for _ in range(2):
        c.run("HcclAllReduce", x, y, 10, torch.float32, SUM)
    c.run("HcclAllGather", x, y, 5, torch.float16)
    c.run("HcclReduceScatter", x, y, 5, torch.float32, SUM)
    c.run("HcclBroadcast", x, 3, torch.int8, Narrow(0))
    c.run("HcclScatter", x, y, 3, torch.int8, Narrow(0))
    c.run("HcclAlltoAll", x, 2, torch.int64, y, 2, torch.int64)
    c.run("HcclBarrier")
    c.run(
        "HcclBatchSendRecv",
        hccl.items(("send", x, 1 - rank), ("receive", y, 1 - rank)),
        c_uint32(2),
    )
    torch.npu.synchronize()
    c.destroy()
    launches = counters.difference(counters.snapshot(), before)["launches"]
    return {name: [n["count"], n["bytes"]] for name, n in launches.items() if name[0] == "H"}


def over_hosts(rank: int, count: int, argument: Any) -> Any:
    """All kinds of messages between ranks of which some share a host and some do not."""
    if argument == "play":  # one machine plays several hosts, of two ranks each
        os.environ["CANNSIM_HOST"] = f"host{rank // 2}"
    start(rank % 2)
    c = Communicator.join("hosts", rank, count)
    checks = Checks()
    everyone = list(range(count))
    add_up(c, rank, everyone, checks, "over hosts")
    size = 400_000  # more than the buffers of a connection hold
    x, y = on_device(data(rank, torch.float32, size)), on_device(torch.zeros(size * count))
    c.run("HcclAllGather", x, y, size, torch.float32)
    checks.same("all-gather", y, torch.cat([data(r, torch.float32, size) for r in everyone]))
    following, preceding = (rank + 1) % count, (rank - 1) % count
    z = on_device(torch.zeros(size))
    for _ in range(3):
        rows = hccl.items(("send", x, following), ("receive", z, preceding))
        c.run("HcclBatchSendRecv", rows, c_uint32(2))
        checks.same("exchange", z, data(preceding, torch.float32, size))
    odd = on_device(data(rank, torch.int8, 1003))
    c.run("HcclAllReduce", odd, odd, 1003, torch.int8, SUM)
    expected = sum(data(r, torch.int8, 1003).int() for r in everyone).to(torch.int8)
    checks.same("odd lengths", odd, expected)
    ends = [0, count - 1]
    if rank in ends:
        sub = c.subgroup(ends, 1, ends.index(rank))
        add_up(sub, rank, ends, checks, "a subgroup over hosts")
        sub.destroy()
    c.run("HcclBarrier")
    torch.npu.synchronize()
    c.destroy()
    return checks.report()


def a_host_dies(rank: int, count: int, argument: Any) -> Any:
    """The last rank, alone on its host, is killed while the others wait."""
    os.environ["CANNSIM_HOST"] = f"host{rank // 2}"
    start(rank % 2)
    c = Communicator.join("host", rank, count)
    x = on_device(torch.zeros(100))
    c.run("HcclAllReduce", x, x, 100, torch.float32, SUM)
    torch.npu.synchronize()
    if rank == count - 1:
        if os.fork() == 0:
            time.sleep(2 * QUICK)
            os._exit(0)
        time.sleep(0.3)
        end_now()
    checks = Checks()
    begin = time.monotonic()
    wait = lambda: c.run("HcclAllReduce", x, x, 100, torch.float32, SUM)  # noqa: E731
    checks.told("a host's end", hccl.STREAM_TIMED_OUT, f"rank {count - 1}", wait)
    checks.that("at once", time.monotonic() - begin < QUICK)
    c.destroy()
    return checks.report()


def many(rank: int, count: int, argument: Any) -> Any:
    """Communicators are made and destroyed again and again; nothing is left behind."""
    start(rank)
    checks = Checks()

    def held() -> tuple[int, int]:
        threads = len(list(Path("/proc/self/task").iterdir()))
        return len(list(Path("/proc/self/fd").iterdir())), threads

    maps = lambda: Path("/proc/self/maps").read_text().count("cannsim-communicator")  # noqa: E731
    seen = []
    for turn in range(int(argument)):
        c = Communicator.join(f"many{turn}", rank, count)
        x = on_device(torch.ones(100))
        c.run("HcclAllReduce", x, x, 100, torch.float32, SUM)
        checks.same("sum", x, torch.full((100,), float(count)))
        c.destroy()
        seen.append((*held(), maps()))
    checks.that(f"nothing grows: {seen}", len(set(seen[1:])) == 1)
    checks.that("no memory is mapped", seen[-1][2] == 0)
    return checks.report()


def threads(rank: int, count: int, argument: Any) -> Any:
    """Several communicators at work at once, each driven by a thread on a stream of its own."""
    start(rank)
    checks = Checks()
    made = [Communicator.join(f"threads{i}", rank, count) for i in range(3)]
    wrong: list[str] = []

    def drive(number: int) -> None:
        torch.npu.set_device(rank)
        with torch.npu.stream(torch.npu.Stream()):
            x = torch.full((5000,), float(number + rank)).npu()
            torch.npu.current_stream().synchronize()
            for _ in range(20):
                made[number].run("HcclAllReduce", x, x, 5000, torch.float32, Narrow(hccl.MAX))
            torch.npu.current_stream().synchronize()
            if x.cpu().unique().tolist() != [float(number + count - 1)]:
                wrong.append(f"thread {number}: {x}")

    all_of_them = [threading.Thread(target=drive, args=(i,)) for i in range(3)]
    for one in all_of_them:
        one.start()
    for one in all_of_them:
        one.join()
    checks.that(f"{wrong}", not wrong)
    for c in made:
        c.destroy()
    return checks.report()


PROGRAMS: dict[str, Callable[[int, int, Any], Any]] = {
    f.__name__: f
    for f in (
        subgroups,
        configured,
        rank_table,
        rank_table_over_hosts,
        forked_children,
        destroyed_early,
        devices_of_one_process,
        order,
        counted,
        over_hosts,
        a_host_dies,
        many,
        threads,
    )
}
