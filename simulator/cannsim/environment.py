"""The environment in which a program finds cannsim's libraries, as CANN's set_env.sh makes it."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import metadata
from pathlib import Path

from cannsim import _profiles

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
    return _profiles.load(PACKAGE / "profiles", kind)


def version() -> str:
    """The version that is installed, or "of a source tree" where the package is not."""
    try:
        return metadata.version("cannsim")
    except metadata.PackageNotFoundError:
        return "of a source tree"


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


LAYOUT = 3
"""Raised when `toolkit_home` makes another tree, so that older ones in caches are made anew."""

_SCRIPT = """#!/bin/sh
# {what}
exec "${{CANNSIM_PYTHON:-python3}}" -m cannsim.{module} "$@"
"""


def toolkit_home(version: str) -> Path:
    """The directory that stands for the installed toolkit (``$ASCEND_HOME_PATH``): its libraries,
    version files and `msprof`; and, below it, for the driver with `npu-smi` and for NNAL.

    Made on first use, in the user's cache, for each installation of cannsim: two that run side by
    side must not take each other's libraries away.
    """
    cache_root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cannsim"
    installation = hashlib.sha256(str(LIBRARIES.resolve()).encode()).hexdigest()[:8]
    home = cache_root / "ascend-toolkit" / installation / version
    link, stamp = home / "lib64", home / f".layout-{LAYOUT}"
    if link.is_symlink() and link.resolve() == LIBRARIES.resolve() and stamp.exists():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{version}-", dir=home.parent))
    made.chmod(0o755)
    _fill_toolkit(made, version)
    if home.exists():
        shutil.rmtree(home)
    try:
        made.rename(home)
    except OSError:  # another process made it meanwhile
        shutil.rmtree(made)
    return home


def _fill_toolkit(home: Path, version: str) -> None:
    (home / "lib64").symlink_to(LIBRARIES)
    (home / f".layout-{LAYOUT}").touch()
    information = f"Version={version}\nversion_dir={version}\n"
    for module in ("runtime", "compiler", "toolkit", "opp", "hccl"):
        for folder in (home / module, home / "share" / "info" / module):
            folder.mkdir(parents=True)
            (folder / "version.info").write_text(information)
    machine = os.uname().machine
    architecture = home / f"{machine}-linux"
    architecture.mkdir()
    # Until CANN 8.5 the operators' kernels were a package of their own kind.
    if tuple(map(int, version.split(".")[:2])) >= (8, 5):
        packages = ("toolkit", "ops")
    else:
        packages = ("toolkit",)
        (home / "opp_kernel").mkdir()
        (home / "opp_kernel" / "version.info").write_text(information)
    for package in packages:
        (architecture / f"ascend_{package}_install.info").write_text(
            f"package_name=Ascend-cann-{package}\nversion={version}\narch={machine}\n"
            f"os=linux\npath={home}\n"
        )
    tools = home / "tools" / "profiler"
    script = tools / "profiler_tool" / "analysis" / "msprof" / "msprof.py"
    script.parent.mkdir(parents=True)
    script.write_text("from cannsim.msprof import main\n\nraise SystemExit(main())\n")
    _write_program(tools / "bin" / "msprof", "msprof", "CANN's profile exporter")
    _fill_driver(home / "driver", version)
    _fill_nnal(home / "nnal" / "atb" / "latest", version)


def _fill_driver(home: Path, version: str) -> None:
    libraries = home / "lib64" / "driver"
    libraries.mkdir(parents=True)
    (libraries / "libascend_hal.so").symlink_to(LIBRARIES / "libascend_hal.so")
    driver = profiles("cann")[version]["driver"]["value"]
    (home / "version.info").write_text(f"Version={driver}\npackage_version={driver}\n")
    _write_program(home / "tools" / "npu-smi", "npu_smi", "the driver's tool for devices")


def _fill_nnal(home: Path, version: str) -> None:
    libraries = home / "atb" / "cxx_abi_1" / "lib"
    libraries.mkdir(parents=True)
    (libraries / "libatb.so").symlink_to(LIBRARIES / "libatb.so")
    (home / "version.info").write_text(
        f"    Ascend-cann-atb : {version}\n    Ascend-cann-atb Version : {version}\n"
    )


def _write_program(path: Path, module: str, what: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_SCRIPT.format(module=module, what=f"Stands for {what}, over cannsim."))
    path.chmod(0o755)


def _before(first: Sequence[Path], paths: str, ours: str) -> str:
    """``paths`` with ``first`` before them, without what an earlier environment of ours added."""
    folders = list(map(str, first))
    return ":".join([*folders, *(p for p in paths.split(":") if p and ours not in p)])


def variables(settings: Settings, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment variables to set before the program starts.

    ``base`` is the environment whose ``LD_LIBRARY_PATH`` is extended (default: this process's).
    Raises SettingError.
    """
    check(settings)
    base = os.environ if base is None else base
    home = toolkit_home(settings.cann)
    made = {
        "ASCEND_HOME_PATH": str(home),
        "ASCEND_TOOLKIT_HOME": str(home),
        "ASCEND_OPP_PATH": str(home / "opp"),
        "ATB_HOME_PATH": str(home / "nnal" / "atb" / "latest" / "atb" / "cxx_abi_1"),
        "LD_LIBRARY_PATH": _before(
            (home / "lib64", home / "driver" / "lib64" / "driver"),
            base.get("LD_LIBRARY_PATH", ""),
            "/cannsim/",
        ),
        "PATH": _before(
            (home / "tools" / "profiler" / "bin", home / "driver" / "tools"),
            base.get("PATH", os.defpath),
            "/cannsim/ascend-",
        ),
        "CANNSIM_PYTHON": sys.executable,
        "CANNSIM_CHIP": settings.chip,
        "CANNSIM_CANN": settings.cann,
        "CANNSIM_DEVICES": str(settings.devices),
    }
    if settings.device_memory is not None:
        made["CANNSIM_DEVICE_MEMORY"] = str(settings.device_memory)
    if settings.extensions:
        made["CANNSIM_EXTENSIONS"] = ",".join(settings.extensions)
    return made
