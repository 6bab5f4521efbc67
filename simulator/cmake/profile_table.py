"""Turns the profiles (TOML) into the C++ table that the runtime compiles in.

Usage: profile_table.py PROFILE_DIRECTORY OUTPUT
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(sys.argv[1]).parent))
import _profiles

# In the order of ChipProfile's members (src/runtime/runtime.h).
WHOLE = ("hbm_bytes", "cube_cores", "vector_cores", "l2_bytes")
RATES = (
    "hbm_bytes_per_second",
    "cube_float16_flops",
    "cube_float32_flops",
    "cube_int8_ops",
    "vector_flops",
    "host_link_bytes_per_second",
    "device_link_bytes_per_second",
    "efficiency",
    "launch_ns",
    "copy_ns",
)


def quoted(value: object) -> str:
    """A C++ string literal (JSON's escapes are a subset of C++'s)."""
    return json.dumps(str(value))


def strings(values: list[str]) -> str:
    """A braced list of C++ string literals."""
    return "{" + ", ".join(quoted(value) for value in values) + "}"


def chip_row(soc: str, chip: dict[str, Any]) -> str:
    """A row of ``kChips``."""
    members = [quoted(soc), quoted(chip["series"])]
    members += [f"{chip[name]['value']}LL" for name in WHOLE]
    members += [f"{float(chip[name]['value'])!r}" for name in RATES]
    members += [strings(chip[name]["value"]) for name in ("lacks_types", "lacks")]
    return f"  {{{', '.join(members)}}},"


def version_row(version: str, cann: dict[str, Any]) -> str:
    """A row of ``kCannVersions``."""
    driver = quoted(cann["driver"]["value"])
    return f"  {{{quoted(version)}, {driver}, {strings(cann['lacks'])}}},"


def main(directory: Path, output: Path) -> None:
    """Reads the profiles in ``directory`` and writes the table."""
    lines = [
        "// Generated from cannsim/profiles/*.toml; edit those.",
        "static const ChipProfile kChips[] = {",
        *(chip_row(*item) for item in _profiles.load(directory, "chips").items()),
        "};",
        "static const CannProfile kCannVersions[] = {",
        *(version_row(*item) for item in _profiles.load(directory, "cann").items()),
        "};",
    ]
    output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
