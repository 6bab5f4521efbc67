"""A copy of the matrix's data that a test may break, and the command line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import matrix
from matrix.cli import main


@dataclass
class Data:
    """A folder with the YAML files of the matrix."""

    root: Path

    def replace(self, name: str, old: str, new: str) -> None:
        """Replace the first occurrence of `old` in a file; it has to be there."""
        path = self.root / name
        text = path.read_text()
        assert old in text, f"{name} no longer says {old!r}; adapt the test"
        path.write_text(text.replace(old, new, 1))

    def append(self, name: str, text: str) -> None:
        """Append lines to a file."""
        path = self.root / name
        path.write_text(path.read_text() + text)

    def error(self) -> matrix.MatrixError:
        """Return the error with which loading ends."""
        with pytest.raises(matrix.MatrixError) as caught:
            matrix.load(self.root)
        return caught.value


@pytest.fixture
def data(tmp_path: Path) -> Data:
    source = Path(matrix.__file__).parent
    root = tmp_path / "matrix"
    root.mkdir()
    for path in source.glob("*.yaml"):
        shutil.copy(path, root)
    for folder in ("models", "families", "features", "rules"):
        shutil.copytree(source / folder, root / folder)
    return Data(root)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line; return exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
