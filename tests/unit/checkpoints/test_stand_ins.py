"""Stand-ins: the same recipe gives the same weights, and a recipe that cannot work says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open
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


def test_weights_get_the_names_of_released_files(tmp_path: Path) -> None:
    folder = materialise(stand_in_with(renames={r"^model\.layers\.": "decoder.layers."}), tmp_path)
    with safe_open(folder / "model.safetensors", "pt") as weights:
        names = set(weights.keys())
    assert any(name.startswith("decoder.layers.0.") for name in names)
    assert not any(name.startswith("model.layers.") for name in names)
    assert "model.norm.weight" in names


def test_a_rename_that_changes_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No weight's name is changed by 'modle'"):
        materialise(stand_in_with(renames={"modle": "model"}), tmp_path)


def test_a_processor_stands_beside_its_tokenizer(tmp_path: Path) -> None:
    recipe = {
        "processor_class": "WhisperProcessor",
        "parts": {"feature_extractor": {"class": "WhisperFeatureExtractor", "feature_size": 16}},
    }
    folder = materialise(stand_in_with(processor=recipe), tmp_path)
    written = json.loads((folder / "processor_config.json").read_text())
    assert written["processor_class"] == "WhisperProcessor"
    assert written["feature_extractor"]["feature_size"] == 16


def test_an_encoder_is_built_without_a_trial_of_its_output(tmp_path: Path) -> None:
    encoder = {
        "config_class": "BertConfig",
        "config": {
            "vocab_size": 300,
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        },
        "architectures": ["BertModel"],
    }
    folder = materialise(stand_in_with(**encoder), tmp_path)
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["BertModel"]
    assert not (folder / "generation_config.json").exists()
