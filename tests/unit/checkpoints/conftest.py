"""A tiny GGUF file inside a distribution that looks installed, and models whose recipes use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter, TokenType
from tokenizers.pre_tokenizers import ByteLevel

from matrix.checkpoints import _build, _process
from matrix.schema import Model

PACKAGE = "tiny-gguf-weights"
HIDDEN, INNER, HEADS, KEY_HEADS, LAYERS = 16, 24, 4, 2, 2
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "th"]


def tensors() -> dict[str, np.ndarray]:
    """The tensors of a llama model, rows first, each filled with numbers of its own."""
    generator = np.random.default_rng(5)
    head = HIDDEN // HEADS
    shapes = {
        "attn_norm": (HIDDEN,),
        "attn_q": (HIDDEN, HIDDEN),
        "attn_k": (head * KEY_HEADS, HIDDEN),
        "attn_v": (head * KEY_HEADS, HIDDEN),
        "attn_output": (HIDDEN, HIDDEN),
        "ffn_norm": (HIDDEN,),
        "ffn_gate": (INNER, HIDDEN),
        "ffn_up": (INNER, HIDDEN),
        "ffn_down": (HIDDEN, INNER),
    }
    named = {
        f"blk.{layer}.{name}.weight": shape
        for layer in range(LAYERS)
        for name, shape in shapes.items()
    }
    named |= {"token_embd.weight": (len(TOKENS), HIDDEN), "output_norm.weight": (HIDDEN,)}
    return {n: generator.standard_normal(s).astype(np.float32) for n, s in named.items()}


def write_gguf(path: Path, leave_out: str | None = None) -> None:
    """Write the tiny model, without the tensor `leave_out`."""
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    kinds = [TokenType.CONTROL if t.startswith("<|") else TokenType.NORMAL for t in TOKENS]
    writer.add_token_types(kinds)
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    for name, values in tensors().items():
        if name != leave_out:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of an intact GGUF file in a distribution that this process and children find."""
    site = tmp_path / "site"
    information = site / f"{PACKAGE.replace('-', '_')}-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1.0\n")
    (information / "RECORD").write_text("tiny/tiny.gguf,,\n")
    (site / "tiny").mkdir()
    write_gguf(site / "tiny" / "tiny.gguf")
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.syspath_prepend(str(site))
    return site / "tiny" / "tiny.gguf"


def _model(name: str, checkpoint: dict[str, Any]) -> Model:
    return Model.model_validate_json(
        json.dumps(
            {
                "name": name,
                "title": name,
                "family": "llama",
                "description": "for a test",
                "task": "generate",
                "architecture": "LlamaForCausalLM",
                "checkpoint": checkpoint,
                "dtype": "float32",
                "max_model_len": 64,
            }
        )
    )


@pytest.fixture(autouse=True)
def build_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build in this process, which imports torch once; `test_process.py` undoes it."""
    monkeypatch.setattr(_process, "build", _build.build)


@pytest.fixture
def gguf_model() -> Model:
    """A model whose weights are in the distribution of `installed`."""
    return _model(
        "tiny",
        {
            "kind": "package-gguf",
            "package": PACKAGE,
            "version": "1.0",
            "file": "tiny/tiny.gguf",
            "architectures": ["LlamaForCausalLM"],
        },
    )


@pytest.fixture
def stand_in() -> Model:
    """A stand-in of the smallest size that a vocabulary of bytes allows."""
    return stand_in_with()


def stand_in_with(config: dict[str, Any] | None = None, **changes: Any) -> Model:
    """A stand-in with some values of its recipe changed."""
    dims = {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "bos_token_id": 0,
        "eos_token_id": 1,
        **(config or {}),
    }
    recipe = {
        "kind": "stand-in",
        "config_class": "LlamaConfig",
        "config": dims,
        "architectures": ["LlamaForCausalLM"],
        "seed": 7,
        "weight_std": 0.1,
        "tokenizer": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "algorithm": "byte-level-bpe",
            "vocab_size": 300,
            "special_tokens": {"bos_token": "<s>", "eos_token": "</s>"},
        },
        **changes,
    }
    return _model("stand-in-model", recipe)
