"""Faults on request: in this process by ``inject``, or by ``CANNSIM_FAULTS`` for any program.

A fault is ``kind`` or ``kind:key=value,key=value``; several are separated by ``;``.

- ``out-of-memory``: the ``allocation``-th allocation of device memory is refused (207001)
- ``device-lost``: from the ``launch``-th launch on all work and waits fail (507010)
- ``operator-error``: the ``launch``-th launch fails (507015; ``code`` chooses another)
- ``slow``: each launch takes ``delay-us`` microseconds longer
- ``bit-flip``: one ``bit`` of the first element that the launch writes is inverted
- ``kill``: the process is killed (SIGKILL) when the launch runs
- ``hang``: the launch never ends, until ``clear()``

``operator=aclnnAdd`` counts only launches of that name (collectives too: ``HcclAllReduce``),
``device=0`` only those of that device, ``rank=1`` only in the process whose ``RANK`` is 1;
``times`` says how often it strikes (1; 0 for always). Launches are counted from 1, in the order in
which the host makes them; a replay of a captured graph counts its launches when they run.

That a real device answers with these codes is CANN's table of return codes; that it does so in the
same circumstances is assumed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

from cannsim.counters import library


class FaultError(ValueError):
    """A fault that is not well formed; the message names the nearest kind or key."""


def _call(function: str, text: str) -> None:
    found = library()
    if getattr(found, function)(text.encode()) != 0:
        found.aclGetRecentErrMsg.restype = ctypes.c_char_p
        raise FaultError(found.aclGetRecentErrMsg().decode())


def check(*faults: str) -> None:
    """Raises FaultError unless all faults are well formed; sets none."""
    _call("cannsim_check_faults", ";".join(faults))


def replace(*faults: str) -> None:
    """Replaces all faults of this process and begins their counts anew. Raises FaultError."""
    _call("cannsim_set_faults", ";".join(faults))


def clear() -> None:
    """Ends all faults; what hangs goes on. A lost device stays lost until ``aclrtResetDevice``."""
    replace()


def struck() -> list[int]:
    """How often each fault has struck, in their order."""
    buffer = ctypes.create_string_buffer(4096)
    library().cannsim_struck_faults(buffer, ctypes.c_size_t(len(buffer)))
    return [int(number) for number in buffer.value.split()]


@contextmanager
def inject(*faults: str) -> Iterator[None]:
    """Has faults strike inside the block. Raises FaultError.

    torch-npu calls CANN from a queue of its own: synchronise before the block ends.
    """
    replace(*faults)
    try:
        yield
    finally:
        clear()
