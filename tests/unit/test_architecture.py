"""The arrows between the rooms, and the properties of the whole repository that no room owns."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ci import environment, plugin_size
from ci.environment import ROOT


def test_imports_go_one_way() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


LIGHT = "import sys, {module}; print(sorted(set(sys.modules) & {{{heavy}}}))"


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("matrix", ("torch", "transformers", "vllm", "sqlalchemy")),
        ("reports", ("torch", "transformers", "vllm")),
        ("ci.cli", ("torch", "transformers", "vllm")),
        ("ci.worker", ("torch", "pydantic", "rich", "sqlalchemy", "asyncio")),
        ("ci.environment", ("pydantic", "rich", "yaml", "psutil", "torch")),
    ],
)
def test_a_command_starts_without_what_it_does_not_need(
    module: str, heavy: tuple[str, ...]
) -> None:
    code = LIGHT.format(module=module, heavy=", ".join(repr(name) for name in heavy))
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_environment_can_be_built_under_a_python_with_nothing_installed() -> None:
    code = "import sys; sys.path.insert(0, '.'); import ci.environment"
    command = [sys.executable, "-I", "-S", "-c", code]
    assert subprocess.run(command, cwd=ROOT).returncode == 0


def test_every_build_requirement_is_installed_before_the_builds() -> None:
    from packaging.requirements import Requirement

    tools = {Requirement(tool).name for tool in environment.BUILD_TOOLS} | {"torch", "torch-npu"}
    for name in ("pyproject.toml", "plugin/pyproject.toml", "simulator/pyproject.toml"):
        required = tomllib.loads((ROOT / name).read_text())["build-system"]["requires"]
        needed = [Requirement(line) for line in required]
        here = {need.name for need in needed if need.marker is None or need.marker.evaluate()}
        assert here <= tools, name


def test_there_is_one_version_number() -> None:
    for room in ("plugin", "simulator"):
        assert (ROOT / room / "VERSION").resolve() == ROOT / "VERSION"


def test_the_plugin_stays_small() -> None:
    assert list(plugin_size.problems(ROOT / "plugin" / "vllm_ascend")) == []


def test_a_plugin_that_grows_is_noticed(tmp_path: Path) -> None:
    long = "def f():\n" + "    x = 1\n" * plugin_size.MAX_FUNCTION_LINES
    (tmp_path / "long_function.py").write_text(long)
    (tmp_path / "long_module.py").write_text("x = 1\n" * (plugin_size.MAX_MODULE_LINES + 1))
    found = list(plugin_size.problems(tmp_path))
    assert len(found) == 2
    assert "f has 81 lines" in found[0]
    assert "601 lines" in found[1]
