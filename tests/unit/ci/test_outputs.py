"""Outputs of a step: what is written for GitHub, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci import outputs
from ci.errors import UsageError


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that GitHub reads, with an output that is there already."""
    path = tmp_path / "output"
    path.write_text("earlier=1\n")
    monkeypatch.setenv("GITHUB_OUTPUT", str(path))
    return path


def test_outputs_are_added_to_those_that_are_there(file: Path) -> None:
    outputs.write({"matrix": '{"include":[]}', "jobs": "0"})
    assert file.read_text().splitlines() == ["earlier=1", 'matrix={"include":[]}', "jobs=0"]


@pytest.mark.parametrize(
    ("value", "words"),
    [("a\nb=c", "has several lines"), ("x" * 500_001, "1000004 bytes; GitHub takes 1000000")],
)
def test_what_github_would_misread_is_refused_whole(file: Path, value: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        outputs.write({"good": "1", "bad": value})
    assert file.read_text() == "earlier=1\n"


def test_a_file_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path))
    with pytest.raises(UsageError, match="Is a directory"):
        outputs.write({"jobs": "0"})
