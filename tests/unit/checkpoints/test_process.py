"""Checkpoints are built in a process of their own: what it reports arrives here unchanged."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from matrix.checkpoints import CheckpointError, CheckpointStorageError, _process, materialise
from matrix.schema import Model

# Before any fixture replaces it.
build = _process.build


@pytest.fixture(autouse=True)
def build_apart(build_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo the shortcut of the other tests."""
    monkeypatch.setattr(_process, "build", build)


def test_checkpoint_comes_out_of_the_process(
    installed: Path, gguf_model: Model, tmp_path: Path
) -> None:
    folder = materialise(gguf_model, tmp_path)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in folder.iterdir()
    }


def test_error_of_the_process_is_raised_here_with_its_parts(
    installed: Path, gguf_model: Model, tmp_path: Path
) -> None:
    installed.write_bytes(b"GGML")
    with pytest.raises(CheckpointError, match="expected b'GGUF'") as raised:
        materialise(gguf_model, tmp_path)
    assert raised.value.why
    assert "--force-reinstall" in raised.value.fix


def test_full_disk_in_the_process_keeps_its_class_and_leaves_nothing(
    installed: Path, gguf_model: Model, tmp_path: Path
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow beyond this, here or in a child: less than the weights, more than the rest.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(CheckpointStorageError, match="cannot be written"):
            materialise(gguf_model, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []


def test_process_that_dies_is_reported_with_its_last_words(
    installed: Path, gguf_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (installed.parent.parent / "torch.py").write_text("raise SystemExit('no torch today')\n")
    with pytest.raises(CheckpointError, match="exit code 1") as raised:
        materialise(gguf_model, tmp_path)
    assert "no torch today" in raised.value.what
