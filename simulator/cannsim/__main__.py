"""The command line: `cannsim env`, `run -- COMMAND`, `info`, `smi`, `doctor`."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from cannsim import doctor, reference, smi
from cannsim.environment import (
    DEFAULT_CANN,
    DEFAULT_CHIP,
    LIBRARIES,
    SettingError,
    Settings,
    check,
    profiles,
    variables,
    version,
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cannsim",
        description="Runs torch-npu programs on a CPU, over simulated Ascend devices.",
    )
    parser.add_argument("--version", action="version", version=f"cannsim {version()}")
    commands = parser.add_subparsers(dest="command", required=True)
    settings = argparse.ArgumentParser(add_help=False)
    settings.add_argument(
        "--chip",
        default=os.environ.get("CANNSIM_CHIP", DEFAULT_CHIP),
        help="chip profile (%(default)s)",
    )
    settings.add_argument(
        "--cann",
        default=os.environ.get("CANNSIM_CANN", DEFAULT_CANN),
        help="CANN version (%(default)s)",
    )
    settings.add_argument(
        "--devices",
        type=int,
        default=os.environ.get("CANNSIM_DEVICES", "2"),
        help="number of devices (%(default)s)",
    )
    settings.add_argument(
        "--device-memory", type=int, metavar="BYTES", help="memory of each device (the chip's own)"
    )
    settings.add_argument("--extension", action="append", default=[], help="e.g. float32-attention")

    env = commands.add_parser(
        "env", parents=[settings], help="print the environment: `eval $(cannsim env)`"
    )
    env.add_argument("--json", action="store_true", help="as a JSON object")
    run = commands.add_parser("run", parents=[settings], help="run a command in the environment")
    run.add_argument(
        "--counters",
        type=Path,
        metavar="DIRECTORY",
        help="each process writes its counters there at exit",
    )
    run.add_argument(
        "--timeline",
        type=Path,
        metavar="DIRECTORY",
        help="each process writes a timeline there (open it in Perfetto)",
    )
    run.add_argument(
        "--paced", action="store_true", help="launches take the time that the chip's model gives"
    )
    run.add_argument("arguments", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    info = commands.add_parser("info", help="chips, CANN versions and operators")
    info.add_argument("--json", action="store_true")
    info.add_argument("--markdown", action="store_true", help="reference pages")
    commands.add_parser(
        "smi", parents=[settings], help="devices, their memory and the processes that use them"
    ).add_argument("--json", action="store_true")
    commands.add_parser(
        "doctor", parents=[settings], help="what is installed, whether it fits, and what to do"
    )
    return parser


def _settings(arguments: argparse.Namespace) -> Settings:
    return Settings(
        arguments.chip,
        arguments.cann,
        arguments.devices,
        arguments.device_memory,
        tuple(arguments.extension),
    )


def _env(arguments: argparse.Namespace) -> int:
    made = variables(_settings(arguments))
    if arguments.json:
        print(json.dumps(made, indent=2))
    else:
        for name, value in made.items():
            print(f"export {name}={shlex.quote(value)}")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    command = arguments.arguments[1:] if arguments.arguments[:1] == ["--"] else arguments.arguments
    if not command:
        raise SettingError("no command; write `cannsim run -- python program.py`")
    environment = os.environ | variables(_settings(arguments))
    if arguments.counters is not None:
        arguments.counters.mkdir(parents=True, exist_ok=True)
        environment["CANNSIM_COUNTERS"] = str(arguments.counters.resolve())
    if arguments.timeline is not None:
        arguments.timeline.mkdir(parents=True, exist_ok=True)
        environment["CANNSIM_TIMELINE"] = str(arguments.timeline.resolve())
    if arguments.paced:
        environment["CANNSIM_PACED"] = "1"
    try:
        os.execvpe(command[0], command, environment)
    except FileNotFoundError:
        raise SettingError(f"command not found: {command[0]}") from None


def operators() -> list[str]:
    """The aclnn functions that libopapi.so exports, read from its symbol table."""
    data = (LIBRARIES / "libopapi.so").read_bytes()
    suffix = b"GetWorkspaceSize\0"
    names, at = set(), data.find(suffix)
    while at >= 0:
        start = data.rfind(b"\0", 0, at) + 1
        name = data[start:at].decode("ascii", "replace")
        if name.startswith("aclnn") and name.isalnum():
            names.add(name)
        at = data.find(suffix, at + 1)
    return sorted(names)


def _info(arguments: argparse.Namespace) -> int:
    names = operators()
    if arguments.markdown:
        print(reference.markdown(names))
        return 0
    if arguments.json:
        print(
            json.dumps(
                {"chips": profiles("chips"), "cann": profiles("cann"), "operators": names}, indent=2
            )
        )
        return 0
    print(f"cannsim {version()}: simulated; nothing here has run on an NPU")
    for chip, profile in profiles("chips").items():
        print(
            f"  chip  {chip} ({profile['series']}), {profile['hbm_bytes']['value'] / 2**30:.0f} GiB"
        )
    for release, profile in profiles("cann").items():
        count = len(profile["lacks"])
        print(f"  CANN  {release}, lacks {f'{count} families' if count else 'nothing'}")
    print(f"  aclnn operators: {len(names)}")
    return 0


def _smi(arguments: argparse.Namespace) -> int:
    found = smi.usages()
    if arguments.json:
        print(json.dumps([asdict(usage) for usage in found], indent=2))
        return 0
    settings = _settings(arguments)
    check(settings)
    print(smi.table(settings, found))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    return doctor.report(_settings(arguments))


COMMANDS = {"env": _env, "run": _run, "info": _info, "smi": _smi, "doctor": _doctor}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; 2 is bad usage, 1 of `doctor` that programs cannot run here."""
    arguments = _parser().parse_args(argv)
    try:
        return COMMANDS[arguments.command](arguments)
    except SettingError as error:
        print(f"cannsim: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
