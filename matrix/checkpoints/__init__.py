"""Checkpoints: turns a model's recipe into a folder that vLLM and transformers load."""

from matrix.checkpoints._build import materialise, recipe_key
from matrix.checkpoints._cache import default_folder
from matrix.checkpoints._errors import CheckpointError, CheckpointStorageError

__all__ = [
    "CheckpointError",
    "CheckpointStorageError",
    "default_folder",
    "materialise",
    "recipe_key",
]
