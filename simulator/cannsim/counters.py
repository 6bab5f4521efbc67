"""Counters of the simulated devices: of this process, or of files that processes left.

``with cannsim.counters() as c:`` counts a block; ``snapshot``, ``difference``, ``reset`` and
``load`` give the raw dicts: ``launches`` {operator: {count, replayed, flops, bytes,
bytes_read, bytes_written, modelled_ns}}, ``collectives`` (those of the launches that are),
``copies`` {direction: {count, bytes}}, ``synchronizations`` {stream, device, event}, ``events``,
``graphs`` {captures, replays}, ``allocations``, ``streams`` {"device:stream": {total, launches}}
and ``memory`` per device (bytes).

``count`` is of launches by the host, ``replayed`` of those by captured graphs; the rest is of both.
``modelled_ns`` is what the chip's profile lets expect: nothing was measured on an NPU.
"""

from __future__ import annotations

import copy
import ctypes
import inspect
import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from types import FrameType, ModuleType, TracebackType
from typing import Any

from cannsim.environment import LIBRARIES

Counters = dict[str, Any]

WAITS = ("stream", "device", "event")
_KEPT = ("schema", "pid", "chip", "cann")
_LISTENER = ctypes.CFUNCTYPE(None, ctypes.c_int)


class NotSimulated(RuntimeError):
    """This process runs on another CANN than cannsim, or on none."""


def library() -> ctypes.CDLL:
    """cannsim's runtime in this process. Raises NotSimulated."""
    try:
        found = ctypes.CDLL("libascendcl.so")
        found.cannsim_counters.restype = ctypes.c_size_t
    except (OSError, AttributeError) as error:
        raise NotSimulated(
            "libascendcl.so is not cannsim's; start the program by `cannsim run -- ...`"
        ) from error
    return found


def snapshot() -> Counters:
    """The counters of this process now. Raises NotSimulated.

    torch-npu calls CANN from a queue of its own: `torch.npu.synchronize()` first, where the
    operators before this line are to be among them.
    """
    ours = library()
    room = ours.cannsim_counters(None, 0) + 4096
    buffer = ctypes.create_string_buffer(room)
    ours.cannsim_counters(buffer, ctypes.c_size_t(room))
    return json.loads(buffer.value)


def reset() -> None:
    """Sets the counters of this process to zero; memory in use is kept. Raises NotSimulated.

    What torch-npu still has in its queue is counted after it: see `snapshot`.
    """
    library().cannsim_reset_counters()


# ---- counting a block ---------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Line:
    """A line of Python that waited; ``kind`` is ``stream``, ``device`` or ``event``."""

    file: str
    line: int
    function: str
    kind: str


@dataclass
class Counted:
    """What happened in a block, or in one step of it. ``raw`` has everything, as `snapshot` does.

    Attributes:
        name: of the step; empty for the block.
        raw: the difference of two snapshots; memory is as at the end.
        lines: how often which line waited, when the block was asked to trace them.
    """

    name: str = ""
    raw: Counters = field(default_factory=dict)
    lines: Counter[Line] = field(default_factory=Counter)

    def _sum(self, what: str) -> int:
        return sum(entry[what] for entry in self.raw["launches"].values())

    @property
    def launches(self) -> dict[str, int]:
        """Launches by the host, by operator."""
        return {n: e["count"] for n, e in sorted(self.raw["launches"].items()) if e["count"]}

    @property
    def replayed(self) -> dict[str, int]:
        """Launches by captured graphs, by operator."""
        return {n: e["replayed"] for n, e in sorted(self.raw["launches"].items()) if e["replayed"]}

    @property
    def flops(self) -> int:
        """Operations: 2mkn for a product, two products for attention, else one an element."""
        return self._sum("flops")

    @property
    def bytes_read(self) -> int:
        """Bytes of operands that launches read."""
        return self._sum("bytes_read")

    @property
    def bytes_written(self) -> int:
        """Bytes of operands that launches wrote."""
        return self._sum("bytes_written")

    @property
    def modelled_seconds(self) -> float:
        """Device time by the chip's profile, as if one launch ran at a time. Not measured."""
        return self._sum("modelled_ns") / 1e9

    @property
    def copies(self) -> dict[str, dict[str, int]]:
        """Count and bytes by direction."""
        return self.raw["copies"]

    @property
    def synchronizations(self) -> dict[str, int]:
        """How often the host waited, by kind; the waits of the counting itself are left out."""
        return self.raw["synchronizations"]

    @property
    def graph_replays(self) -> int:
        """Replays of captured graphs."""
        return self.raw["graphs"]["replays"]

    @property
    def collective_bytes(self) -> int:
        """Bytes that this process gave to collectives and took from them."""
        return sum(entry["bytes"] for entry in self.raw["collectives"].values())

    @property
    def streams(self) -> dict[str, dict[str, Any]]:
        """Totals and launches by stream, "device:stream"."""
        return self.raw["streams"]

    @property
    def memory(self) -> list[dict[str, int]]:
        """Bytes of each device: in use at the end, and the most since the process began."""
        return self.raw["memory"]


class Counting(Counted):
    """The context of ``with cannsim.counters() as c:``; its values are there after the block.

    The block begins and ends with a wait for torch-npu's queue and for the devices, so that the
    counts are exact.
    """

    def __init__(self, *, lines: bool = False) -> None:
        super().__init__()
        self.steps: list[Counted] = []
        self._lines = _WaitingLines() if lines else None

    def __enter__(self) -> Counting:
        wait_for_devices()
        self._begin = snapshot()
        self._step = copy.deepcopy(self._begin)
        if self._lines is not None:
            self._lines.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lines is not None:
            self._lines.end()
        self._finish(self, self._begin)

    def step(self, name: str = "") -> Counted:
        """Ends a step here: what was counted since the last one (or the beginning)."""
        made = Counted(name or f"step {len(self.steps) + 1}")
        self._step = self._finish(made, self._step)
        self.steps.append(made)
        return made

    def _finish(self, what: Counted, since: Counters) -> Counters:
        """Fills ``what``; returns the snapshot that the next step begins with."""
        tracing = self._lines is not None and self._lines.active
        if tracing:
            self._lines.end()
        before = snapshot()["synchronizations"]
        wait_for_devices()
        now = snapshot()
        own = {kind: now["synchronizations"][kind] - before[kind] for kind in WAITS}
        what.raw = difference(now, since)
        for kind, count in own.items():
            what.raw["synchronizations"][kind] -= count
        if self._lines is not None:
            what.lines = self._lines.taken(since_begin=what is self)
        if tracing:
            self._lines.begin()
        # The block's own difference is from its first snapshot, which knows nothing of the waits
        # that steps made in between.
        for kind, count in own.items():
            if what is not self:
                self._begin["synchronizations"][kind] += count
        return now


def wait_for_devices() -> None:
    """Waits for torch-npu's queue and all devices that this process has used."""
    torch = sys.modules.get("torch")
    if "torch_npu" not in sys.modules or torch is None or not torch.npu.is_initialized():
        return
    used = {entry["device"] for entry in snapshot()["memory"] if entry["current"] > 0}
    for device in sorted(used | {torch.npu.current_device()}):
        torch.npu.synchronize(device)


class _WaitingLines:
    """Counts the lines of Python that wait, as the runtime tells of each wait."""

    def __init__(self) -> None:
        self._all: Counter[Line] = Counter()
        self._since: Counter[Line] = Counter()
        self._listener = _LISTENER(self._note)
        self._libraries = tuple(
            str(Path(module.__file__).parent)
            for name in ("torch", "torch_npu", "cannsim")
            if (module := sys.modules.get(name)) is not None and module.__file__
        )
        self.active = False

    def begin(self) -> None:
        library().cannsim_on_wait(self._listener)
        self.active = True

    def end(self) -> None:
        library().cannsim_on_wait(None)
        self.active = False

    def taken(self, *, since_begin: bool) -> Counter[Line]:
        made = self._all.copy() if since_begin else self._since.copy()
        self._since.clear()
        return made

    def _note(self, kind: int) -> None:
        # The first frame is this function's, the next one of the program or of a library below it.
        frame: FrameType | None = inspect.currentframe()
        outermost = frame
        while frame is not None and frame.f_code.co_filename.startswith(self._libraries):
            outermost, frame = frame, frame.f_back
        frame = frame or outermost
        if frame is None:
            return
        code = frame.f_code
        line = Line(code.co_filename, frame.f_lineno, code.co_name, WAITS[kind])
        self._all[line] += 1
        self._since[line] += 1


# ---- files and arithmetic -----------------------------------------------------------------------


def load(directory: Path) -> Counters:
    """The sum of the counters that processes left in ``directory`` (``CANNSIM_COUNTERS``), also of
    those that still run, were killed, or left without running exit handlers.

    Memory is not summed: each device's peak is the largest of any process.
    Raises FileNotFoundError when there are none, ValueError for a damaged file.
    """
    written = sorted(Path(directory).glob("counters.*.json"))
    left = [
        file
        for file in sorted(Path(directory).glob("counters.*.bin"))
        if file.with_suffix(".json") not in written
    ]
    if not written and not left:
        raise FileNotFoundError(
            f"no counters in {directory}: no process there has used a simulated device"
        )
    all_counters = [json.loads(file.read_text()) for file in written] + [
        _read_left(file) for file in left
    ]
    return reduce(_sum, all_counters)


def _read_left(file: Path) -> Counters:
    ours = ctypes.CDLL(str(LIBRARIES / "libascendcl.so"))
    ours.cannsim_counters_file.restype = ctypes.c_size_t
    buffer = ctypes.create_string_buffer(1 << 22)
    length = ours.cannsim_counters_file(str(file).encode(), buffer, ctypes.c_size_t(len(buffer)))
    if length == 0:
        raise ValueError(f"{file} does not hold counters of this version of cannsim")
    return json.loads(buffer.value)


def difference(later: Counters, earlier: Counters) -> Counters:
    """What happened between two snapshots of one process; memory is the later one's."""
    return _combine(later, earlier, -1)


def _sum(first: Counters, second: Counters) -> Counters:
    return _combine(first, second, 1)


def _combine(first: Any, second: Any, sign: int) -> Any:
    if isinstance(first, dict):
        made = {}
        for key in first.keys() | second.keys():
            if key in _KEPT:
                made[key] = first.get(key, second.get(key))
            elif key == "memory":
                made[key] = first[key] if sign < 0 else _largest(first[key], second[key])
            else:
                empty: Any = {} if isinstance(first.get(key, second.get(key)), dict) else 0
                made[key] = _combine(first.get(key, empty), second.get(key, empty), sign)
        return made
    return first + sign * second


def _largest(first: list[dict[str, int]], second: list[dict[str, int]]) -> list[dict[str, int]]:
    return [{key: max(a[key], b[key]) for key in a} for a, b in zip(first, second, strict=True)]


class _Callable(ModuleType):
    """This module can be called too: `cannsim.counters()` is the context of a block, and
    `cannsim.counters.snapshot()` one of the module's functions.
    """

    def __call__(self, *, lines: bool = False) -> Counting:
        """Counts a block: ``with cannsim.counters() as c:``. ``lines`` notes which lines wait."""
        return Counting(lines=lines)


sys.modules[__name__].__class__ = _Callable
