"""Command line of the benchmarks: `python -m perf decode|compare`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from matrix import devices
from matrix.errors import MatrixError, UnknownPattern, did_you_mean
from perf import compare
from perf.decode import Result, Settings, measure

STARTED = "ASCEND_MATRIX_PERF_STARTED"
"""Set for the process that this one becomes, once it has its environment."""


def main(arguments: list[str] | None = None) -> int:
    """Run a benchmark; return the exit code."""
    options = _parser().parse_args(arguments)
    if options.command == "compare":
        return compare.run(options)
    from matrix import load
    from matrix.checkpoints import materialise

    try:
        if os.environ.get(STARTED) != "1":
            _become_prepared(options)
        models = load().models
        if options.model not in models:
            raise UnknownPattern(
                f"There is no model {options.model!r}.", fix=did_you_mean(options.model, models)
            )
        checkpoint = materialise(models[options.model])
    except MatrixError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    settings = Settings(
        checkpoint=checkpoint,
        model=options.model,
        dtype=options.dtype,
        batches=tuple(options.batch),
        prompt_tokens=options.prompt_tokens,
        tokens=options.tokens,
        repeats=options.repeats,
        threads=options.threads,
    )
    console = Console(stderr=True)
    results = measure(settings, lambda line: console.print(line, style="dim", highlight=False))
    document = report(settings, results)
    Console().print(table(settings, results))
    if options.json:
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0


def report(settings: Settings, results: list[Result]) -> dict[str, Any]:
    """Return everything that was measured and where, as plain data."""
    return {
        "benchmark": "decode",
        "evidence": "simulated" if simulated() else "hardware",
        "model": settings.model,
        "dtype": settings.dtype,
        "threads": settings.threads,
        "prompt_tokens": settings.prompt_tokens,
        "tokens": settings.tokens,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "chip": os.environ.get("CANNSIM_CHIP"),
        "extensions": os.environ.get("CANNSIM_EXTENSIONS"),
        "unit": "decoded tokens/s",
        "results": [result.as_json() for result in results],
    }


def table(settings: Settings, results: list[Result]) -> Table:
    """Return the rates as a table."""
    evidence = "simulated NPU" if simulated() else "NPU"
    made = Table(
        title=f"Decode of {settings.model}, {settings.dtype}, {settings.threads} threads, "
        f"{settings.repeats} pairs ({evidence})"
    )
    made.add_column("batch", justify="right")
    made.add_column("engine, tokens/s", justify="right")
    made.add_column("transformers on CPU, tokens/s", justify="right")
    made.add_column("ratio (95 %)", justify="right")
    for result in results:
        ratio = result.ratio
        made.add_row(
            str(result.batch),
            f"{sum(result.engine) / len(result.engine):.1f}",
            f"{sum(result.transformers) / len(result.transformers):.1f}",
            f"{ratio.mean:.2f} ({ratio.low:.2f} to {ratio.high:.2f})",
        )
    return made


def simulated() -> bool:
    """Whether this process runs over the simulator."""
    return "CANNSIM_CHIP" in os.environ


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m perf", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    decode = commands.add_parser("decode", help="decode rate next to transformers on the CPU")
    decode.add_argument("--model", default="smollm2-135m", help="a model of the matrix")
    decode.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    decode.add_argument("--batch", type=int, nargs="+", default=[1, 8], metavar="N")
    decode.add_argument("--prompt-tokens", type=int, default=32, metavar="N")
    decode.add_argument("--tokens", type=int, default=64, metavar="N", help="per sequence")
    decode.add_argument("--repeats", type=int, default=5, metavar="N", help="interleaved pairs")
    decode.add_argument("--threads", type=int, default=os.cpu_count() or 1, metavar="N")
    decode.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    decode.add_argument("--hardware", action="store_true", help="use the NPU of this machine")
    two = commands.add_parser("compare", help="two trees: counters exactly, host time in pairs")
    compare.add_arguments(two)
    return parser


def _become_prepared(options: argparse.Namespace) -> None:
    """Replace this process by itself with the device's and the threads' variables set.

    Libraries are found and thread pools are sized when a process starts.
    """
    threads = str(options.threads)
    variables = {
        STARTED: "1",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
    }
    if not options.hardware:
        chip, cann = (os.environ.get(f"CANNSIM_{name}") for name in ("CHIP", "CANN"))
        variables |= devices.simulated(chip or "Ascend910B1", cann or "9.1.0", options.dtype)
    os.execve(
        sys.executable, [sys.executable, "-m", "perf", *sys.argv[1:]], {**os.environ, **variables}
    )


if __name__ == "__main__":
    sys.exit(main())
