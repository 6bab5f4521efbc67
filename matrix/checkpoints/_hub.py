"""Fetches checkpoints from a model hub, or takes them from a local folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from matrix.checkpoints._errors import CheckpointError

if TYPE_CHECKING:
    from matrix.schema import HubCheckpoint

FILES = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt")
"""What an engine reads; other formats of the same weights stay behind."""


def build(recipe: HubCheckpoint, folder: Path) -> None:
    """Fill `folder` with links to the files of a snapshot.

    Raises:
        CheckpointError: the hub cannot be reached, or has no such repository or revision.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        snapshot = snapshot_download(
            recipe.repo, revision=recipe.revision, allow_patterns=list(FILES)
        )
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise CheckpointError(
            f"{recipe.repo} at {recipe.revision} is not in the local hub cache and the hub cannot "
            "be reached.",
            why="This machine is offline, or HF_HUB_OFFLINE=1 is set.",
            fix="Unset HF_HUB_OFFLINE on a machine with access, or copy the hub cache (HF_HOME) "
            "from one; or run the model's stand-in instead.",
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            f"{recipe.repo} at {recipe.revision} could not be fetched: {error}",
            why="The name or revision is mistyped, the repository is gated, or the hub is down.",
            fix="Check both on the hub; for a gated repository run `hf auth login` first.",
        ) from error
    for source in Path(snapshot).iterdir():
        if source.is_dir():
            shutil.copytree(source, folder / source.name, symlinks=False)
        else:
            (folder / source.name).symlink_to(source.resolve())
