"""`npu-smi info`, in the words of the driver's own tool, for programs that ask it for devices."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence

from cannsim.environment import DEFAULT_CANN, DEFAULT_CHIP, profiles
from cannsim.smi import usages

USAGE = "npu-smi info [-l | -m]; cannsim has no other command of it"


def _devices() -> tuple[str, int, str]:
    """The chip, the number of devices and the driver's version of this environment."""
    chip = os.environ.get("CANNSIM_CHIP", DEFAULT_CHIP)
    cann = os.environ.get("CANNSIM_CANN", DEFAULT_CANN)
    count = int(os.environ.get("CANNSIM_DEVICES", "2"))
    return chip, count, profiles("cann")[cann]["driver"]["value"]


def name(chip: str) -> str:
    """What the tool calls a chip: 910B1, 310P3, and 910 for all of the A3 range."""
    return chip.removeprefix("Ascend").split("_")[0]


def listing() -> Iterator[str]:
    """`npu-smi info -l`: the cards."""
    chip, count, _ = _devices()
    yield f"\tTotal Count                    : {count}"
    for number in range(count):
        yield f"\n\tNPU ID                         : {number}"
        yield f"\tProduct Name                   : simulated {name(chip)}"
        yield "\tChip Count                     : 1"


def mapping() -> Iterator[str]:
    """`npu-smi info -m`: cards, chips and their names."""
    chip, count, _ = _devices()
    columns = ("NPU ID", "Chip ID", "Chip Logic ID", "Chip Name")
    rows = [(number, 0, number, f"Ascend {name(chip)}") for number in range(count)]
    for row in (columns, *rows):
        yield "\t" + "".join(f"{cell:<31}" for cell in row)


def overview() -> Iterator[str]:
    """`npu-smi info`: the memory that each chip has in use, in its table."""
    chip, count, driver = _devices()
    rule, double = "+" + "-" * 96 + "+", "+" + "=" * 96 + "+"
    parts = f"+{'-' * 27}+{'-' * 15}+{'-' * 52}+"
    yield from (rule, f"| {f'npu-smi {driver}':<33}{f'Version: {driver}':<62}|", parts)
    yield _row("NPU   Name", "Health", "Power(W)    Temp(C)           Hugepages-Usage(page)")
    yield _row("Chip", "Bus-Id", "AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)")
    total = int(
        os.environ.get("CANNSIM_DEVICE_MEMORY", profiles("chips")[chip]["hbm_bytes"]["value"])
    )
    found = usages()
    for number in range(count):
        used = sum(usage.used for usage in found if (usage.device, usage.chip) == (number, chip))
        yield double
        yield _row(f"{number:<5} {name(chip)}", "OK", "NA          NA                0    / 0")
        yield _row("0", "NA", f"NA          0    / 0          {used >> 20} / {total >> 20}")
    yield double


def _row(left: str, middle: str, right: str) -> str:
    return f"| {left:<26}| {middle:<14}| {right:<51}|"


def main(arguments: Sequence[str]) -> int:
    """Prints what was asked for; 1 where that is not here."""
    views = {("info",): overview, ("info", "-l"): listing, ("info", "-m"): mapping}
    view = views.get(tuple(arguments))
    if view is None:
        print(USAGE, file=sys.stderr)
        return 1
    print("\n".join(view()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
