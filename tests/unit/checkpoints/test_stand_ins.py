"""Stand-ins: the same recipe gives the same weights, and a recipe that cannot work says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from matrix.checkpoints import CheckpointError, materialise
from tests.unit.checkpoints.conftest import stand_in_with


def test_recipe_gives_the_same_files_twice_and_a_complete_vocabulary(tmp_path: Path) -> None:
    model = stand_in_with()
    first, again = (materialise(model, tmp_path / name) for name in ("one", "two"))
    assert first.name == again.name
    for name in ("config.json", "model.safetensors", "tokenizer.json", "generation_config.json"):
        assert (first / name).read_bytes() == (again / name).read_bytes(), name
    tokenizer = Tokenizer.from_file(str(first / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 300
    text = "Größe, 数 and\ttabs"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert json.loads((first / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_misspelt_class_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no class 'LlamaConfg'") as raised:
        materialise(stand_in_with(config_class="LlamaConfg"), tmp_path)
    assert "LlamaConfig" in raised.value.fix


def test_dimensions_that_do_not_fit_are_reported(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="LlamaConfig refuses the stand-in's dimensions"):
        materialise(stand_in_with({"num_attention_heads": 5}), tmp_path)


def test_weights_that_repeat_one_token_are_refused(tmp_path: Path) -> None:
    # Weights this small leave the residual stream to the embedding of the token just read.
    model = stand_in_with({"tie_word_embeddings": True}, weight_std=1e-6)
    with pytest.raises(CheckpointError, match="different tokens in 32"):
        materialise(model, tmp_path)
