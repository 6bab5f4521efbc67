"""`cannsim smi`, `doctor` and the reference pages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cannsim import reference
from cannsim.__main__ import operators
from cannsim.environment import LIBRARIES

ROOT = Path(__file__).parents[2]
CANNSIM = [sys.executable, "-m", "cannsim"]


def cannsim(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    removed = ("CANNSIM_", "ASCEND_")
    base = {k: v for k, v in os.environ.items() if not k.startswith(removed)}
    return subprocess.run(
        [*CANNSIM, *arguments], env=base | variables, capture_output=True, text=True, timeout=180
    )


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds 64 MiB of device 1, listed in a registry of its own (tmp_path)."""
    process = subprocess.Popen(
        [*CANNSIM, "run", "--", sys.executable, "-m", "simulator.tests.observed", "hold"],
        cwd=ROOT,
        env=os.environ | {"CANNSIM_REGISTRY": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert any(line.startswith("HOLDS") for line in process.stdout)
    yield process
    process.kill()
    process.wait()


class TestSmi:
    def test_shows_a_process_and_what_it_holds(
        self, holder: subprocess.Popen[str], tmp_path: Path
    ) -> None:
        made = json.loads(cannsim("smi", "--json", CANNSIM_REGISTRY=str(tmp_path)).stdout)
        (usage,) = [entry for entry in made if entry["device"] == 1]
        assert usage["pid"] == holder.pid
        assert usage["used"] >= 64 << 20
        assert usage["chip"] == "Ascend910B1"
        assert "observed" in usage["command"]
        text = cannsim("smi", CANNSIM_REGISTRY=str(tmp_path)).stdout
        assert str(holder.pid) in text
        assert "simulated" in text

    def test_a_killed_process_is_no_longer_shown(
        self, holder: subprocess.Popen[str], tmp_path: Path
    ) -> None:
        assert list(tmp_path.glob("*.bin"))
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert json.loads(cannsim("smi", "--json", CANNSIM_REGISTRY=str(tmp_path)).stdout) == []
        assert not list(tmp_path.glob("*.bin"))

    def test_a_process_that_ends_leaves_nothing(
        self, holder: subprocess.Popen[str], tmp_path: Path
    ) -> None:
        holder.communicate("")
        assert holder.returncode == 0
        assert not list(tmp_path.glob("*.bin"))

    def test_an_entry_that_is_none_is_passed_over(self, tmp_path: Path) -> None:
        (tmp_path / "1.bin").write_bytes(b"not counters")
        ran = cannsim("smi", CANNSIM_REGISTRY=str(tmp_path))
        assert ran.returncode == 0
        assert "no process uses a device" in ran.stdout

    def test_devices_are_those_of_the_settings(self, tmp_path: Path) -> None:
        ran = cannsim(
            "smi", "--devices", "3", "--chip", "Ascend310P3", CANNSIM_REGISTRY=str(tmp_path)
        )
        assert ran.stdout.count("Ascend310P3") == 3
        assert "49152 MiB" in ran.stdout


class TestDoctor:
    def test_a_sound_installation(self) -> None:
        ran = cannsim("doctor", "--chip", "Ascend910_9391", "--cann", "8.5.1")
        assert ran.returncode == 0, ran.stdout
        assert "computed on Ascend910_9391 with CANN 8.5.1" in ran.stdout
        assert "PROBLEM" not in ran.stdout

    def test_another_cann_before_ours(self, tmp_path: Path) -> None:
        (tmp_path / "libascendcl.so").write_bytes(b"")
        ran = cannsim("doctor", LD_LIBRARY_PATH=str(tmp_path), ASCEND_HOME_PATH="/opt/Ascend/8.0")
        assert ran.returncode == 1
        assert "comes first and is not cannsim's" in ran.stdout
        assert "ASCEND_HOME_PATH=/opt/Ascend/8.0" in ran.stdout
        assert "-> " in ran.stdout

    def test_a_chip_that_does_not_exist(self) -> None:
        ran = cannsim("doctor", "--chip", "Ascend911")
        assert ran.returncode == 1
        assert "unknown chip 'Ascend911'" in ran.stdout


class TestInstallation:
    """Programs that look for an installation of CANN find the files that one leaves."""

    @pytest.mark.parametrize("version", ["8.3.RC1", "9.1.0"])
    def test_versions_stand_where_installers_write_them(self, version: str) -> None:
        made = json.loads(cannsim("env", "--json", "--cann", version).stdout)
        home = Path(made["ASCEND_HOME_PATH"])
        kernels = "*-linux/ascend_ops_install.info" if version == "9.1.0" else "opp_kernel/*.info"
        atb = Path(made["ATB_HOME_PATH"])
        assert (atb / "lib" / "libatb.so").resolve() == LIBRARIES / "libatb.so"
        for file in (*home.glob(kernels), atb.parents[1] / "version.info"):
            assert version in file.read_text()
        driver = Path(made["LD_LIBRARY_PATH"].split(":")[1]).parents[1]
        assert "\nVersion=2" in "\n" + (driver / "version.info").read_text()

    def test_npu_smi_names_the_devices(self) -> None:
        ask = ("run", "--chip", "Ascend910B4", "--devices", "3", "--", "npu-smi", "info")
        mapping = cannsim(*ask, "-m").stdout.splitlines()
        assert [line.split()[-2:] for line in mapping[1:]] == [["Ascend", "910B4"]] * 3
        assert mapping[0].split()[-2:] == ["Chip", "Name"]
        assert "Total Count                    : 3" in cannsim(*ask, "-l").stdout
        overview = cannsim(*ask).stdout
        assert "Version: 26.1.0" in overview
        assert overview.count("0 / 32768") == 3
        assert len({len(line) for line in overview.splitlines()}) == 1
        refused = cannsim(*ask, "-t", "topo")
        assert (refused.returncode, "no other command" in refused.stderr) == (1, True)


class TestReference:
    def test_the_pages_name_every_operator_chip_and_version(self, tmp_path: Path) -> None:
        names = operators()
        written = {path.name: path.read_text() for path in reference.pages(tmp_path, names)}
        assert all(f"`{name}`" in written["operators.md"] for name in names)
        assert "\n## Ascend950DT_9582" in written["chips.md"]
        assert "*assumed*" in written["chips.md"]
        assert "| 8.2.RC1 |" in written["versions.md"]

    def test_an_operator_that_came_later_says_when(self) -> None:
        rows = list(reference.operator_table(["aclnnFusedInferAttentionScoreV5", "aclnnAdd"]))
        fused, add = rows[-2:]
        assert fused.endswith("| 9.0.0 |")
        assert "–" in fused  # 300I Duo
        assert add.endswith("| 8.2.RC1 |")
        assert "–" not in add

    def test_the_command_prints_them(self) -> None:
        ran = cannsim("info", "--markdown")
        assert ran.stdout.startswith("# cannsim")
        assert "`aclnnAdd`" in ran.stdout
