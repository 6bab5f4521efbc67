"""The check of an installation, on folders laid out as CANN's installers leave them."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

pytest.importorskip("vllm_ascend", reason="needs the shared environment")

from vllm_ascend import doctor
from vllm_ascend.installation import (
    DOCTOR,
    SKIP,
    Finding,
    Machine,
    UnfitInstallation,
    examine,
    ordered,
    releases,
    require,
)

ROOT = Path(__file__).parents[3]
ARCHITECTURE = f"{platform.machine()}-linux"
PACKAGES = {"torch": "2.13.0+cpu", "torch-npu": "2.13.0", "vllm": "0.32.0"}

Install = Callable[..., Machine]


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def toolkit(root: Path, version: str) -> Path:
    """A toolkit as CANN's installer leaves it: another layout from 8.5.0 on."""
    info = f"package_name=Ascend-cann-toolkit\nversion={version}\ninnerversion=V100R001C21B071\n"
    if ordered(version) >= ordered("8.5.0"):
        home = root / f"usr/local/Ascend/cann-{version}"
        link, script = root / "usr/local/Ascend/cann", home / "set_env.sh"
        write(home / ARCHITECTURE / "ascend_ops_install.info", f"version={version}\n")
    else:
        home = root / f"usr/local/Ascend/ascend-toolkit/{version}"
        link, script = home.parent / "latest", home.parent / "set_env.sh"
        kernels = f"Version=7.7.0.1.238\nversion_dir={version}\n"
        write(home / "opp_kernel/version.info", kernels)
        write(home / "version.cfg", f"toolkit_installed_version=[7.7.0.1.238:{version}]\n")
    write(home / ARCHITECTURE / "ascend_toolkit_install.info", info)
    write(home / "lib64/libascendcl.so")
    write(script)
    (home / "opp").mkdir()
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(home)
    return link


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Makes a machine with everything that fits, but for what is given otherwise."""

    def make(
        cann: str | None = "9.1.0", driver: str | None = "25.5.0", *, sourced: bool = True
    ) -> Machine:
        variables = {"HOME": str(tmp_path / "home")}
        if cann is not None:
            home = toolkit(tmp_path, cann)
            if sourced:
                variables |= {
                    "ASCEND_HOME_PATH": str(home),
                    "ASCEND_TOOLKIT_HOME": str(home),
                    "ASCEND_OPP_PATH": str(home / "opp"),
                    "LD_LIBRARY_PATH": f"{home}/lib64:/usr/local/lib",
                }
        if driver is not None:
            inner = "ascendhal_version=7.35.23\nInnerversion=V100R001C21SPC002B220\n"
            write(tmp_path / "usr/local/Ascend/driver/version.info", f"Version={driver}\n{inner}")
        atb = tmp_path / "usr/local/Ascend/nnal/atb/latest"
        told = f"    Ascend-cann-atb : {cann}\n    Ascend-cann-atb Version : {cann}.B030\n"
        write(atb / "version.info", told)
        (atb / "atb/cxx_abi_1").mkdir(parents=True)
        variables["ATB_HOME_PATH"] = str(atb / "atb/cxx_abi_1")
        return Machine(variables, tmp_path, PACKAGES.get, "3.11.9", loaded=False)

    return make


def found(machine: Machine) -> dict[str, Finding]:
    return {finding.part: finding for finding in examine(machine)}


def problems(machine: Machine) -> dict[str, str]:
    return {f.part: f.state for f in examine(machine) if f.state not in ("fits", "advice")}


def without(machine: Machine, *variables: str) -> Machine:
    kept = {k: v for k, v in machine.variables.items() if k not in variables}
    return replace(machine, variables=kept)


# ---- what fits


@pytest.mark.parametrize(
    ("cann", "driver"), [("9.1.0", "25.5.0"), ("9.1.1", "26.1.1"), ("8.2.RC1", "25.2.0")]
)
def test_an_installation_that_fits(install: Install, cann: str, driver: str) -> None:
    machine = install(cann, driver)
    parts = found(machine)
    assert problems(machine) == {}
    for part in ("CANN toolkit", "kernels (OPP)", "NNAL (ATB)"):
        assert (part, parts[part].version) == (part, cann)
    assert (parts["driver"].state, parts["driver"].version) == ("fits", driver)
    assert doctor.gravest(list(parts.values())) == "fits"
    require(machine, pytest.fail)


def test_a_toolkit_without_its_usual_file(install: Install) -> None:
    machine = install("8.3.RC1")
    home = Path(machine.variables["ASCEND_HOME_PATH"])
    (home / ARCHITECTURE / "ascend_toolkit_install.info").unlink()
    toolkit = found(machine)["CANN toolkit"]
    assert toolkit.version == "8.3.RC1"
    assert toolkit.place.endswith("version.cfg")
    (home / "version.cfg").unlink()
    assert found(machine)["CANN toolkit"].state == "unknown"


def test_a_driver_that_was_installed_elsewhere(install: Install, tmp_path: Path) -> None:
    machine = install(driver=None)
    assert "mount" in found(machine)["driver"].action
    write(tmp_path / "opt/npu/driver/version.info", "Version=7.35.23\npackage_version=26.0.rc1\n")
    write(tmp_path / "etc/ascend_install.info", f"Driver_Install_Path_Param={tmp_path}/opt/npu\n")
    assert found(machine)["driver"].version == "26.0.rc1"
    path = f"{tmp_path}/data/driver/lib64/driver:{machine.variables['LD_LIBRARY_PATH']}"
    write(tmp_path / "data/driver/version.info", "Version=25.2.0\n")
    write(tmp_path / "data/firmware/version.info", "Version=7.8.0.6.201\n")
    parts = found(replace(machine, variables={**machine.variables, "LD_LIBRARY_PATH": path}))
    assert parts["driver"].version == "25.2.0"
    assert parts["firmware"].version == "7.8.0.6.201"


# ---- what does not


def test_no_toolkit(install: Install) -> None:
    machine = install(cann=None)
    assert problems(machine) == {"CANN toolkit": "missing"}
    action = found(machine)["CANN toolkit"].action
    assert f"Ascend-cann-toolkit_9.1.0_{ARCHITECTURE[:-6]}" not in action
    assert f"Ascend-cann-toolkit_9.1.0_linux-{platform.machine()}.run" in action


@pytest.mark.parametrize(("cann", "driver"), [("9.1.0", "25.5.0"), ("8.3.RC1", "25.3.rc1")])
def test_an_environment_that_was_not_sourced(install: Install, cann: str, driver: str) -> None:
    machine = install(cann, driver, sourced=False)
    assert problems(machine) == {"environment": "environment"}
    finding = found(machine)["environment"]
    for word in ("ASCEND_HOME_PATH", "ASCEND_OPP_PATH", "libascendcl.so"):
        assert word in finding.reason
    script = Path(finding.action.removeprefix("source "))
    assert (script.name, script.is_file()) == ("set_env.sh", True)


def test_libraries_that_are_loaded_need_no_path(install: Install) -> None:
    machine = without(install(), "LD_LIBRARY_PATH")
    assert "LD_LIBRARY_PATH" in found(machine)["environment"].reason
    assert problems(replace(machine, loaded=True)) == {}


def test_a_toolkit_that_is_too_old(install: Install) -> None:
    machine = install("8.1.RC1", driver="25.0.rc1.1")
    toolkit = found(machine)["CANN toolkit"]
    assert (toolkit.state, toolkit.version) == ("mismatch", "8.1.RC1")
    assert "8.2.RC1 is the oldest" in toolkit.reason
    assert "install CANN 9.1.0" in toolkit.action


def test_a_toolkit_that_nobody_tried(install: Install) -> None:
    assert problems(install("9.2.0")) == {"CANN toolkit": "unknown"}


def test_a_toolkit_of_another_pair_is_an_advice(install: Install) -> None:
    assert found(install("8.5.1"))["CANN toolkit"].state == "advice"


@pytest.mark.parametrize(
    ("cann", "package"),
    [("9.1.0", "Ascend-cann-CHIP-ops_9.1.0"), ("8.3.RC1", "Ascend-cann-kernels-CHIP_8.3.RC1")],
)
def test_no_kernels(install: Install, cann: str, package: str) -> None:
    machine = install(cann, "25.3.0")
    home = Path(machine.variables["ASCEND_HOME_PATH"])
    for name in (f"{ARCHITECTURE}/ascend_ops_install.info", "opp_kernel/version.info"):
        (home / name).unlink(missing_ok=True)
    assert problems(machine) == {"kernels (OPP)": "missing"}
    assert package in found(machine)["kernels (OPP)"].action


def test_kernels_of_another_toolkit(install: Install) -> None:
    machine = install("9.1.0")
    home = Path(machine.variables["ASCEND_HOME_PATH"])
    write(home / ARCHITECTURE / "ascend_ops_install.info", "version=9.0.0\n")
    assert problems(machine) == {"kernels (OPP)": "mismatch"}


def test_a_driver_that_is_too_old(install: Install) -> None:
    machine = install("9.1.0", "25.0.rc1.1")
    assert problems(machine) == {"driver": "mismatch"}
    assert "25.2, 25.3" in found(machine)["driver"].reason
    told: list[str] = []
    require(machine, told.append)
    assert "25.0.rc1.1: it is too old" in told[0]


def test_no_nnal_is_an_advice(install: Install, tmp_path: Path) -> None:
    machine = without(install(), "ATB_HOME_PATH")
    assert found(machine)["NNAL (ATB)"].state == "fits"
    (tmp_path / "usr/local/Ascend/nnal/atb/latest/version.info").unlink()
    assert found(machine)["NNAL (ATB)"].state == "advice"
    require(machine, pytest.fail)


@pytest.mark.parametrize(
    ("package", "version", "words"),
    [
        ("torch", "2.12.0", ("made for 2.13.0", 'pip install "torch==2.13.0"')),
        ("torch-npu", "2.12.0", ("torch 2.12.0 and CANN 9.1.0", '"torch-npu==2.13.0"')),
        ("vllm", "0.23.0", ("vLLM Ascend 0.23.0, with CANN 9.1.0", '"vllm==0.32.0"')),
        ("vllm", None, ("not installed", '"vllm==0.32.0"')),
    ],
)
def test_packages_of_other_versions(
    install: Install, package: str, version: str | None, words: tuple[str, str]
) -> None:
    machine = replace(install(), package=(PACKAGES | {package: version}).get)
    name = package.replace("vllm", "vLLM")
    assert problems(machine) == {name: "mismatch" if version else "missing"}
    reason, action = words
    assert reason in found(machine)[name].reason
    assert action in found(machine)[name].action
    with pytest.raises(UnfitInstallation, match=name):
        require(machine, pytest.fail)


@pytest.mark.parametrize("version", ["2.13.0.post4", "2.13.0+gitabc"])
def test_another_build_of_a_version_is_that_version(install: Install, version: str) -> None:
    machine = replace(install(), package=(PACKAGES | {"torch-npu": version}).get)
    assert problems(machine) == {}


def test_another_python(install: Install) -> None:
    machine = replace(install(), python="3.12.4")
    assert problems(machine) == {"Python": "mismatch"}
    assert "python3.11 -m venv" in found(machine)["Python"].action


# ---- at the engine's start


def test_the_start_is_stopped_with_what_to_do(install: Install) -> None:
    with pytest.raises(UnfitInstallation) as raised:
        require(install(sourced=False), pytest.fail)
    what, cause, action = str(raised.value).splitlines()
    assert what.startswith("vLLM cannot serve on this machine's NPUs. environment: ASCEND_HOME_PA")
    assert "set_env.sh" in action
    assert "environment" in cause
    assert DOCTOR in action


def test_who_knows_better_can_start(install: Install) -> None:
    machine = install("8.1.RC1", driver=None)
    told: list[str] = []
    require(replace(machine, variables={**machine.variables, SKIP: "1"}), told.append)
    assert "CANN toolkit 8.1.RC1: it is too old" in told[0]


def test_the_start_looks_before_anything_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before it reads the checkpoint, and not where only the options are asked for."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    monkeypatch.setenv("ASCEND_OPP_PATH", "/nowhere")
    EngineArgs.add_cli_args(FlexibleArgumentParser())
    with pytest.raises(UnfitInstallation, match="ASCEND_OPP_PATH names no folder"):
        EngineArgs(model=str(tmp_path)).create_engine_config()


# ---- the probe and the command


def npu_smi(folder: Path, *names: str) -> None:
    """The driver's tool, which names these chips."""
    head = "\tNPU ID                         Chip ID                        Chip Name"
    rows = [
        f"\t{n}                              0                  {c}" for n, c in enumerate(names)
    ]
    lines = "\n".join((head, *rows, "\t0                              1                  Mcu"))
    write(folder / "npu-smi", f"#!/bin/sh\ncat <<'END'\n{lines}\nEND\n")
    (folder / "npu-smi").chmod(0o755)


@pytest.mark.parametrize(
    ("names", "state", "version"),
    [
        (("Ascend 910B3",) * 8, "fits", "8 x Atlas A2 (910B)"),
        (("Ascend910", "Ascend910"), "fits", "2 x Atlas A3 (910_93)"),
        (("Ascend 310P3",), "fits", "1 x Atlas 300I (310P)"),
        (("Ascend 910ProB",), "unsupported", "910ProB"),
        ((), "missing", ""),
    ],
)
def test_the_chip_where_torch_npu_does_not_load(
    tmp_path: Path, names: tuple[str, ...], state: str, version: str
) -> None:
    npu_smi(tmp_path, *names)
    kept = {k: v for k, v in os.environ.items() if k not in ("LD_LIBRARY_PATH", "LD_PRELOAD")}
    ran = command("--json", variables=kept | {"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    parts = {finding["part"]: finding for finding in json.loads(ran.stdout)["findings"]}
    assert parts["torch-npu loads"]["state"] == "environment"
    assert "libhccl.so" in parts["torch-npu loads"]["reason"]
    assert (parts["chip"]["state"], parts["chip"]["version"]) == (state, version)
    assert ran.returncode in (3, 4)


def command(*arguments: str, variables: dict[str, str] | None = None):
    return subprocess.run(
        [sys.executable, "-m", "vllm_ascend.doctor", *arguments],
        capture_output=True,
        text=True,
        env=variables,
    )


def test_the_command_where_all_fits() -> None:
    """On the devices that these tests have."""
    ran = command()
    assert ran.returncode == 0, ran.stdout
    assert ran.stdout.splitlines()[-1].endswith(": fits")
    assert "torch-npu loads fits" in ran.stdout


def test_a_chip_that_torch_npu_knows_and_the_plugin_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replaced = "import torch_npu; torch_npu._C._npu_get_soc_version = lambda: 104"
    monkeypatch.setattr(doctor, "PROBE", f"import torch; {replaced}\n{doctor.PROBE}")
    chip = {finding.part: finding for finding in doctor.probe()}["chip"]
    assert (chip.state, chip.version) == ("unsupported", "number 104")
    assert "Atlas A2" in chip.reason


def test_a_crash_stays_in_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PROBE", "import os; os.kill(os.getpid(), 11)")
    loads = next(iter(doctor.probe()))
    assert (loads.state, loads.reason) == ("unknown", "the child ended with status -11")


def test_each_kind_of_problem_has_its_exit_code() -> None:
    problems = [
        code for state, code in doctor.EXIT_CODES.items() if state not in ("fits", "advice")
    ]
    assert len(set(problems)) == len(problems) == 5
    assert not {0, 1, 2} & set(problems)
    parts = [Finding("a", "unknown"), Finding("b", "mismatch"), Finding("c", "advice")]
    assert doctor.gravest(parts) == "mismatch"
    assert doctor.gravest(parts[2:]) == "fits"


# ---- the data


def test_versions_are_sorted_as_they_came_out() -> None:
    versions = ["8.1.RC1.alpha001", "8.2.RC1", "8.3.RC2", "8.5.0", "8.5.1", "9.0.0", "25.0.rc1.1"]
    assert sorted(versions, key=ordered) == versions


def test_every_row_names_its_source() -> None:
    tables = releases()
    rows = [row for table in tables.values() if isinstance(table, list) for row in table]
    assert len(rows) > 80
    assert {row["source"] for row in [*rows, tables["release"]]} == set(tables["sources"])


def test_the_chips_are_those_that_the_plugin_has() -> None:
    from vllm_ascend.chips import CHIPS

    assert {row["series"] for row in releases()["chips"]} == {row.series for row in CHIPS}


def test_the_plugin_and_the_matrix_name_the_same_versions() -> None:
    """The plugin ships its data, and cannot read the harness'."""
    listed = yaml.safe_load((ROOT / "matrix/releases.yaml").read_text())["releases"]
    current = next(release for release in listed if release["status"] == "current")
    ours = releases()["release"]
    for key in ("plugin", "vllm", "torch", "torch_npu", "cann"):
        assert ours[key] == current[key], key
    assert current["python"].startswith(f">={ours['python']},")
    assert ours["cann_paired"] == current["stable_cann"]
    assert ours["plugin"] == (ROOT / "VERSION").read_text().strip()


def test_the_plugin_and_the_matrix_pair_torch_npu_alike() -> None:
    def rows(tables: dict[str, list[dict[str, str]]], version: str) -> set[tuple[str, str, str]]:
        return {(row[version], row["torch"], row["cann"]) for row in tables["torch_npu"]}

    listed = yaml.safe_load((ROOT / "matrix/torch_npu.yaml").read_text())
    assert rows(listed, "torch_npu") == rows(releases(), "version")
