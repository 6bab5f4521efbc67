"""Reads the profile data: chips, with what they take over from others, and CANN versions.

Standard library only and without imports of the package: the build reads the data with it too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

Profiles = dict[str, dict[str, Any]]


def load(directory: Path, kind: str) -> Profiles:
    """Profiles by name, each complete; ``kind`` is ``chips`` or ``cann``.

    ``like`` of a chip is resolved here. ``lacks`` of a CANN version is what it lacks in all: a
    newer version's too, since what appeared later was not there before. Raises KeyError for a
    ``like`` that names no chip.
    """
    found = tomllib.loads((directory / f"{kind}.toml").read_text())
    if kind == "cann":
        return _with_newer_lacks(found)
    return {name: _resolved(found, name) for name in found}


def _resolved(found: Profiles, name: str) -> dict[str, Any]:
    own = dict(found[name])
    parent = own.pop("like", None)
    return {**_resolved(found, parent), **own} if parent else own


def _with_newer_lacks(found: Profiles) -> Profiles:
    later: list[str] = []
    made = {}
    for version, profile in reversed(found.items()):
        later = sorted({*later, *profile["lacks"]})
        made[version] = {**profile, "lacks": later}
    return dict(reversed(made.items()))
