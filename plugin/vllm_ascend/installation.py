"""What of an Ascend installation is there, read from files and variables, and whether it fits.

Nothing here imports torch or starts a process, so that it can look at an installation in which
neither would work, and costs an engine's start next to nothing.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

State = Literal["fits", "advice", "missing", "environment", "mismatch", "unsupported", "unknown"]

SKIP = "VLLM_ASCEND_SKIP_CHECK"
DOCTOR = "python -m vllm_ascend.doctor"


class UnfitInstallation(RuntimeError):
    """Parts of the installation are missing or do not fit; the message says what to do."""


@dataclass(frozen=True)
class Finding:
    """One part of the installation.

    Attributes:
        part: its name.
        state: whether it fits; an ``advice`` can be left.
        version: the version that was found, or what stands for it.
        place: the file or variable that says so.
        reason: why the state is not ``fits``.
        action: what to do about it.
    """

    part: str
    state: State
    version: str = ""
    place: str = ""
    reason: str = ""
    action: str = ""

    def __str__(self) -> str:
        return f"{' '.join(filter(None, (self.part, self.version)))}: {self.reason or self.state}"


def _package(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True)
class Machine:
    """Where to look: the variables, the file system, and the Python packages.

    Attributes:
        loaded: whether this process has torch-npu loaded, and with it CANN's libraries.
    """

    variables: Mapping[str, str] = field(default_factory=lambda: os.environ)
    root: Path = Path("/")
    package: Callable[[str], str | None] = _package
    python: str = field(default_factory=platform.python_version)
    loaded: bool = field(default_factory=lambda: "torch_npu" in sys.modules)

    @property
    def ascend(self) -> tuple[Path, ...]:
        """Folders that CANN's installers take by themselves."""
        folders = [self.root / "usr/local/Ascend"]
        if "HOME" in self.variables:
            folders.append(Path(self.variables["HOME"]) / "Ascend")
        return tuple(folders)

    @property
    def libraries(self) -> tuple[Path, ...]:
        """Folders in which the loader looks first."""
        return tuple(map(Path, filter(None, self.variables.get("LD_LIBRARY_PATH", "").split(":"))))

    def folder(self, variable: str) -> Path | None:
        """The folder that a variable names, if it is there."""
        given = self.variables.get(variable)
        return Path(given) if given and Path(given).is_dir() else None


@cache
def releases() -> dict[str, Any]:
    """The tables of `releases.toml`."""
    return tomllib.loads((Path(__file__).parent / "releases.toml").read_text())


def ordered(version: str) -> tuple[int, int, int, int]:
    """A key that sorts versions of CANN and its drivers: 8.3.RC1 before 8.3.0 before 8.5.0."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(rc)?(\d+))?", version, re.IGNORECASE)
    if found is None:
        return (0, 0, 0, 0)
    major, minor, candidate, patch = found.groups()
    return (int(major), int(minor), 0 if candidate else 1, int(patch or 0))


def line(version: str) -> str:
    """The first two numbers of a version."""
    return ".".join(version.split(".")[:2])


def values(file: Path) -> dict[str, str]:
    """The ``name=value`` and ``name : value`` lines of one of CANN's files; none if unreadable."""
    try:
        text = file.read_text(errors="replace")
    except OSError:
        return {}
    return dict(re.findall(r"^[ \t]*(\w[\w -]*?)[ \t]*[=:][ \t]*(\S.*?)[ \t]*$", text, re.M))


# In the order in which they count: a file of the driver or of a component may give the product's
# version beside its own.
_KEYS = ("version", "package_version", "version_dir", "Version", "Ascend-cann-atb")


def _stated(home: Path, *places: str) -> tuple[str, str] | None:
    """The version that the first file of a folder states, and that file."""
    for file in (file for place in places for file in sorted(home.glob(place))):
        given = values(file)
        for key in (key for key in _KEYS if key in given):
            return given[key], str(file)
        for key in ("toolkit_running_version", "toolkit_installed_version"):
            # As in [7.6.0.1.220:8.0.0]: the inner and the product's version, the newest last.
            if found := re.findall(r":([^\]]+)\]", given.get(key, "")):
                return found[-1], str(file)
    return None


# ---- the parts ----


def packages(machine: Machine) -> Iterator[Finding]:
    """Python, torch, torch-npu and vLLM, against this plugin's release."""
    release = releases()["release"]
    made_for = f"vllm-ascend {release['plugin']} is made for"
    right = release["python"]
    if line(machine.python) == right:
        yield Finding("Python", "fits", machine.python, sys.executable)
    else:
        action = f"make an environment with it: python{right} -m venv, and install there"
        reason = f"{made_for} {right}"
        yield Finding("Python", "mismatch", machine.python, sys.executable, reason, action)
    for name, wanted in (
        ("torch", release["torch"]),
        ("torch-npu", release["torch_npu"]),
        ("vLLM", release["vllm"]),
    ):
        found, action = machine.package(name.lower()), f'pip install "{name.lower()}=={wanted}"'
        if found is None:
            yield Finding(name, "missing", "", "pip", "it is not installed", action)
        elif _base(found) == wanted:
            yield Finding(name, "fits", found, "pip")
        else:
            reason, other = f"{made_for} {wanted}", _others(name, _base(found))
            yield Finding(name, "mismatch", found, "pip", reason + other, action)


def _base(version: str) -> str:
    """A Python package's version without what is the build's: 2.13.0+cpu and 2.13.0.post2."""
    return re.split(r"\+|\.post|\.dev", version)[0]


def _others(name: str, version: str) -> str:
    """What a version of torch-npu or vLLM that is not this release's belongs to."""
    for row in releases()["torch_npu"]:
        if name == "torch-npu" and _base(row["version"]) == version:
            return f"; torch-npu {version} is for torch {row['torch']} and CANN {row['cann']}"
    for row in releases()["upstream"]:
        if name == "vLLM" and row["vllm"] == version:
            return (
                f"; vLLM {version} has vLLM Ascend {row['plugin']}, with CANN {row['cann']} and "
                f"torch-npu {row['torch_npu']}"
            )
    return ""


def toolkit(machine: Machine) -> Path | None:
    """The folder of CANN's toolkit: the one in use, else one that is installed."""
    installed = (a / name for a in machine.ascend for name in ("cann", "ascend-toolkit/latest"))
    return (
        machine.folder("ASCEND_HOME_PATH")
        or machine.folder("ASCEND_TOOLKIT_HOME")
        or next((folder for folder in installed if folder.is_dir()), None)
    )


_TOOLKIT = (
    "*-linux/ascend_toolkit_install.info",
    "ascend_toolkit_install.info",
    "version.cfg",
    "compiler/version.info",
)


def cann(machine: Machine) -> Iterator[Finding]:
    """CANN's toolkit, the environment that its set_env.sh makes, and its operators' kernels."""
    home, wanted = toolkit(machine), releases()["release"]["cann_paired"]
    if home is None:
        run = f"Ascend-cann-toolkit_{wanted}_linux-{platform.machine()}.run"
        yield Finding(
            "CANN toolkit",
            "missing",
            place=", ".join(map(str, machine.ascend)),
            reason="ASCEND_HOME_PATH names no folder, and there is none in the usual places",
            action=f"install CANN {wanted} (bash {run} --install), then source its set_env.sh",
        )
        return
    version, file = _stated(home, *_TOOLKIT) or ("", str(home))
    yield Finding("CANN toolkit", *_judged(version, file))
    yield _environment(machine, home)
    yield _kernels(home, version)


def _judged(version: str, file: str) -> tuple[State, str, str, str, str]:
    """What a version of the toolkit is worth, as the fields of a finding."""
    release = releases()["release"]
    wanted, known = release["cann_paired"], sorted(release["cann"], key=ordered)
    pair = f"torch-npu {release['torch_npu']} is taken to be for CANN {wanted}"
    change = f"install CANN {wanted}, and source its set_env.sh"
    if not version:
        return "unknown", "", file, "no file there states its version", change
    if ordered(version) < ordered(known[0]):
        reason = f"it is too old: {pair}, and {known[0]} is the oldest that was tried"
        return "mismatch", version, file, reason, change
    if line(version) == line(wanted):
        return "fits", version, file, "", ""
    if ordered(line(version)) > ordered(line(known[-1])):
        return "unknown", version, file, f"it is newer than all that were tried: {pair}", change
    return "advice", version, file, f"{pair}; it lacks operators that came later", change


def _environment(machine: Machine, home: Path) -> Finding:
    # A toolkit has its script in its own folder, or in the one above its versions.
    scripts = (home / "set_env.sh", home.parent / "set_env.sh")
    script = next((path for path in scripts if path.is_file()), scripts[0])
    named = machine.folder("ASCEND_HOME_PATH") or machine.folder("ASCEND_TOOLKIT_HOME")
    lacking = [] if named else ["ASCEND_HOME_PATH names no folder"]
    if machine.folder("ASCEND_OPP_PATH") is None:
        lacking.append("ASCEND_OPP_PATH names no folder")
    if not machine.loaded and not any((f / "libascendcl.so").is_file() for f in machine.libraries):
        lacking.append("libascendcl.so is in no folder of LD_LIBRARY_PATH")
    if not lacking:
        return Finding("environment", "fits", "set", f"ASCEND_HOME_PATH={home}")
    reason = f"{', '.join(lacking)}: set_env.sh was not sourced in this shell"
    return Finding("environment", "environment", "", str(home), reason, f"source {script}")


def _kernels(home: Path, toolkit_version: str) -> Finding:
    name, of = "kernels (OPP)", toolkit_version or releases()["release"]["cann_paired"]
    # The package got its other name with CANN 8.5.0.
    kind = "CHIP-ops" if ordered(of) >= ordered("8.5.RC1") else "kernels-CHIP"
    chips = ", ".join(row["package"] for row in releases()["chips"])
    action = (
        f"install Ascend-cann-{kind}_{of}_linux-{platform.machine()}.run; CHIP is one of {chips}"
    )
    found = _stated(home, "*-linux/ascend_ops_install.info", "opp_kernel/version.info")
    if found is None:
        reason = "the toolkit has no package of compiled operators"
        return Finding(name, "missing", "", str(home), reason, action)
    if toolkit_version and line(found[0]) != line(toolkit_version):
        return Finding(name, "mismatch", *found, f"the toolkit is {toolkit_version}", action)
    return Finding(name, "fits", *found)


def nnal(machine: Machine) -> Finding:
    """NNAL's ATB. Nothing that this plugin launches is in it, but other programs may want it."""
    homes = [folder / "nnal/atb/latest" for folder in machine.ascend]
    if used := machine.folder("ATB_HOME_PATH"):  # as in nnal/atb/latest/atb/cxx_abi_1
        homes[:0] = [used, *used.parents[:2]]
    for found in (_stated(home, "version.info") for home in homes):
        if found:
            return Finding("NNAL (ATB)", "fits", *found)
    return Finding(
        "NNAL (ATB)",
        "advice",
        reason="it is not installed; nothing that this plugin launches is in it",
        action="needed by torch_npu._npu_paged_attention and the like: install Ascend-cann-nnal "
        "and source nnal/atb/set_env.sh",
    )


def driver(machine: Machine) -> Iterator[Finding]:
    """The NPU's driver, against the toolkit, and the firmware."""
    homes = [p for f in machine.libraries for p in (f, *f.parents) if p.name == "driver"]
    if path := values(machine.root / "etc/ascend_install.info").get("Driver_Install_Path_Param"):
        homes.append(Path(path) / "driver")
    homes += [folder / "driver" for folder in machine.ascend]
    home = next((home for home in homes if (home / "version.info").is_file()), homes[-1])
    found = _stated(home, "version.info")
    yield (
        _driver(machine, *found)
        if found
        else Finding(
            "driver",
            "advice",  # whether there is one that works, the chip tells
            place=str(machine.ascend[0] / "driver"),
            reason="no file states its version",
            action="install it on the host; into a container mount /usr/local/Ascend/driver/"
            "version.info, driver/lib64, and the devices /dev/davinci*",
        )
    )
    if found := _stated(home.parent / "firmware", "version.info"):
        yield Finding("firmware", "fits", *found)
    else:
        reason = "no file states its version, as is usual in a container"
        action = "on the host: npu-smi info -t board -i 0"
        yield Finding("firmware", "advice", reason=reason, action=action)


def _driver(machine: Machine, version: str, file: str) -> Finding:
    home = toolkit(machine)
    of = (_stated(home, *_TOOLKIT) if home else None) or ("?", "")
    row = next((row for row in releases()["drivers"] if row["cann"] == line(of[0])), None)
    if row is None:
        return Finding("driver", "advice", version, file, f"no table has CANN {of[0]}")
    if line(version) in row["hdk"]:
        return Finding("driver", "fits", version, file)
    known = f"CANN {of[0]} works with {', '.join(row['hdk'])}"
    action = f"install driver and firmware of Ascend HDK {row['hdk'][-1]}"
    if "oldest" in row and ordered(version) < ordered(row["oldest"]):
        return Finding("driver", "mismatch", version, file, f"it is too old: {known}", action)
    return Finding("driver", "advice", version, file, f"no table has it: {known}", action)


def examine(machine: Machine) -> Iterator[Finding]:
    """All parts that files and variables tell of."""
    yield from packages(machine)
    yield from cann(machine)
    yield nnal(machine)
    yield from driver(machine)


# ---- the engine's start ----

DECISIVE = ("Python", "torch", "torch-npu", "vLLM", "CANN toolkit", "environment")
"""Parts with which an engine cannot start; of the others it is only told."""


def require(machine: Machine, warn: Callable[[str], None]) -> None:
    """Stops an engine's start where it could not come up, and tells of what else does not fit.

    Raises:
        UnfitInstallation: a part is missing or does not fit, unless ``VLLM_ASCEND_SKIP_CHECK``
            is set.
    """
    found = [f for f in examine(machine) if f.state in ("missing", "environment", "mismatch")]
    stop = [finding for finding in found if finding.part in DECISIVE]
    if stop and not machine.variables.get(SKIP):
        raise UnfitInstallation(
            f"vLLM cannot serve on this machine's NPUs. {'; '.join(map(str, stop))}.\n"
            "Usually a shell lacks CANN's environment, or one package was upgraded alone.\n"
            f"To do: {'; '.join(finding.action for finding in stop)}. `{DOCTOR}` shows every "
            f"part, and {SKIP}=1 starts in spite of this."
        )
    for finding in found:
        warn(f"{finding}. To do: {finding.action}. `{DOCTOR}` shows every part.")
