"""Starts an engine with each of several wrong inputs, in a child each, and writes what it said.

The stack is imported once, and forked: `bad_starts.py CASES OUT`, both JSON. A case is a name with
the keyword arguments of `vllm.LLM`; the outcome is the error's class and text, or none.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any


def start(arguments: dict[str, Any]) -> dict[str, str] | None:
    """What an engine with these arguments fails with: the class, the text, and the traceback."""
    from vllm import LLM

    try:
        LLM(**arguments)
    except Exception as error:  # noqa: BLE001 - which one it is, is what is asked
        trace = traceback.format_exc()
        return {"class": type(error).__name__, "text": str(error), "trace": trace}
    return None


def main(cases: Path, out: Path) -> None:
    """Runs the cases one after the other."""
    import vllm_ascend.model_runner
    import vllm_ascend.worker  # noqa: F401 - what is imported here, no child has to

    outcomes: dict[str, Any] = {}
    for name, arguments in json.loads(cases.read_text()).items():
        sys.stdout.flush()
        told = out.with_suffix(f".{name}")
        child = os.fork()
        if child == 0:
            status = 1
            try:
                told.write_text(json.dumps(start(arguments)))
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        crashed = {"class": "crash", "text": f"status {os.waitstatus_to_exitcode(status)}"}
        outcomes[name] = json.loads(told.read_text()) if status == 0 else crashed
    out.write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
