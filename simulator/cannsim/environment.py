"""The environment in which a program finds cannsim's libraries, as CANN's set_env.sh makes it."""

from __future__ import annotations

import os
import shutil
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
LIBRARIES = PACKAGE / "lib64"
DEFAULT_CHIP = "Ascend910B1"
DEFAULT_CANN = "9.1.0"
MAX_DEVICES = 64


class SettingError(ValueError):
    """A setting that names no profile, or is out of range."""


@dataclass(frozen=True)
class Settings:
    """What is simulated: the chip (as ``aclrtGetSocName`` names it), the CANN version, the number
    of devices, the memory of each in bytes (``None``: the chip's own), and extensions.

    The extension ``float32-attention`` lets fused attention take float32, which the chip refuses:
    for exact comparison with a float32 reference.
    """

    chip: str = DEFAULT_CHIP
    cann: str = DEFAULT_CANN
    devices: int = 2
    device_memory: int | None = None
    extensions: tuple[str, ...] = ()


EXTENSIONS = ("float32-attention",)


@cache
def profiles(kind: str) -> dict[str, dict]:
    """Profile data by name; ``kind`` is ``chips`` or ``cann``."""
    return tomllib.loads((PACKAGE / "profiles" / f"{kind}.toml").read_text())


def check(settings: Settings) -> None:
    """Raises SettingError, naming the nearest profile, unless all settings can be honoured."""
    _check_name("chip", settings.chip, tuple(profiles("chips")))
    _check_name("CANN version", settings.cann, tuple(profiles("cann")))
    for extension in settings.extensions:
        _check_name("extension", extension, EXTENSIONS)
    if not 1 <= settings.devices <= MAX_DEVICES:
        raise SettingError(f"{settings.devices} devices; from 1 to {MAX_DEVICES} can be simulated")


def _check_name(what: str, name: str, known: tuple[str, ...]) -> None:
    if name in known:
        return
    near = get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]}?" if near else "."
    raise SettingError(f"unknown {what} {name!r}{hint} Known: {', '.join(known)}")


def toolkit_home(version: str) -> Path:
    """The directory that stands for the installed toolkit (``$ASCEND_HOME_PATH``): its libraries
    and version files. Made on first use, in the user's cache.
    """
    cache_root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cannsim"
    home = cache_root / "ascend-toolkit" / version
    link = home / "lib64"
    if link.is_symlink() and link.resolve() == LIBRARIES.resolve():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{version}-", dir=home.parent))
    (made / "lib64").symlink_to(LIBRARIES)
    for folder in ("opp", "runtime", "compiler", "toolkit"):
        (made / folder).mkdir()
    for module in ("runtime", "compiler", "toolkit", "opp", "hccl"):
        information = made / "share" / "info" / module
        information.mkdir(parents=True)
        (information / "version.info").write_text(f"Version={version}\nversion_dir={version}\n")
    if home.exists():
        shutil.rmtree(home)
    made.rename(home)
    return home


def variables(settings: Settings, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment variables to set before the program starts.

    ``base`` is the environment whose ``LD_LIBRARY_PATH`` is extended (default: this process's).
    Raises SettingError.
    """
    check(settings)
    base = os.environ if base is None else base
    home = toolkit_home(settings.cann)
    paths = [str(home / "lib64")]
    paths += [
        p
        for p in base.get("LD_LIBRARY_PATH", "").split(":")
        if p and p not in paths and "/cannsim/" not in p
    ]
    made = {
        "ASCEND_HOME_PATH": str(home),
        "ASCEND_TOOLKIT_HOME": str(home),
        "ASCEND_OPP_PATH": str(home / "opp"),
        "LD_LIBRARY_PATH": ":".join(paths),
        "CANNSIM_CHIP": settings.chip,
        "CANNSIM_CANN": settings.cann,
        "CANNSIM_DEVICES": str(settings.devices),
    }
    if settings.device_memory is not None:
        made["CANNSIM_DEVICE_MEMORY"] = str(settings.device_memory)
    if settings.extensions:
        made["CANNSIM_EXTENSIONS"] = ",".join(settings.extensions)
    return made
