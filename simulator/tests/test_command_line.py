"""`cannsim env`, `run` and `info`, and what they answer to settings that cannot be honoured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cannsim.environment import LIBRARIES

CANNSIM = str(Path(sys.executable).with_name("cannsim"))


def cannsim(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    base = {k: v for k, v in os.environ.items() if not k.startswith(("CANNSIM_", "ASCEND_"))}
    return subprocess.run(
        [CANNSIM, *arguments], env=base | variables, capture_output=True, text=True, check=False
    )


class TestEnv:
    def test_json_names_the_libraries_and_the_settings(self) -> None:
        ran = cannsim("env", "--json", "--chip", "Ascend910B1", "--cann", "8.5.0", "--devices", "4")
        made = json.loads(ran.stdout)
        assert ran.returncode == 0
        assert made["CANNSIM_CHIP"] == "Ascend910B1"
        assert made["CANNSIM_CANN"] == "8.5.0"
        assert made["CANNSIM_DEVICES"] == "4"
        first = Path(made["LD_LIBRARY_PATH"].split(":")[0])
        assert first.resolve() == LIBRARIES.resolve()
        assert (first / "libascendcl.so").exists()
        assert Path(made["ASCEND_HOME_PATH"]).is_dir()

    def test_a_shell_can_evaluate_it(self) -> None:
        script = f'eval "$({CANNSIM} env --devices 3)" && echo "$CANNSIM_DEVICES $ASCEND_HOME_PATH"'
        ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
        devices, home = ran.stdout.split()
        assert devices == "3"
        assert Path(home).is_dir()

    def test_the_path_of_the_caller_is_kept_behind(self) -> None:
        ran = cannsim("env", "--json", LD_LIBRARY_PATH="/opt/other")
        assert json.loads(ran.stdout)["LD_LIBRARY_PATH"].endswith(":/opt/other")

    def test_asked_twice_it_answers_the_same(self) -> None:
        first = json.loads(cannsim("env", "--json").stdout)
        assert json.loads(cannsim("env", "--json", **first).stdout) == first

    def test_extensions_and_memory_are_passed_on(self) -> None:
        ran = cannsim(
            "env", "--json", "--device-memory", "1073741824", "--extension", "float32-attention"
        )
        made = json.loads(ran.stdout)
        assert made["CANNSIM_DEVICE_MEMORY"] == "1073741824"
        assert made["CANNSIM_EXTENSIONS"] == "float32-attention"


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--chip", "Ascend910b1"), "unknown chip 'Ascend910b1'; did you mean Ascend910B1?"),
            (("--cann", "9.1"), "unknown CANN version '9.1'; did you mean 9.1.0?"),
            (("--cann", "x"), "unknown CANN version 'x'"),
            (("--devices", "0"), "0 devices; from 1 to 64"),
            (("--devices", "65"), "65 devices; from 1 to 64"),
            (("--extension", "float32"), "did you mean float32-attention?"),
        ],
    )
    def test_a_setting_that_cannot_be_honoured(
        self, arguments: tuple[str, ...], message: str
    ) -> None:
        for command in (("env",), ("run",)):
            ran = cannsim(*command, *arguments, *(("--", "true") if command == ("run",) else ()))
            assert ran.returncode == 2
            assert message in ran.stderr
            assert "Traceback" not in ran.stderr

    def test_devices_that_are_no_number(self) -> None:
        assert cannsim("env", "--devices", "two").returncode == 2
        ran = cannsim("env", CANNSIM_DEVICES="two")
        assert ran.returncode == 2
        assert "Traceback" not in ran.stderr

    def test_no_command(self) -> None:
        ran = cannsim("run")
        assert ran.returncode == 2
        assert "cannsim run --" in ran.stderr

    def test_a_command_that_does_not_exist(self) -> None:
        ran = cannsim("run", "--", "no-such-command")
        assert ran.returncode == 2
        assert "command not found: no-such-command" in ran.stderr

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            (
                "CANNSIM_CHIP",
                "Ascend310",
                "CANNSIM_CHIP=Ascend310 is not a profile; known: Ascend910B1",
            ),
            ("CANNSIM_CANN", "7.0", "CANNSIM_CANN=7.0 is not a profile"),
            ("CANNSIM_DEVICES", "many", "CANNSIM_DEVICES=many is not a whole number from 1 to 64"),
            ("CANNSIM_DEVICE_MEMORY", "5", "is not a whole number from 1048576"),
        ],
    )
    def test_the_libraries_refuse_too(self, name: str, value: str, message: str) -> None:
        """A variable set by hand, without the command."""
        call = (
            "import ctypes; count = ctypes.c_uint32();"
            "ctypes.CDLL('libascendcl.so').aclrtGetDeviceCount(ctypes.byref(count))"
        )
        environment = os.environ | {name: value}
        ran = subprocess.run(
            [sys.executable, "-S", "-c", call],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 2
        assert message in ran.stderr


class TestRun:
    def test_the_command_has_the_environment_and_its_exit_code_is_kept(self) -> None:
        ran = cannsim("run", "--devices", "7", "--", "bash", "-c", "echo $CANNSIM_DEVICES; exit 5")
        assert ran.stdout.strip() == "7"
        assert ran.returncode == 5

    def test_counters_go_to_a_directory_that_is_made(self, tmp_path: Path) -> None:
        ran = cannsim(
            "run", "--counters", str(tmp_path / "new"), "--", "bash", "-c", "echo $CANNSIM_COUNTERS"
        )
        assert Path(ran.stdout.strip()) == tmp_path / "new"
        assert (tmp_path / "new").is_dir()


class TestInfo:
    def test_names_chips_versions_and_that_nothing_ran_on_an_npu(self) -> None:
        ran = cannsim("info")
        assert ran.returncode == 0
        for text in ("Ascend910B1", "8.5.0", "9.1.0", "simulated; nothing here has run on an NPU"):
            assert text in ran.stdout

    def test_json_lists_operators_and_the_sources_of_figures(self) -> None:
        made = json.loads(cannsim("info", "--json").stdout)
        assert {"aclnnAdd", "aclnnRmsNorm", "aclnnFusedInferAttentionScoreV5"} <= set(
            made["operators"]
        )
        assert made["operators"] == sorted(set(made["operators"]))
        for chip in made["chips"].values():
            assert all(figure["source"] for figure in chip.values() if isinstance(figure, dict))

    def test_version(self) -> None:
        assert cannsim("--version").stdout.startswith("cannsim ")
