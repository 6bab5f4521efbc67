"""From a model of the matrix to a checkpoint folder, by the kind of its recipe."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matrix.checkpoints import _cache, _gguf, _hub, _layouts, _process, _quantise, _standin
from matrix.checkpoints._errors import CheckpointError

if TYPE_CHECKING:
    from matrix.schema import Model, PackageGgufCheckpoint

FORMAT = 1
"""Raised when the same recipe would give another folder, so that old folders are not reused."""

GGUF_DTYPE = "bfloat16"
"""What dequantised weights are stored in: half the size, and 4-bit weights have no more to lose.

Engine and reference load the same file, so the choice cancels out of every comparison.
"""


def materialise(model: Model, cache: Path | None = None) -> Path:
    """Return the folder with the model's checkpoint, building it first if need be.

    It holds config.json, model.safetensors, tokenizer.json, tokenizer_config.json (with the chat
    template) and generation_config.json, so that vLLM and transformers load it by its path.

    Args:
        model: an entry of `matrix.load().models`.
        cache: folder of the cache; `default_folder()` if None.

    Raises:
        CheckpointError: the source is missing, damaged or not convertible.
        CheckpointStorageError: the cache cannot be written; nothing half-written is left.
    """
    recipe = _recipe(model)
    folder = (cache or _cache.default_folder()).expanduser().resolve()
    return _cache.obtain(folder, recipe_key(model), recipe, lambda f: _process.build(model, f))


def recipe_key(model: Model) -> str:
    """Return the folder's name: the model's name and a hash of all that decides its contents."""
    text = json.dumps(_recipe(model), sort_keys=True)
    return f"{model.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _recipe(model: Model) -> dict[str, object]:
    return {"format": FORMAT, **model.checkpoint.model_dump(mode="json")}


def build(model: Model, folder: Path) -> None:
    """Build the model's checkpoint into `folder`, in this process (imports torch).

    Raises:
        CheckpointError: the source is missing, damaged or not convertible.
    """
    checkpoint = model.checkpoint
    if checkpoint.kind == "stand-in":
        _standin.build(checkpoint, folder)
    elif checkpoint.kind == "converted-stand-in":
        _layouts.build(checkpoint, folder)
    elif checkpoint.kind == "quantised-stand-in":
        _quantise.build(checkpoint, folder)
    elif checkpoint.kind == "package-gguf":
        _build_gguf(checkpoint, folder)
    elif checkpoint.kind == "hub":
        _hub.build(checkpoint, folder)
    elif checkpoint.kind == "none":
        raise CheckpointError(
            f"{model.name} has no checkpoint.",
            why="It stands in the matrix for the rule that says why it is not supported.",
            fix=f"`python -m matrix list '{model.name}/*'` gives the reason.",
        )
    else:
        raise CheckpointError(f"{model.name}: unknown kind of checkpoint {checkpoint.kind!r}.")


def _build_gguf(recipe: PackageGgufCheckpoint, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    path = _gguf.find_in_package(recipe.package, recipe.version, recipe.file)
    source = _gguf.read(path)
    _gguf.require_as_installed(recipe.package, path)
    config = _gguf.llama_config(source, GGUF_DTYPE)
    weights = _gguf.llama_weights(source, config, getattr(torch, GGUF_DTYPE))
    tokenizer, tokenizer_config = _gguf.tokenizer(source)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(folder / "config.json", config)
    _write(folder / "tokenizer_config.json", tokenizer_config)
    ids = ("bos_token_id", "eos_token_id", "pad_token_id")
    _write(folder / "generation_config.json", {key: config[key] for key in ids if key in config})


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
