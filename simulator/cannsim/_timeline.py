"""Timelines of what the host and the simulated devices do, as Chrome's trace events."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cannsim import counters


@contextmanager
def timeline(path: str | Path) -> Iterator[Path]:
    """Writes a timeline of the block to ``path``: open it in Perfetto or chrome://tracing.

    Each device is a process whose threads are its streams, the host's threads are themselves, and
    arrows go from launches to their runs. Times are this machine's; ``modelled_ns`` of a launch is
    the chip profile's. ``CANNSIM_TIMELINE=DIRECTORY`` does it for a whole program.
    Raises NotSimulated, and OSError for a path that cannot be written.
    """
    path = Path(path)
    library = counters.library()
    counters.wait_for_devices()
    if library.cannsim_start_timeline(str(path).encode()) != 0:
        raise OSError(f"cannot write a timeline to {path}")
    try:
        yield path
    finally:
        counters.wait_for_devices()
        library.cannsim_stop_timeline(str(path).encode())
