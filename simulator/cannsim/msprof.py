"""`msprof`: turns what a profiler collected over cannsim into the files of CANN's exporter.

torch_npu.profiler runs this command to analyse a collection. Of CANN's tool it has
``--export=on --output=PROF_...`` (with ``--type=text``) and ``--analyze=on``; anything else is
refused. Written, in ``mindstudio_profiler_output``: ``msprof_*.json`` (trace events),
``op_summary_*.csv``, ``op_statistic_*.csv``, ``api_statistic_*.csv``, ``task_time_*.csv``.
All times are of the simulation on this machine.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

CUBE = ("Matmul", "MatMul", "Addmm", "aclnnMm", "Bmm", "Baddbmm", "Convolution", "Attention")
"""Parts of the names of operators that run on cube cores."""
FIRST_SORT_INDEX = 1
SEEN_WITHIN = 0.5
"""Seconds in which torch_npu.profiler has seen the tables: it looks for one every 0.1 s, and only
while the command runs. An export that ends before it looked leaves its trace without devices."""
FOLDER = "mindstudio_profiler_output"


class Refused(Exception):
    """What was asked for cannot be exported; the message says why and what to do."""


@dataclass(frozen=True)
class Run:
    """A task of a device: times in microseconds of the wall clock."""

    name: str
    kind: str
    device: int
    stream: int
    start: Decimal
    duration: Decimal
    launched: Decimal | None
    launching_thread: int | None

    @property
    def core(self) -> str:
        """What CANN calls the task's type."""
        if self.kind == "operator":
            return "AI_CORE" if any(part in self.name for part in CUBE) else "AI_VECTOR_CORE"
        return "COMMUNICATION" if self.kind == "collective" else "MEMCPY_ASYNC"

    @property
    def operator(self) -> str:
        """The operator's type: the name without aclnn."""
        return self.name.removeprefix("aclnn")


@dataclass(frozen=True)
class Call:
    """A call of the host, in microseconds of the wall clock."""

    name: str
    thread: int
    start: Decimal
    duration: Decimal


@dataclass(frozen=True)
class Collection:
    """One PROF_ folder."""

    folder: Path
    chip: str
    pid: int
    runs: tuple[Run, ...]
    calls: tuple[Call, ...]


def read(folder: Path) -> Collection:
    """Reads a PROF_ folder. Raises Refused where it is none of cannsim's."""
    information = folder / "host" / "start_info"
    raw = folder / "host" / "data" / "timeline.json"
    if not raw.is_file() or not information.is_file():
        raise Refused(
            f"{folder} was not collected over cannsim (host/data/timeline.json is missing). "
            "A collection from an NPU needs CANN's own msprof."
        )
    start = json.loads(information.read_text())
    if "cannsimSteady" not in start:
        raise Refused(f"{information} was not written by cannsim; CANN's own msprof reads it")
    offset = Decimal(start["collectionTimeBegin"]) - Decimal(start["cannsimSteady"]) / 1000
    events = json.loads(raw.read_text(), parse_float=Decimal)
    runs, calls = _events(events, offset, int(start["hostPid"]))
    return Collection(folder, start["chip"], int(start["hostPid"]), runs, calls)


def _events(
    events: list[dict[str, Any]], offset: Decimal, pid: int
) -> tuple[tuple[Run, ...], tuple[Call, ...]]:
    launches = {event["id"]: event for event in events if event["ph"] == "s"}
    arrivals = {
        (event["pid"], event["tid"], event["ts"]): launches.get(event["id"])
        for event in events
        if event["ph"] == "f"
    }
    runs, calls = [], []
    for event in events:
        if event["ph"] != "X":
            continue
        start, duration = Decimal(event["ts"]) + offset, Decimal(event["dur"])
        if event["pid"] == pid:
            calls.append(Call(event["name"], event["tid"], start, duration))
            continue
        launch = arrivals.get((event["pid"], event["tid"], event["ts"]))
        runs.append(
            Run(
                event["name"],
                event["cat"],
                (event["pid"] - pid) // 10_000_000 - 1,
                event["tid"],
                start,
                duration,
                Decimal(launch["ts"]) + offset if launch else None,
                launch["tid"] if launch else None,
            )
        )
    return tuple(sorted(runs, key=lambda r: r.start)), tuple(sorted(calls, key=lambda c: c.start))


# ---- what is written -----------------------------------------------------------------------------


def trace(collection: Collection) -> list[dict[str, Any]]:
    """Trace events as CANN's exporter names its rows: CANN (host), Ascend Hardware (device)."""
    host = collection.pid * 1000
    made: list[dict[str, Any]] = _row(host, "CANN", "CPU", FIRST_SORT_INDEX)
    threads = sorted({call.thread for call in collection.calls})
    made += [_thread(host, thread, f"Thread {thread}") for thread in threads]
    for call in collection.calls:
        name = f"AscendCL@{call.name}"
        made.append(_slice(host, call.thread, name, call.start, call.duration, {"Mode": name}))
    for device in sorted({run.device for run in collection.runs}):
        hardware, overlap = host + 10 + 2 * device, host + 11 + 2 * device
        made += _row(hardware, "Ascend Hardware", f"NPU {device}", 2 + 2 * device)
        made += _row(overlap, "Overlap Analysis", f"NPU {device}", 3 + 2 * device)
        of_device = [run for run in collection.runs if run.device == device]
        for stream in sorted({run.stream for run in of_device}):
            made.append(_thread(hardware, stream, f"Stream {stream}"))
        for number, run in enumerate(of_device):
            arguments = {"Model Id": 4294967295, "Task Type": run.core, "Stream Id": run.stream}
            arguments |= {"Task Id": number, "connection_id": number, "simulated": collection.chip}
            made.append(
                _slice(hardware, run.stream, run.operator, run.start, run.duration, arguments)
            )
            made += _flow(host, hardware, run, f"{device}:{number}")
        made += _overlap(overlap, of_device)
    return made


def _row(pid: int, name: str, label: str, index: int) -> list[dict[str, Any]]:
    return [
        {"name": "process_name", "pid": pid, "tid": 0, "ph": "M", "args": {"name": name}},
        {"name": "process_labels", "pid": pid, "tid": 0, "ph": "M", "args": {"labels": label}},
        {
            "name": "process_sort_index",
            "pid": pid,
            "tid": 0,
            "ph": "M",
            "args": {"sort_index": index},
        },
    ]


def _thread(pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"name": "thread_name", "pid": pid, "tid": tid, "ph": "M", "args": {"name": name}}


def _slice(
    pid: int, tid: int, name: str, start: Decimal, length: Decimal, arguments: dict[str, Any]
) -> dict[str, Any]:
    made = {"name": name, "pid": pid, "tid": tid, "ts": f"{start:.3f}", "dur": float(length)}
    return made | {"args": arguments, "ph": "X"}


def _flow(host: int, hardware: int, run: Run, number: str) -> list[dict[str, Any]]:
    if run.launched is None or run.launching_thread is None:
        return []
    common = {"name": "HostToDevice" + number, "id": number, "cat": "HostToDevice"}
    begin = {"ph": "s", "pid": host, "tid": run.launching_thread, "ts": f"{run.launched:.3f}"}
    end = {"ph": "f", "bp": "e", "pid": hardware, "tid": run.stream, "ts": f"{run.start:.3f}"}
    return [common | begin, common | end]


def _overlap(pid: int, runs: list[Run]) -> list[dict[str, Any]]:
    """Computing, communication and neither, over all streams of a device."""
    computing = _union([run for run in runs if run.kind == "operator"])
    communication = _union([run for run in runs if run.kind == "collective"])
    alone = _minus(communication, computing)
    busy = _merge(sorted(computing + communication))
    free = [(a[1], b[0]) for a, b in pairwise(busy) if b[0] > a[1]]
    rows = (
        ("Communication", communication),
        ("Computing", computing),
        ("Communication(Not Overlapped)", alone),
        ("Free", free),
    )
    made: list[dict[str, Any]] = []
    for tid, (name, spans) in enumerate(rows):
        made.append(_thread(pid, tid, name))
        made += [_slice(pid, tid, name, begin, end - begin, {}) for begin, end in spans]
    return made


Spans = list[tuple[Decimal, Decimal]]


def _union(runs: list[Run]) -> Spans:
    return _merge(sorted((run.start, run.start + run.duration) for run in runs))


def _merge(spans: Spans) -> Spans:
    made: Spans = []
    for begin, end in spans:
        if made and begin <= made[-1][1]:
            made[-1] = (made[-1][0], max(made[-1][1], end))
        else:
            made.append((begin, end))
    return made


def _minus(spans: Spans, others: Spans) -> Spans:
    made: Spans = []
    for begin, end in spans:
        for other_begin, other_end in others:
            if other_end <= begin or other_begin >= end:
                continue
            if other_begin > begin:
                made.append((begin, other_begin))
            begin = max(begin, other_end)
        if begin < end:
            made.append((begin, end))
    return made


def summary(collection: Collection) -> list[dict[str, object]]:
    """Rows of op_summary: one for each operator that ran."""
    ended: dict[int, Decimal] = {}
    rows: list[dict[str, object]] = []
    for run in collection.runs:
        if run.kind not in ("operator", "collective"):
            continue
        waited = max(Decimal(0), run.start - ended.get(run.device, run.start))
        ended[run.device] = max(ended.get(run.device, run.start), run.start + run.duration)
        rows.append(
            {
                "Device_id": run.device,
                "Model ID": 4294967295,
                "Task ID": len(rows),
                "Stream ID": run.stream,
                "Op Name": f"{run.name}_{run.operator}_{run.operator}",
                "OP Type": run.operator,
                "OP State": "dynamic",
                "Task Type": run.core,
                "Task Start Time(us)": f"{run.start:.3f}\t",
                "Task Duration(us)": f"{run.duration:.3f}",
                "Task Wait Time(us)": f"{waited:.3f}",
                "Block Num": 0,
            }
        )
    return rows


def statistics(collection: Collection) -> list[dict[str, object]]:
    """Rows of op_statistic: time by operator type."""
    groups: dict[tuple[int, str, str], list[Decimal]] = defaultdict(list)
    for run in collection.runs:
        if run.kind == "operator":
            groups[run.device, run.operator, run.core].append(run.duration)
    total = sum((sum(times) for times in groups.values()), Decimal(0)) or Decimal(1)
    return [
        {
            "Device_id": device,
            "OP Type": operator,
            "Core Type": core,
            "Count": len(times),
            "Total Time(us)": f"{sum(times):.3f}",
            "Min Time(us)": f"{min(times):.3f}",
            "Avg Time(us)": f"{sum(times) / len(times):.3f}",
            "Max Time(us)": f"{max(times):.3f}",
            "Ratio(%)": f"{100 * sum(times) / total:.3f}",
        }
        for (device, operator, core), times in sorted(groups.items(), key=lambda g: -sum(g[1]))
    ]


def calls(collection: Collection) -> list[dict[str, object]]:
    """Rows of api_statistic: time by call of the host."""
    groups: dict[str, list[Decimal]] = defaultdict(list)
    for call in collection.calls:
        groups[call.name].append(call.duration)
    return [
        {
            "Device_id": "host",
            "Level": "acl",
            "API Name": name,
            "Time(us)": f"{sum(times):.3f}",
            "Count": len(times),
            "Avg(us)": f"{sum(times) / len(times):.3f}",
            "Min(us)": f"{min(times):.3f}",
            "Max(us)": f"{max(times):.3f}",
        }
        for name, times in sorted(groups.items())
    ]


def tasks(collection: Collection) -> list[dict[str, object]]:
    """Rows of task_time: every task of every stream."""
    return [
        {
            "Device_id": run.device,
            "kernel_name": run.operator,
            "kernel_type": run.core,
            "stream_id": run.stream,
            "task_id": number,
            "task_time(us)": f"{run.duration:.3f}",
            "task_start(us)": f"{run.start:.3f}\t",
            "task_stop(us)": f"{run.start + run.duration:.3f}\t",
        }
        for number, run in enumerate(collection.runs)
    ]


def export(folder: Path) -> Path:
    """Writes the files of a collection; returns their folder. Raises Refused."""
    collection = read(folder)
    stamp = time.strftime("%Y%m%d%H%M%S")
    output = folder / FOLDER
    output.mkdir(mode=0o750, exist_ok=True)
    (output / f"msprof_{stamp}.json").write_text(json.dumps(trace(collection)))
    # The trace first: torch_npu.profiler reads it as soon as there is a table.
    tables = {"op_statistic": statistics, "api_statistic": calls, "task_time": tasks}
    for name, rows in {**tables, "op_summary": summary}.items():
        _write_table(output / f"{name}_{stamp}.csv", rows(collection))
    for file in output.iterdir():
        file.chmod(0o640)
    return output


def _write_table(path: Path, rows: list[dict[str, object]]) -> None:
    part = path.with_suffix(".part")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["Device_id"])
        writer.writeheader()
        writer.writerows(rows)
    part.rename(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 1 is a collection that cannot be exported, 2 bad usage."""
    parser = argparse.ArgumentParser(prog="msprof", description=__doc__.splitlines()[0])
    parser.add_argument("--export", choices=("on", "off"), default="off")
    parser.add_argument("--analyze", choices=("on", "off"), default="off")
    parser.add_argument("--type", choices=("text", "db"), default="text", help="text only")
    parser.add_argument("--output", type=Path, help="the PROF_ folder")
    arguments, unknown = parser.parse_known_args(argv)
    try:
        if unknown or arguments.output is None:
            raise Refused(
                f"not simulated: {' '.join(unknown) or 'a call without --output'}. Programs are "
                "profiled over cannsim by torch_npu.profiler or CANNSIM_TIMELINE."
            )
        if arguments.type == "db":
            raise Refused("databases are not simulated: use export_type=ExportType.Text")
        if arguments.export == "on":
            print(f"msprof (cannsim, simulated): {export(arguments.output)}")
            time.sleep(SEEN_WITHIN)
        return 0
    except (Refused, OSError, ValueError) as error:
        print(f"msprof (cannsim): {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    os.umask(0o027)
    sys.exit(main())
