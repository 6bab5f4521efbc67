"""Stand-ins in the files of repositories that bring their own code, which transformers lacks.

The mathematics of each such family is also that of a class that transformers has: its model is
built, kept in the folder `reference`, and its weights are written again by the names, orders and
keys of the released repositories. So what is served is read as a released checkpoint is, and the
reference is unmodified transformers.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matrix.checkpoints import _standin
from matrix.checkpoints._errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from matrix.schema import ConvertedStandInCheckpoint

REFERENCE = "reference"
"""Folder, within the checkpoint, of the same model under transformers' names."""

WEIGHTS = "model.safetensors"

SAME = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "dtype",
)
"""Keys of a configuration that nearly all repositories call as transformers does."""


@dataclass(frozen=True)
class Layout:
    """How a family's repositories write what a class of transformers computes.

    Attributes:
        source: class of transformers with the same mathematics.
        architecture: the class that config.json names.
        model_type: the type that config.json names.
        config_class: class of the repository's own configuration file; None if vLLM has the type.
        config: from transformers' config.json to the keys that are called otherwise.
        weights: from transformers' weights, and its configuration, to those of the repository.
        prepare: changes the model before it is saved, where only some weights can be expressed.
    """

    source: str
    architecture: str
    model_type: str
    config_class: str | None
    config: Callable[[dict[str, Any]], dict[str, Any]]
    weights: Callable[[Mapping[str, Tensor], dict[str, Any]], dict[str, Tensor]]
    prepare: Callable[[Any], None] | None = None


def build(recipe: ConvertedStandInCheckpoint, folder: Path) -> None:
    """Write the checkpoint into `folder`, and the model that it was made of beside it.

    Raises:
        CheckpointError: the stand-in cannot be built, or is not of the class that is converted.
    """
    from safetensors.torch import load_file, save_file

    layout, given = LAYOUTS[recipe.layout], recipe.architectures[0]
    if given != layout.source:
        raise CheckpointError(
            f"The layout {recipe.layout} is made of {layout.source}, not of {given}.",
            why="Only that class of transformers computes the same.",
            fix="Correct checkpoint.architectures of the model in matrix/models/.",
        )
    original = folder / REFERENCE
    original.mkdir()
    _standin.build(recipe, original, layout.prepare)
    kept = shutil.ignore_patterns(WEIGHTS, "config.json")
    shutil.copytree(original, folder, ignore=kept, dirs_exist_ok=True)
    source = json.loads((original / "config.json").read_text())
    written = layout.weights(load_file(original / WEIGHTS), source)
    contiguous = {name: weight.contiguous() for name, weight in written.items()}
    save_file(contiguous, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_config(layout, source), indent=2) + "\n")
    if layout.config_class is not None:
        (folder / f"{_module(layout)}.py").write_text(_code(layout))


def _config(layout: Layout, source: dict[str, Any]) -> dict[str, Any]:
    common = {key: source[key] for key in SAME if source.get(key) is not None}
    own: dict[str, Any] = {"architectures": [layout.architecture], "model_type": layout.model_type}
    if layout.config_class is not None:
        own["auto_map"] = {"AutoConfig": f"{_module(layout)}.{layout.config_class}"}
    return {**own, **common, **layout.config(source)}


def _module(layout: Layout) -> str:
    return f"configuration_{layout.model_type}"


def _code(layout: Layout) -> str:
    return (
        f'"""Configuration of type {layout.model_type}; its keys are those of config.json."""\n\n'
        "from transformers import PreTrainedConfig\n\n\n"
        f"class {layout.config_class}(PreTrainedConfig):\n"
        f'    model_type = "{layout.model_type}"\n'
        '    keys_to_ignore_at_inference = ["past_key_values"]\n'
    )


def _theta(source: dict[str, Any]) -> float:
    return float(source["rope_parameters"]["rope_theta"])


def _renamed(weights: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The weights with each pattern that is in `names` replaced in theirs, in that order."""
    result = {}
    for name, weight in weights.items():
        for pattern, replacement in names.items():
            name = re.sub(pattern, replacement, name)
        result[name] = weight
    return result


def _as_they_are(weights: Mapping[str, Tensor], _: dict[str, Any]) -> dict[str, Tensor]:
    return dict(weights)


# ------------------------------------------------------------------------------------- InternLM 2

INTERNLM2_NAMES = {
    r"^model\.embed_tokens\.": "model.tok_embeddings.",
    r"^lm_head\.": "output.",
    r"\.self_attn\.o_proj\.": ".attention.wo.",
    r"\.mlp\.gate_proj\.": ".feed_forward.w1.",
    r"\.mlp\.down_proj\.": ".feed_forward.w2.",
    r"\.mlp\.up_proj\.": ".feed_forward.w3.",
    r"\.input_layernorm\.": ".attention_norm.",
    r"\.post_attention_layernorm\.": ".ffn_norm.",
}


def _internlm2_weights(weights: Mapping[str, Tensor], source: dict[str, Any]) -> dict[str, Tensor]:
    """One projection a layer: of each group the heads of queries, then its key, then its value."""
    import torch

    heads, groups = source["num_attention_heads"], source["num_key_value_heads"]
    size = source["hidden_size"] // heads
    result = {name: w for name, w in weights.items() if not re.search(r"\.[qkv]_proj\.", name)}
    for layer in range(source["num_hidden_layers"]):
        stem = f"model.layers.{layer}"
        parts = [
            weights[f"{stem}.self_attn.{name}_proj.weight"].unflatten(0, (groups, -1, size))
            for name in "qkv"
        ]
        result[f"{stem}.attention.wqkv.weight"] = torch.cat(parts, dim=1).flatten(0, 2)
    return _renamed(result, INTERNLM2_NAMES)


# ------------------------------------------------------------------------------------ DeepSeek-MoE


def _close_gates(model: Any) -> None:
    """Make Qwen2-MoE's gate of the shared experts one half for every token."""
    for name, weight in model.named_parameters():
        if name.endswith("shared_expert_gate.weight"):
            weight.data.zero_()


def _deepseek_weights(weights: Mapping[str, Tensor], _: dict[str, Any]) -> dict[str, Tensor]:
    """Shared experts without a gate: their last product has the half that the gate was."""
    names = {r"\.shared_expert\.": ".shared_experts."}
    ungated = {name: w for name, w in weights.items() if "shared_expert_gate" not in name}
    return {
        name: weight * 0.5 if "shared_experts.down_proj" in name else weight
        for name, weight in _renamed(ungated, names).items()
    }


def _deepseek_config(source: dict[str, Any]) -> dict[str, Any]:
    size = source["moe_intermediate_size"]
    return {
        "rope_theta": _theta(source),
        "attention_bias": False,
        "n_routed_experts": source["num_experts"],
        "n_shared_experts": source["shared_expert_intermediate_size"] // size,
        "num_experts_per_tok": source["num_experts_per_tok"],
        "moe_intermediate_size": size,
        "moe_layer_freq": 1,
        "first_k_dense_replace": len(source["mlp_only_layers"]),
        "norm_topk_prob": source["norm_topk_prob"],
        "scoring_func": "softmax",
    }


# ----------------------------------------------------------------------------------------- MiniCPM


def _minicpm_config(source: dict[str, Any]) -> dict[str, Any]:
    return {
        "rope_theta": _theta(source),
        "scale_emb": source["embedding_multiplier"],
        "scale_depth": source["residual_multiplier"] * source["num_hidden_layers"] ** 0.5,
        "dim_model_base": source["hidden_size"] / source["logits_scaling"],
    }


# ----------------------------------------------------------------------------------------- ChatGLM

CHATGLM_NAMES = {
    r"^model\.embed_tokens\.": "transformer.embedding.word_embeddings.",
    r"^model\.norm\.": "transformer.encoder.final_layernorm.",
    r"^lm_head\.": "transformer.output_layer.",
    r"^model\.layers\.": "transformer.encoder.layers.",
    r"\.self_attn\.o_proj\.": ".self_attention.dense.",
    r"\.mlp\.gate_up_proj\.": ".mlp.dense_h_to_4h.",
    r"\.mlp\.down_proj\.": ".mlp.dense_4h_to_h.",
}

CHATGLM_THETA = 10000.0
"""Base of the rotation, which the configuration gives as a multiple of this."""


def _chatglm_weights(weights: Mapping[str, Tensor], source: dict[str, Any]) -> dict[str, Tensor]:
    """One projection and one bias a layer: all queries, then all keys, then all values."""
    import torch

    result = {name: w for name, w in weights.items() if not re.search(r"\.[qkv]_proj\.", name)}
    for layer in range(source["num_hidden_layers"]):
        stem = f"model.layers.{layer}"
        for kind in ("weight", "bias"):
            parts = [weights[f"{stem}.self_attn.{name}_proj.{kind}"] for name in "qkv"]
            result[f"{stem}.self_attention.query_key_value.{kind}"] = torch.cat(parts)
    return _renamed(result, CHATGLM_NAMES)


def _chatglm_config(source: dict[str, Any]) -> dict[str, Any]:
    return {
        "num_layers": source["num_hidden_layers"],
        "padded_vocab_size": source["vocab_size"],
        "ffn_hidden_size": source["intermediate_size"],
        "kv_channels": source["head_dim"],
        "seq_length": source["max_position_embeddings"],
        "layernorm_epsilon": source["rms_norm_eps"],
        "rope_ratio": _theta(source) / CHATGLM_THETA,
        "multi_query_attention": True,
        "multi_query_group_num": source["num_key_value_heads"],
        "add_bias_linear": False,
        "add_qkv_bias": source["attention_bias"],
        "original_rope": True,
        "post_layer_norm": True,
        "rmsnorm": True,
    }


LAYOUTS: Mapping[str, Layout] = {
    "chatglm": Layout(
        "GlmForCausalLM", "ChatGLMModel", "chatglm", None, _chatglm_config, _chatglm_weights
    ),
    "deepseek-moe": Layout(
        "Qwen2MoeForCausalLM",
        "DeepseekForCausalLM",
        "deepseek",
        "DeepseekConfig",
        _deepseek_config,
        _deepseek_weights,
        _close_gates,
    ),
    "internlm2": Layout(
        "LlamaForCausalLM",
        "InternLM2ForCausalLM",
        "internlm2",
        "InternLM2Config",
        lambda source: {"rope_theta": _theta(source), "bias": False},
        _internlm2_weights,
    ),
    "internlm3": Layout(
        "LlamaForCausalLM",
        "InternLM3ForCausalLM",
        "internlm3",
        "InternLM3Config",
        lambda source: {
            "rope_theta": _theta(source),
            "head_dim": source["head_dim"],
            "bias": False,
            "qkv_bias": False,
        },
        _as_they_are,
    ),
    "minicpm": Layout(
        "GraniteForCausalLM",
        "MiniCPMForCausalLM",
        "minicpm",
        "MiniCPMConfig",
        _minicpm_config,
        _as_they_are,
    ),
}
"""Name of a layout, as recipes give it, to what it is."""
