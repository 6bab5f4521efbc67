"""Counters of the simulated devices: of this process, or of files that processes left.

Each is a dict: ``launches`` {operator: {count, bytes}}, ``copies`` {direction: {count, bytes}},
``synchronizations`` {stream, device, event}, ``events``, ``allocations``, ``memory`` per device.
``bytes`` of a launch are those of its tensor operands.
"""

from __future__ import annotations

import ctypes
import json
from functools import reduce
from pathlib import Path
from typing import Any

from cannsim.environment import LIBRARIES

Counters = dict[str, Any]


class NotSimulated(RuntimeError):
    """This process runs on another CANN than cannsim, or on none."""


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libascendcl.so")
        library.cannsim_counters.restype = ctypes.c_size_t
    except (OSError, AttributeError) as error:
        raise NotSimulated(
            "libascendcl.so is not cannsim's; start the program by `cannsim run -- ...`"
        ) from error
    return library


def snapshot() -> Counters:
    """The counters of this process now. Raises NotSimulated.

    torch-npu calls CANN from a queue of its own: `torch.npu.synchronize()` first, where the
    operators before this line are to be among them.
    """
    library = _library()
    room = library.cannsim_counters(None, 0) + 4096
    buffer = ctypes.create_string_buffer(room)
    library.cannsim_counters(buffer, ctypes.c_size_t(room))
    return json.loads(buffer.value)


def reset() -> None:
    """Sets the counters of this process to zero; memory in use is kept. Raises NotSimulated.

    What torch-npu still has in its queue is counted after it: see `snapshot`.
    """
    _library().cannsim_reset_counters()


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
    library = ctypes.CDLL(str(LIBRARIES / "libascendcl.so"))
    library.cannsim_counters_file.restype = ctypes.c_size_t
    buffer = ctypes.create_string_buffer(1 << 20)
    length = library.cannsim_counters_file(str(file).encode(), buffer, ctypes.c_size_t(len(buffer)))
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
            if key in ("schema", "pid", "chip", "cann"):
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
