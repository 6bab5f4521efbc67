"""Checkpoints of a hub: taken from its cache, and a clear error where that is all there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from matrix.checkpoints import CheckpointError, _hub
from matrix.schema import HubCheckpoint

RECIPE = HubCheckpoint(kind="hub", repo="someone/some-model", revision="0123abcd")


def test_offline_without_the_model_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(CheckpointError, match=r"someone/some-model at 0123abcd") as raised:
        _hub.build(RECIPE, tmp_path)
    assert "HF_HUB_OFFLINE" in raised.value.why + raised.value.fix
    assert raised.value.exit_code == 2


def test_snapshot_is_linked_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "config.json").write_text("{}")
    asked: dict[str, Any] = {}

    def download(repo: str, **named: Any) -> str:
        asked.update(named, repo=repo)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    folder = tmp_path / "folder"
    folder.mkdir()
    _hub.build(RECIPE, folder)
    assert (folder / "config.json").resolve() == snapshot / "config.json"
    assert (asked["repo"], asked["revision"]) == ("someone/some-model", "0123abcd")
