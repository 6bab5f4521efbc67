"""Converted stand-ins: other names and orders, the same model, and configurations that are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from matrix.checkpoints import CheckpointError, materialise
from matrix.checkpoints._layouts import LAYOUTS
from tests.unit.checkpoints.conftest import stand_in_with

ROTATION = {"rope_parameters": {"rope_type": "default", "rope_theta": 20000.0}}

RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "chatglm": (
        "GlmConfig",
        {
            "head_dim": 8,
            "attention_bias": True,
            "pad_token_id": 1,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 20000.0,
                "partial_rotary_factor": 0.5,
            },
        },
    ),
    "deepseek-moe": (
        "Qwen2MoeConfig",
        {
            "qkv_bias": False,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 32,
            "mlp_only_layers": [0],
            **ROTATION,
        },
    ),
    "internlm2": ("LlamaConfig", ROTATION),
    "internlm3": ("LlamaConfig", {"head_dim": 16, **ROTATION}),
    "minicpm": (
        "GraniteConfig",
        {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 4.0}
        | {"attention_multiplier": 8**-0.5, **ROTATION},
    ),
}


def converted(layout: str, **changes: Any) -> Any:
    config_class, config = RECIPES[layout]
    recipe = {
        "kind": "converted-stand-in",
        "layout": layout,
        "config_class": config_class,
        "architectures": [LAYOUTS[layout].source],
        **changes,
    }
    return stand_in_with(config, **recipe)


def read(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    return json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_number_of_the_reference_is_in_the_files(tmp_path: Path, layout: str) -> None:
    folder = materialise(converted(layout), tmp_path)
    config, written = read(folder)
    described, original = read(folder / "reference")
    assert described["architectures"] == [LAYOUTS[layout].source]
    assert config["architectures"] == [LAYOUTS[layout].architecture]
    left_out = {name for name in original if "shared_expert_gate" in name}
    assert sum(w.numel() for w in written.values()) == sum(
        w.numel() for name, w in original.items() if name not in left_out
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "reference")
    assert type(model).__name__ == LAYOUTS[layout].source


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if LAYOUTS[name].config_class])
def test_the_configuration_is_read_by_the_code_beside_it(tmp_path: Path, layout: str) -> None:
    folder = materialise(converted(layout), tmp_path)
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert type(config).__name__ == LAYOUTS[layout].config_class
    assert config.model_type == LAYOUTS[layout].model_type
    assert config.hidden_size == 32
    with pytest.raises(ValueError, match="trust_remote_code"):
        transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)


def test_internlm2_groups_queries_with_their_key_and_value(tmp_path: Path) -> None:
    folder = materialise(converted("internlm2"), tmp_path)
    (_, written), (_, original) = read(folder), read(folder / "reference")
    fused = written["model.layers.1.attention.wqkv.weight"]
    # Four heads of eight in two groups: two of queries, one of keys, one of values, and again.
    q, k, v = (original[f"model.layers.1.self_attn.{n}_proj.weight"] for n in "qkv")
    assert torch.equal(fused, torch.cat([q[:16], k[:8], v[:8], q[16:], k[8:], v[8:]]))


def test_chatglm_joins_queries_keys_and_values(tmp_path: Path) -> None:
    folder = materialise(converted("chatglm"), tmp_path)
    (config, written), (_, original) = read(folder), read(folder / "reference")
    for kind in ("weight", "bias"):
        fused = written[f"transformer.encoder.layers.0.self_attention.query_key_value.{kind}"]
        parts = [original[f"model.layers.0.self_attn.{n}_proj.{kind}"] for n in "qkv"]
        assert torch.equal(fused, torch.cat(parts))
    assert config["rope_ratio"] == 2.0


def test_experts_that_all_tokens_share_lose_their_gate(tmp_path: Path) -> None:
    folder = materialise(converted("deepseek-moe"), tmp_path)
    (config, written), (_, original) = read(folder), read(folder / "reference")
    assert not original["model.layers.1.mlp.shared_expert_gate.weight"].any()
    shared = original["model.layers.1.mlp.shared_expert.down_proj.weight"]
    assert torch.equal(written["model.layers.1.mlp.shared_experts.down_proj.weight"], shared / 2)
    assert (config["n_routed_experts"], config["n_shared_experts"]) == (4, 2)
    assert config["first_k_dense_replace"] == 1


def test_minicpm_counts_its_factors_otherwise(tmp_path: Path) -> None:
    config, _ = read(materialise(converted("minicpm"), tmp_path))
    assert config["scale_emb"] == 3.0
    assert config["scale_depth"] / 2**0.5 == pytest.approx(0.5)
    assert config["hidden_size"] / config["dim_model_base"] == 4.0


def test_a_model_that_computes_otherwise_is_refused(tmp_path: Path) -> None:
    wrong = converted("internlm2", architectures=["Qwen2ForCausalLM"])
    with pytest.raises(CheckpointError, match="is made of LlamaForCausalLM, not of Qwen2"):
        materialise(wrong, tmp_path)
