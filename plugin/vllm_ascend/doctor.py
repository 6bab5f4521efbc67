"""`python -m vllm_ascend.doctor`: what is installed, whether it fits together, and what to do.

Everything that could crash in a broken installation, torch-npu above all, runs in a child.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from vllm_ascend.installation import Finding, Machine, State, examine, releases

EXIT_CODES: dict[State, int] = {
    "fits": 0,
    "advice": 0,
    "missing": 3,
    "environment": 4,
    "mismatch": 5,
    "unsupported": 6,
    "unknown": 7,
}
"""The exit code of each state, the gravest first; 1 and 2 are Python's and argparse's."""

PROBE_SECONDS = 120

PROBE = """
import json, torch, torch_npu
from vllm_ascend.chips import UnknownChip, chip
found = {"devices": torch.npu.device_count(), "soc": torch_npu._C._npu_get_soc_version()}
try:
    found["series"] = chip().series
except UnknownChip as error:
    found["unknown"] = str(error)
print("\\nprobe:" + json.dumps(found))
"""

_CAUSES: tuple[tuple[str, State, str], ...] = (
    ("cannot open shared object file", "environment", "source the toolkit's set_env.sh"),
    ("undefined symbol", "mismatch", "install the versions of torch and torch-npu that fit"),
    ("No module named", "missing", "install what is missing in this environment"),
    ("ASCEND_OPP_PATH", "environment", "source the toolkit's set_env.sh"),
)


def probe() -> Iterator[Finding]:
    """Loads torch-npu in a child, and asks it for the chip; else asks the driver's npu-smi."""
    try:
        ran = subprocess.run(
            [sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=PROBE_SECONDS
        )
    except subprocess.TimeoutExpired:
        reason = f"loading it took over {PROBE_SECONDS} s"
        yield Finding("torch-npu loads", "unknown", reason=reason, action="npu-smi info")
        return
    told = re.search(r"^probe:(.*)$", ran.stdout, re.MULTILINE)
    if told is None:
        yield _not_loaded(ran)
        yield _chip_by_driver()
        return
    found = json.loads(told[1])
    yield Finding("torch-npu loads", "fits", "yes", sys.executable)
    devices, place = found["devices"], "torch_npu"
    if "unknown" in found:
        action = "take a chip of one of these ranges"
        yield Finding(
            "chip", "unsupported", f"number {found['soc']}", place, found["unknown"], action
        )
    elif devices == 0:
        reason = "torch-npu sees no NPU"
        action = "check `npu-smi info`, the devices /dev/davinci*, and ASCEND_RT_VISIBLE_DEVICES"
        yield Finding("chip", "missing", found["series"], place, reason, action)
    else:
        yield Finding("chip", "fits", f"{devices} x {found['series']}", place)


def _not_loaded(ran: subprocess.CompletedProcess[str]) -> Finding:
    """Why the child could not load torch-npu, by its last messages."""
    errors = [
        text for text in ran.stderr.splitlines() if re.match(r"\w[\w.]*(Error|Exception)", text)
    ]
    # torch wraps the cause, which comes first.
    reason = errors[0] if errors else f"the child ended with status {ran.returncode}"
    for sign, state, action in _CAUSES:
        if sign in ran.stderr:
            return Finding("torch-npu loads", state, "no", sys.executable, reason, action)
    action = f"see the whole message: {sys.executable} -c 'import torch_npu'"
    return Finding("torch-npu loads", "unknown", "no", sys.executable, reason, action)


def _chip_by_driver() -> Finding:
    """The chip as `npu-smi info -m` names it, as in `Ascend 910B1`."""
    program = shutil.which("npu-smi")
    action = "install the driver, and mount /usr/local/bin/npu-smi into a container"
    if program is None:
        return Finding("chip", "unknown", reason="there is no npu-smi to ask", action=action)
    ran = subprocess.run([program, "info", "-m"], capture_output=True, text=True)
    names = re.findall(r"\sAscend\s?(\w+)\s*$", ran.stdout, re.MULTILINE)
    if not names:
        reason = f"npu-smi names none: {(ran.stdout + ran.stderr).strip()[:200]}"
        return Finding("chip", "missing", "", program, reason, action)
    for row in releases()["chips"]:
        if re.fullmatch(row["name"], names[0]):
            return Finding("chip", "fits", f"{len(names)} x {row['series']}", program)
    known = ", ".join(row["series"] for row in releases()["chips"])
    reason = f"vllm-ascend does not know it; it knows {known}"
    return Finding("chip", "unsupported", names[0], program, reason, f"take one of {known}")


def findings(machine: Machine, *, quick: bool) -> list[Finding]:
    """All that was found; without what needs a child if `quick`."""
    return [*examine(machine), *(() if quick else probe())]


def gravest(found: Sequence[Finding]) -> State:
    """The state that the whole has: ``fits``, or that of the gravest problem."""
    states = {finding.state for finding in found} - {"advice"}
    return next((s for s in (*list(EXIT_CODES)[2:], "fits") if s in states), "fits")


def table(found: Sequence[Finding]) -> str:
    """The findings as text: one line a part, and below it what is wrong and what to do."""
    lines = []
    for f in found:
        lines.append(f"{f.part:<16}{f.state:<13}{f.version:<26}{f.place}".rstrip())
        lines += [f"{'':16}{text}" for text in (f.reason, f.action and f"-> {f.action}") if text]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the findings; the exit code says of what kind the gravest problem is."""
    parser = argparse.ArgumentParser(prog="python -m vllm_ascend.doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("--quick", action="store_true", help="do not load torch-npu in a child")
    asked = parser.parse_args(arguments)
    found = findings(Machine(), quick=asked.quick)
    state = gravest(found)
    if asked.json:
        whole = {"state": state, "findings": [asdict(f) for f in found], **releases()["release"]}
        print(json.dumps(whole, indent=2))
    else:
        print(table(found))
        print(f"\nvllm-ascend {releases()['release']['plugin']}: {state}")
    return EXIT_CODES[state]


if __name__ == "__main__":
    sys.exit(main())
