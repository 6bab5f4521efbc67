"""`cannsim smi`: the simulated devices, their memory, and the processes that use them."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cannsim.environment import LIBRARIES, Settings, profiles


@dataclass(frozen=True)
class Usage:
    """What a live process holds on one device: bytes now, and the most so far."""

    pid: int
    command: str
    chip: str
    cann: str
    device: int
    total: int
    used: int
    peak: int


def registry() -> Path | None:
    """The folder in which live processes are found (``CANNSIM_REGISTRY``), or None for none."""
    wanted = os.environ.get("CANNSIM_REGISTRY", "")
    if wanted == "0":
        return None
    return Path(wanted) if wanted else Path(f"/dev/shm/cannsim-{os.getuid()}")


def usages() -> list[Usage]:
    """What live processes use, by device and process.

    A process that was killed leaves its entry; it is known by its number and start time, passed
    over here and removed.
    """
    folder = registry()
    if folder is None or not folder.is_dir():
        return []
    library = ctypes.CDLL(str(LIBRARIES / "libascendcl.so"))
    library.cannsim_process_file.restype = ctypes.c_size_t
    library.cannsim_started_at.restype = ctypes.c_uint64
    found: list[Usage] = []
    for entry in folder.glob("*.bin"):
        process = _read(library, entry)
        if process is None:
            continue
        alive = library.cannsim_started_at(ctypes.c_uint64(process["pid"]))
        if alive == 0 or alive != process["started"]:
            entry.unlink(missing_ok=True)
            continue
        found += _of(process)
    return sorted(found, key=lambda usage: (usage.device, usage.pid))


def _read(library: ctypes.CDLL, entry: Path) -> dict[str, Any] | None:
    buffer = ctypes.create_string_buffer(1 << 16)
    room = ctypes.c_size_t(len(buffer))
    if library.cannsim_process_file(str(entry).encode(), buffer, room) == 0:
        return None
    return json.loads(buffer.value)


def _of(process: dict[str, Any]) -> list[Usage]:
    return [
        Usage(
            process["pid"],
            _command(process["pid"]),
            process["chip"],
            process["cann"],
            memory["physical"],
            process["device_memory"],
            memory["current"],
            memory["peak"],
        )
        for memory in process["memory"]
        if memory["peak"] > 0
    ]


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return "?"
    return " ".join(word.decode(errors="replace") for word in words if word)


def table(settings: Settings, found: Sequence[Usage]) -> str:
    """Devices and processes as text.

    Devices are those that this environment simulates, and those that processes of other
    environments use; a device that no process uses shows no memory in use.
    """
    chip = profiles("chips")[settings.chip]
    total = settings.device_memory or chip["hbm_bytes"]["value"]
    devices = {(settings.chip, number): total for number in range(settings.devices)}
    devices |= {(usage.chip, usage.device): usage.total for usage in found}
    lines = ["cannsim: simulated devices; nothing here is an NPU", ""]
    lines.append(f"{'device':>6}  {'chip':<18}{'memory in use':>22}{'processes':>11}")
    for (soc, number), size in sorted(devices.items(), key=lambda item: (item[0][1], item[0][0])):
        users = [usage for usage in found if (usage.chip, usage.device) == (soc, number)]
        memory = f"{_mib(sum(usage.used for usage in users))} / {_mib(size)}"
        lines.append(f"{number:>6}  {soc:<18}{memory:>22}{len(users):>11}")
    lines += ["", f"{'device':>6}{'pid':>9}{'in use':>12}{'peak':>12}  {'CANN':<9}command"]
    for usage in found:
        lines.append(
            f"{usage.device:>6}{usage.pid:>9}{_mib(usage.used):>12}{_mib(usage.peak):>12}"
            f"  {usage.cann:<9}{usage.command[:60]}"
        )
    if not found:
        lines.append("   no process uses a device")
    return "\n".join(lines)


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
