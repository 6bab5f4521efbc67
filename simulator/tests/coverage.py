"""How much of ATen works on `npu`: torch's own operator database (OpInfo) against the CPU.

    cannsim run -- python simulator/tests/coverage.py [--operators 'linalg.*'] [--json FILE]

Every operator of ``torch.testing._internal``'s database runs forward, in each dtype that it has on
the CPU, with that database's sample inputs, once on ``cpu`` and once on ``npu``. Each runs in a
process of its own, forked from one that has imported everything, so that a crash is a row of the
table. What counts for the share are the operators that torch-npu sends to the device; those that it
hands back to the CPU by itself are listed apart, whatever they give.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

DTYPES = ("float32", "float16", "bfloat16", "int64", "bool")
SAMPLES = 24
"""Most samples of one operator in one dtype; evenly taken where the database has more."""
SECONDS = 40
"""Time limit of one operator, all dtypes."""

TOLERANCES = {
    "torch.float32": (2e-5, 2e-5),
    "torch.float16": (4e-3, 4e-3),
    "torch.bfloat16": (3e-2, 3e-2),
    "torch.complex32": (4e-3, 4e-3),
    "torch.complex64": (5e-5, 5e-5),
}
"""Relative and absolute tolerance by dtype of the result; all others must be equal. A few units in
the last place more than in `tensors.py`: torch-npu puts some operators together from others, with
a rounding between them.
"""

RANDOM = {
    *("bernoulli", "cauchy", "exponential", "geometric", "log_normal", "multinomial", "normal"),
    *("rand_like", "randint", "randint_like", "randn", "randn_like", "uniform"),
    *("nn.functional.dropout", "nn.functional.dropout2d", "nn.functional.dropout3d"),
    *("nn.functional.alpha_dropout", "nn.functional.feature_alpha_dropout"),
    *("nn.functional.rrelu", "nn.functional.fractional_max_pool2d"),
    *("nn.functional.fractional_max_pool3d", "svd_lowrank", "pca_lowrank"),
    *("empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided"),
    *("resize_", "resize_as_"),
}
"""Operators whose values are random or not set: only shapes and dtypes are compared here (their
distributions are in test_random.py).
"""

HOST_OPERANDS = {"tensor_split"}
"""Operators whose tensor operands after the first are on the host on every device."""

READ_OUT = {"item"}
"""Operators whose result is a Python number: they copy to the host, and compute nothing there."""

FELL_BACK = re.compile(r"operator '?(aten::[\w.]+)'?[^\n]*fall ?back to (?:run on the )?CPU")
"""torch-npu's warning, on stderr, that it computes an operator on the CPU."""

NOT_IMPLEMENTED = re.compile(r"Could not run '(aten::[\w.]+)'|not implemented for '?(?:NPU|Priv)")
ABSENT = re.compile(r"not simulated|not in libopapi\.so")
REFUSALS = re.compile(r"error code is (161001|161002|561103)|ERR01(?:001|002|003|004|007)\b")
"""What says that the error is a refusal: the code of CANN's parameter checks, or torch-npu's own
(invalid parameter, type, value, pointer; feature not supported).
"""

AGREES, DIFFERS, FAILS, REFUSED = "agrees", "differs", "fails", "refused"
FALLBACK, VIEW, MISSING, SKIPPED = "cpu", "view", "missing", "skipped"
DEVICE = (AGREES, DIFFERS, FAILS)
"""Verdicts that count for the share."""

MEANING = {
    AGREES: "sent to the device, and the CPU's result in every dtype that is taken",
    DIFFERS: "sent to the device, and another result than the CPU's",
    FAILS: "sent to the device, and an error, a crash or a time-out",
    REFUSED: "refused in every dtype, by CANN's rules or torch-npu's",
    FALLBACK: "handed back to the CPU by torch-npu itself, at least in part",
    VIEW: "nothing to compute: views, shapes, allocation",
    MISSING: "not implemented by torch-npu",
    SKIPPED: "no CPU kernel to compare with",
}


@dataclass
class Outcome:
    """One dtype of an operator: how many samples did what, and the first thing that went wrong."""

    agree: int = 0
    differ: int = 0
    fail: int = 0
    refuse: int = 0
    missing: int = 0
    why: str = ""
    launches: list[str] = field(default_factory=list)
    host_copies: int = 0

    @property
    def verdict(self) -> str:
        for verdict in ("fail", "differ", "agree", "refuse"):
            if getattr(self, verdict):
                return {"fail": FAILS, "differ": DIFFERS, "agree": AGREES, "refuse": REFUSED}[
                    verdict
                ]
        return MISSING if self.missing else SKIPPED


@dataclass
class Row:
    """One operator of the database: its verdict and why, by dtype too."""

    name: str
    verdict: str
    why: str = ""
    dtypes: dict[str, Outcome] = field(default_factory=dict)
    fallbacks: list[str] = field(default_factory=list)
    seconds: float = 0.0


# ---- in the process of one operator ------------------------------------------------------------


class Stderr:
    """What this process writes to its standard error, by whatever library: kept in a file."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        os.dup2(self._file.fileno(), 2)

    def fallbacks(self) -> list[str]:
        """The ATen operators that torch-npu said it computes on the CPU."""
        self._file.seek(0)
        return sorted(set(FELL_BACK.findall(self._file.read().decode(errors="replace"))))


def moved(tensor: Any) -> Any:
    """The tensor on the device with its whole storage, in the same layout there."""
    import torch

    if tensor.layout != torch.strided:
        return tensor.to("npu")
    whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
    return whole.to("npu").as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def on_npu(value: Any) -> Any:
    """A sample's argument on the device, through tuples, lists and dicts."""
    import torch

    if isinstance(value, torch.Tensor):
        return moved(value.detach())
    if isinstance(value, torch.device) or (isinstance(value, str) and value == "cpu"):
        return torch.device("npu")
    if isinstance(value, dict):
        return {key: on_npu(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        made = [on_npu(item) for item in value]
        return type(value)(*made) if hasattr(value, "_fields") else type(value)(made)
    return value


def cloned(value: Any) -> Any:
    """A sample's argument again, so that an operator that writes to it leaves the other alone."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().clone() if value._base is None else value.detach()
    if isinstance(value, dict):
        return {key: cloned(item) for key, item in value.items()}
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return type(value)(cloned(item) for item in value)
    return value


def difference(got: Any, expected: Any, values: bool) -> str:
    """What is not alike in two results, or nothing."""
    import torch
    from torch.utils._pytree import tree_flatten

    left, right = tree_flatten(got)[0], tree_flatten(expected)[0]
    if len(left) != len(right):
        return f"{len(left)} results, expected {len(right)}"
    for one, other in zip(left, right, strict=True):
        if not isinstance(other, torch.Tensor):
            if values and one != other and not (one != one and other != other):
                return f"{one!r}, expected {other!r}"
            continue
        if one.dtype != other.dtype or one.shape != other.shape:
            return f"{one.dtype}{list(one.shape)}, expected {other.dtype}{list(other.shape)}"
        if not values:
            continue
        rtol, atol = TOLERANCES.get(str(other.dtype), (0.0, 0.0))
        try:
            torch.testing.assert_close(
                one.detach().cpu().to_dense() if other.is_sparse else one.detach().cpu(),
                other.detach().to_dense() if other.is_sparse else other.detach(),
                rtol=rtol,
                atol=atol,
                equal_nan=True,
                check_stride=False,
            )
        except AssertionError as error:
            return " ".join(str(error).split())[:160]
    return ""


def reason(error: BaseException) -> str:
    """The line of an error that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    simulated = [line for line in lines if "[cannsim]" in line]
    return (simulated or lines or [type(error).__name__])[0][:220]


def classify(error: BaseException) -> str:
    """Which count of an Outcome an error adds to."""
    text = str(error)
    if isinstance(error, NotImplementedError) or NOT_IMPLEMENTED.search(text):
        return "missing"
    return "refuse" if REFUSALS.search(text) and not ABSENT.search(text) else "fail"


def launched(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The operators that the device ran between two snapshots; a copy within it is one."""
    ran = {
        name
        for name, tally in after["launches"].items()
        if tally["count"] > before["launches"].get(name, {"count": 0})["count"]
    }
    copies = (before["copies"], after["copies"])
    if copies[1]["device_to_device"]["count"] > copies[0]["device_to_device"]["count"]:
        ran.add("copy")
    return sorted(ran)


def check(operator: Any, sample: Any, outcome: Outcome, values: bool) -> None:
    """Runs one sample on both devices and counts what came of it."""
    import torch
    from cannsim import counters

    call = operator.get_op()
    arguments = (sample.input, sample.args, sample.kwargs)
    first, rest, named = cloned(arguments)
    there = on_npu(arguments)
    if operator.name in HOST_OPERANDS:
        there = (there[0], sample.args, there[2])
    try:
        torch.manual_seed(0)
        expected = call(first, *rest, **named)
    except Exception:  # noqa: BLE001 - no result on the CPU, nothing to compare
        return
    before = after = counters.snapshot()
    try:
        torch.manual_seed(0)
        got = call(there[0], *there[1], **there[2])
        torch.npu.synchronize()
        after = counters.snapshot()
        unlike = difference(got, expected, values)
    except Exception as error:  # noqa: BLE001 - any error of an operator is a row
        kind = classify(error)
        setattr(outcome, kind, getattr(outcome, kind) + 1)
        outcome.why = outcome.why or reason(error)
    else:
        outcome.agree += not unlike
        outcome.differ += bool(unlike)
        if unlike and not (outcome.differ > 1 or outcome.fail):
            outcome.why = unlike
    outcome.launches = sorted({*outcome.launches, *launched(before, after)})
    copies = (before["copies"]["device_to_host"], after["copies"]["device_to_host"])
    outcome.host_copies += copies[1]["count"] - copies[0]["count"]


def samples(operator: Any, dtype: Any) -> list[Any]:
    """At most SAMPLES of the database's inputs, evenly taken."""
    import torch

    torch.manual_seed(0)
    made = list(operator.sample_inputs("cpu", dtype, requires_grad=False))
    step = max(1, -(-len(made) // SAMPLES))
    return made[::step]


def measure(operator: Any, compiled: bool, found: Connection) -> None:
    """All dtypes of one operator; the row goes through ``found``."""
    import torch

    began = time.monotonic()
    stderr = Stderr()
    torch.npu.set_device(0)
    if compiled:
        torch.npu.set_compile_mode(jit_compile=True)
    row = Row(label(operator), SKIPPED)
    values = operator.name not in RANDOM
    for name in DTYPES:
        dtype = getattr(torch, name)
        if dtype not in operator.supported_dtypes("cpu"):
            continue
        outcome = row.dtypes.setdefault(name, Outcome())
        found.send(asdict(row))
        for sample in samples(operator, dtype):
            drops = sample.kwargs.get("dropout_p", 0) > 0
            check(operator, sample, outcome, values and not drops)
    row.fallbacks = stderr.fallbacks()
    row.verdict, row.why = judge(row)
    row.seconds = round(time.monotonic() - began, 2)
    found.send(asdict(row))


def judge(row: Row) -> tuple[str, str]:
    """The verdict of an operator from those of its dtypes, and the first reason for it."""
    verdicts = {name: outcome.verdict for name, outcome in row.dtypes.items()}
    if row.fallbacks:
        return FALLBACK, ", ".join(row.fallbacks)
    ran = any(outcome.launches for outcome in row.dtypes.values())
    read = any(outcome.host_copies for outcome in row.dtypes.values())
    if read and not ran and row.name not in READ_OUT:
        return FALLBACK, "copied to the host, nothing launched"
    for verdict in (FAILS, DIFFERS, AGREES, REFUSED, MISSING):
        names = [name for name, found in verdicts.items() if found == verdict]
        if names:
            why = "; ".join(f"{name}: {row.dtypes[name].why}" for name in names[:1])
            if verdict == AGREES:
                refused = [name for name, found in verdicts.items() if found == REFUSED]
                return (AGREES if ran else VIEW), f"refused: {' '.join(refused)}" * bool(refused)
            return verdict, why
    return SKIPPED, ""


# ---- the parent --------------------------------------------------------------------------------


def label(operator: Any) -> str:
    variant = operator.variant_test_name
    return f"{operator.name}:{variant}" if variant else operator.name


def run(operators: list[Any], jobs: int, compiled: bool = False) -> Iterator[Row]:
    """A row for each operator, each measured in a child of its own, ``jobs`` at once."""
    context = multiprocessing.get_context("fork")
    waiting = list(operators)
    active: dict[Connection, tuple[Any, str, float, dict[str, Any] | None]] = {}
    while waiting or active:
        while waiting and len(active) < jobs:
            operator = waiting.pop(0)
            reader, writer = context.Pipe(duplex=False)
            child = context.Process(target=measure, args=(operator, compiled, writer))
            child.start()
            writer.close()
            active[reader] = (child, label(operator), time.monotonic(), None)
        ready = wait(list(active), timeout=1)
        for reader, (child, name, began, last) in list(active.items()):
            late = time.monotonic() - began > SECONDS
            if late:
                child.kill()
            elif reader not in ready:
                continue
            try:
                if late:
                    raise EOFError
                active[reader] = (child, name, began, reader.recv())
                continue
            except EOFError:
                del active[reader]
            child.join()
            reader.close()
            yield ended(name, last, child.exitcode, late)


def ended(name: str, last: dict[str, Any] | None, status: int | None, late: bool) -> Row:
    """The row of a child that has ended: what it sent, or how it ended instead."""
    row = Row(**(last or {"name": name, "verdict": SKIPPED}))
    row.dtypes = {key: Outcome(**value) for key, value in row.dtypes.items()}  # type: ignore[arg-type]
    if status == 0 and not late:
        return row
    how = f"took more than {SECONDS} s" if late else f"crashed (status {status})"
    row.verdict, row.why = FAILS, f"{[*row.dtypes][-1] if row.dtypes else 'samples'}: {how}"
    return row


def share(rows: list[Row]) -> float:
    """Of the operators that are sent to the device, those that agree, in percent."""
    sent = [row for row in rows if row.verdict in DEVICE]
    return 100 * sum(row.verdict == AGREES for row in sent) / len(sent) if sent else 0.0


def pairs(rows: list[Row]) -> Counter[str]:
    """Pairs of operator and dtype, by verdict, of the operators that are sent to the device."""
    return Counter(
        outcome.verdict for row in rows if row.verdict in DEVICE for outcome in row.dtypes.values()
    )


def show(rows: list[Row], seconds: float) -> None:
    """The tables: what went wrong, what is handed back, and the counts."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 180)
    for verdict in (FAILS, DIFFERS, REFUSED, MISSING, FALLBACK):
        chosen = sorted((row for row in rows if row.verdict == verdict), key=lambda row: row.name)
        if not chosen:
            continue
        table = Table("operator", "why", title=MEANING[verdict], title_justify="left")
        for row in chosen:
            table.add_row(row.name, row.why)
        console.print(table)
    totals = Table("verdict", "operators", "meaning")
    for verdict, meaning in MEANING.items():
        totals.add_row(verdict, str(sum(row.verdict == verdict for row in rows)), meaning)
    console.print(totals)
    count = pairs(rows)
    console.print(
        f"{share(rows):.1f}% of the operators that torch-npu sends to the device agree; by dtype "
        f"{count[AGREES]} pairs agree, {count[DIFFERS]} differ, {count[FAILS]} fail, "
        f"{count[REFUSED]} are refused. {seconds:.0f} s. Simulated: nothing ran on an NPU."
    )


def operators(pattern: str) -> list[Any]:
    """The database's operators that ``pattern`` selects. Raises SystemExit where none fits."""
    try:
        from torch.testing._internal.common_methods_invocations import op_db
    except ImportError as error:
        raise SystemExit(f"torch's operator database needs a package more: {error}") from None
    chosen = [op for op in op_db if fnmatch.fnmatchcase(label(op), pattern) or op.name == pattern]
    if not chosen:
        raise SystemExit(f"no operator of torch's database is called {pattern!r}")
    return chosen


def cover(pattern: str = "*", jobs: int | None = None, compiled: bool = False) -> list[Row]:
    """Measures the operators that ``pattern`` selects; to be called before a device is used.

    ``compiled``: in the mode in which torch-npu sends operators by their type's name to be compiled
    (the older interface), instead of calling aclnn functions.
    """
    import torch
    import torch_npu  # noqa: F401

    os.environ["TASK_QUEUE_ENABLE"] = "0"  # errors at the call
    torch.set_num_threads(1)
    rows = run(operators(pattern), jobs or os.cpu_count() or 1, compiled)
    return sorted(rows, key=lambda row: row.name)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--operators", default="*", help="names by pattern, as in 'linalg.*'")
    parser.add_argument("--json", type=Path, help="write every row there, by dtype too")
    parser.add_argument("--floor", type=float, default=0.0, help="fail below this share (percent)")
    parser.add_argument("--jobs", type=int, help="operators at once (default: the CPUs)")
    parser.add_argument(
        "--compiled", action="store_true", help="by the older interface (jit_compile=True)"
    )
    options = parser.parse_args()
    began = time.monotonic()
    rows = cover(options.operators, options.jobs, options.compiled)
    show(rows, time.monotonic() - began)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return int(share(rows) < options.floor)


if __name__ == "__main__":
    # Numba looks for a package of this file's name, and must not find this file.
    sys.path.remove(str(Path(__file__).parent))
    sys.exit(main())
