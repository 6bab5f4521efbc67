"""torchvision imports without its compiled part, and is left alone where that loads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ci import torchvision_operators
from ci.torchvision_operators import DESCRIBING, OperatorFinder

FAKE_TORCH = """
import types
class library:
    @staticmethod
    def define(name, schema):
        print("defined", name, schema)
ops = types.SimpleNamespace(torchvision=types.SimpleNamespace({loaded}))
"""


def python(code: str, *folders: Path) -> str:
    path = os.pathsep.join(map(str, [*folders, Path(torchvision_operators.__file__).parent]))
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import torchvision_operators\n" + code],
        env={"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A torch that says what is defined, and a torchvision of the same shape as the real one."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "from torchvision import _meta_registrations"
    )
    (tmp_path / "torchvision" / "_meta_registrations.py").write_text("print('described')")
    (tmp_path / "torch.py").write_text(FAKE_TORCH.format(loaded=""))
    return tmp_path


def test_missing_operators_are_defined_before_they_are_described(packages: Path) -> None:
    lines = python("import torchvision", packages).splitlines()
    assert [line.split("(")[0].split()[:2] for line in lines] == [
        ["defined", "torchvision::nms"],
        ["defined", "torchvision::qnms"],
        ["described"],
    ]


def test_the_compiled_parts_operators_are_left_alone(packages: Path) -> None:
    (packages / "torch.py").write_text(FAKE_TORCH.format(loaded="nms=1, qnms=2"))
    assert python("import torchvision", packages) == "described\n"


def test_nothing_is_imported_when_python_starts(packages: Path) -> None:
    assert python("import sys; print('torch' in sys.modules)", packages) == "False\n"


@pytest.mark.parametrize("name", ["torchvision", "torch", "torchvision.ops"])
def test_other_modules_are_not_looked_for(name: str) -> None:
    assert OperatorFinder.find_spec(name) is None


def test_the_environments_torchvision_transforms() -> None:
    code = (
        "import torch, torchvision\n"
        "from torchvision.transforms.v2.functional import resize\n"
        "image = torch.arange(48, dtype=torch.uint8).reshape(3, 4, 4)\n"
        "print(resize(image, [2, 2], antialias=True).flatten().tolist())\n"
        f"print('{DESCRIBING}' in __import__('sys').modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"},
        capture_output=True,
        text=True,
    )
    pixels, described = done.stdout.splitlines() if done.returncode == 0 else (done.stderr, "")
    assert described == "True", pixels
    values = [int(value) for value in pixels.strip("[]").split(",")]
    assert values == sorted(values)
    assert len(values) == 12
    assert max(values) < 48
