"""Command line: `python -m matrix.checkpoints NAME...` builds checkpoints, prints their paths."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Build the named models' checkpoints; return the exit code."""
    from matrix import load
    from matrix.checkpoints import CheckpointError, materialise
    from matrix.errors import MatrixError, did_you_mean

    parser = argparse.ArgumentParser(prog="python -m matrix.checkpoints", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="models; all if none is named")
    parser.add_argument("--cache", type=Path, help="folder to build in")
    options = parser.parse_args(arguments)
    try:
        models = load().models
        for name in options.names:
            if name not in models:
                raise CheckpointError(
                    f"There is no model {name!r}.", fix=did_you_mean(name, models)
                )
        for name in options.names or models:
            started = time.monotonic()
            path = materialise(models[name], options.cache)
            print(f"{name}\t{path}\t{time.monotonic() - started:.1f} s", flush=True)
    except MatrixError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
