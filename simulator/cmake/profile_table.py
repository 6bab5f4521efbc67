"""Turns the profiles (TOML) into the C++ table that the runtime compiles in.

Usage: profile_table.py PROFILE_DIRECTORY OUTPUT
"""

import json
import sys
import tomllib
from pathlib import Path


def quoted(value: object) -> str:
    """A C++ string literal (JSON's escapes are a subset of C++'s)."""
    return json.dumps(str(value))


def chip_rows(chips: dict[str, dict]) -> list[str]:
    """Rows of ``kChips``."""
    rows = []
    for soc, chip in chips.items():
        numbers = (
            chip["hbm_bytes"]["value"],
            chip["cube_cores"]["value"],
            chip["vector_cores"]["value"],
            chip["l2_bytes"]["value"],
        )
        rows.append(f"  {{{quoted(soc)}, {', '.join(f'{n}LL' for n in numbers)}}},")
    return rows


def version_rows(versions: dict[str, dict]) -> list[str]:
    """Rows of ``kCannVersions``."""
    rows = []
    for version, cann in versions.items():
        lacks = ", ".join(quoted(name) for name in cann["lacks"])
        rows.append(f"  {{{quoted(version)}, {quoted(cann['driver']['value'])}, {{{lacks}}}}},")
    return rows


def main(directory: Path, output: Path) -> None:
    """Reads the profiles in ``directory`` and writes the table."""
    chips = tomllib.loads((directory / "chips.toml").read_text())
    versions = tomllib.loads((directory / "cann.toml").read_text())
    lines = [
        "// Generated from cannsim/profiles/*.toml; edit those.",
        "static const ChipProfile kChips[] = {",
        *chip_rows(chips),
        "};",
        "static const CannProfile kCannVersions[] = {",
        *version_rows(versions),
        "};",
    ]
    output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
