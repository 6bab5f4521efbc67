"""Makes what speculative decoding drafts with: models and heads that guess a target's tokens.

Released heads are trained for one model each. A stand-in's are fitted by least squares to what the
target itself says in a few sequences, over small seeded random weights, so that some drafts are
accepted and some are rejected.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.reference import Reference

SEED = 20
NOISE = 0.002
"""Standard deviation of weights that are not fitted: next to nothing, so that the fit decides."""


@dataclass(frozen=True)
class States:
    """What a target computed in some sequences, one row a token.

    Attributes:
        final: the hidden states behind the last norm, which the output layer reads.
        layers: the hidden states behind each layer; the first entry is the embedding.
        embedded: each token's embedding.
        starts: for each sequence, the number of its first row.
    """

    final: Any
    layers: list[Any]
    embedded: Any
    starts: list[int]

    def pairs(self, distance: int) -> tuple[list[int], list[int]]:
        """Rows, and the rows `distance` further on in the same sequence."""
        ends = [*self.starts[1:], len(self.final)]
        rows = [
            row
            for start, end in zip(self.starts, ends, strict=True)
            for row in range(start, end - distance)
        ]
        return rows, [row + distance for row in rows]


def perturbed(reference: Reference, folder: Path, share: float) -> dict[str, Any]:
    """A draft model: the target itself with noise of `share` of each weight's own deviation."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(SEED)
    _copy(reference.checkpoint, folder)
    weights = {
        name: weight + share * weight.std() * torch.randn_like(weight)
        if weight.ndim > 1
        else weight
        for name, weight in _weights(reference.checkpoint).items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return {"method": "draft_model", "model": str(folder)}


def medusa(
    reference: Reference, folder: Path, learnt: Sequence[Sequence[int]], heads: int
) -> dict[str, Any]:
    """One head a draft: the output layer over a map from one hidden state to a later one."""
    import torch

    states = _states(reference, learnt)
    size, output = states.final.shape[1], _output_layer(reference)
    weights = {}
    for head in range(heads):
        # The token after the next is the first one to draft.
        rows, later = states.pairs(head + 1)
        fitted = _fit(states.final[rows], states.final[later])
        weights[f"lm_heads.{head}.weight"] = output @ fitted
        weights[f"blocks.{head}.layers.0.weight"] = _noise(size, size)
    config = {
        "model_type": "medusa",
        "architectures": ["MedusaModel"],
        "hidden_size": size,
        "vocab_size": len(output),
        "medusa_num_heads": heads,
        "medusa_num_layers": 1,
        "torch_dtype": "float32",
    }
    _save(folder, config, {name: weight.to(torch.float32) for name, weight in weights.items()})
    return {"method": "medusa", "model": str(folder)}


def eagle(
    reference: Reference, folder: Path, learnt: Sequence[Sequence[int]], heads: int
) -> dict[str, Any]:
    """EAGLE: a token's embedding and the hidden state before it give the hidden state after it."""
    import torch

    states = _states(reference, learnt)
    rows, later = states.pairs(1)
    weights = {
        "fc.weight": _fit(
            torch.cat([states.embedded[later], states.final[rows]], 1), states.final[later]
        ),
        **_layer(reference, "layers.0", states.final.shape[1], states.final.shape[1]),
    }
    _save(folder, _llama(reference, "LlamaForCausalLM"), weights)
    return {"method": "eagle", "model": str(folder)}


def eagle3(
    reference: Reference, folder: Path, learnt: Sequence[Sequence[int]], heads: int
) -> dict[str, Any]:
    """EAGLE-3: the hidden states behind three layers give the one that the output layer reads."""
    import torch

    states = _states(reference, learnt)
    count, size = len(states.layers) - 1, states.final.shape[1]
    chosen = sorted({1, count - 1, count})
    rows, later = states.pairs(1)
    wanted = states.layers[-1][later]
    weights = {
        "fc.weight": _fit(torch.cat([states.layers[n][rows] for n in chosen], 1), wanted),
        **_layer(reference, "midlayer", 2 * size, size),
        "midlayer.hidden_norm.weight": torch.ones(size),
        "midlayer.input_layernorm.weight": torch.ones(size),
        "norm.weight": _model(reference).norm.weight.detach().clone(),
        "lm_head.weight": _output_layer(reference),
    }
    config = _llama(reference, "LlamaForCausalLMEagle3")
    config["draft_vocab_size"] = config["vocab_size"]
    config["eagle_aux_hidden_state_layer_ids"] = chosen
    config["num_aux_hidden_states"] = len(chosen)
    _save(folder, config, weights)
    return {"method": "eagle3", "model": str(folder)}


def mtp(reference: Reference, folder: Path, learnt: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Multi-token prediction: the target's checkpoint with one layer more, made of its last."""
    import torch
    from safetensors.torch import save_file

    states, model = _states(reference, learnt), _model(reference)
    rows, later = states.pairs(1)
    size, number = states.final.shape[1], len(states.layers) - 1
    inputs = torch.cat([_normed(states.embedded[later]), _normed(states.final[rows])], 1)
    weights = _weights(reference.checkpoint)
    last, own = f"model.layers.{number - 1}.", f"model.layers.{number}."
    for name in [name for name in weights if name.startswith(last)]:
        quiet = "o_proj" in name or "down_proj" in name
        weights[name.replace(last, own)] = weights[name] * (0.01 if quiet else 1.0)
    weights |= {
        f"{own}enorm.weight": torch.ones(size),
        f"{own}hnorm.weight": torch.ones(size),
        f"{own}eh_proj.weight": _fit(inputs, states.layers[-1][later]),
        f"{own}shared_head.norm.weight": model.norm.weight.detach().clone(),
        f"{own}shared_head.head.weight": _output_layer(reference).clone(),
        f"{own}embed_tokens.weight": model.embed_tokens.weight.detach().clone(),
    }
    _copy(reference.checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    config["num_nextn_predict_layers"] = 1
    (folder / "config.json").write_text(json.dumps(config))
    contiguous = {name: weight.contiguous() for name, weight in weights.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})
    return {"method": "mtp"}


# ------------------------------------------------------------------------------------------ parts


def _model(reference: Reference) -> Any:
    return reference.model.model


def _output_layer(reference: Reference) -> Any:
    return reference.model.get_output_embeddings().weight.detach().clone()


def _states(reference: Reference, sequences: Sequence[Sequence[int]]) -> States:
    """Run the target over each sequence alone."""
    import torch

    body = _model(reference)
    before_norm: list[Any] = []
    hook = body.norm.register_forward_pre_hook(lambda _, inputs: before_norm.append(inputs[0][0]))
    rows, starts = [], []
    try:
        for sequence in sequences:
            starts.append(sum(len(row[0]) for row in rows))
            with torch.inference_mode():
                found = body(torch.tensor([list(sequence)]), output_hidden_states=True)
            hidden = [state[0] for state in found.hidden_states]
            rows.append([*hidden[:-1], before_norm[-1], found.last_hidden_state[0]])
    finally:
        hook.remove()
    columns = [torch.cat(column).clone() for column in zip(*rows, strict=True)]
    tokens = torch.tensor([token for sequence in sequences for token in sequence])
    embedded = body.embed_tokens.weight.detach()[tokens]
    return States(columns[-1], columns[:-1], embedded, starts)


def _fit(inputs: Any, outputs: Any) -> Any:
    """The weight W of least norm with inputs @ W.T nearest to outputs."""
    import torch

    return (torch.linalg.pinv(inputs.double(), rtol=1e-4) @ outputs.double()).T.float().contiguous()


def _normed(rows: Any) -> Any:
    return rows * rows.pow(2).mean(-1, keepdim=True).add(1e-6).rsqrt()


def _noise(*shape: int) -> Any:
    import torch

    generator = torch.Generator().manual_seed(SEED + sum(shape))
    return NOISE * torch.randn(*shape, generator=generator)


def _layer(reference: Reference, name: str, read: int, size: int) -> dict[str, Any]:
    """The weights of one decoder layer that changes little; attention reads `read` numbers."""
    import torch

    config = _llama(reference, "")
    heads, groups, head = (
        config[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim")
    )
    inner = config["intermediate_size"]
    return {
        f"{name}.self_attn.q_proj.weight": _noise(heads * head, read),
        f"{name}.self_attn.k_proj.weight": _noise(groups * head, read),
        f"{name}.self_attn.v_proj.weight": _noise(groups * head, read),
        f"{name}.self_attn.o_proj.weight": _noise(size, heads * head),
        f"{name}.mlp.gate_proj.weight": _noise(inner, size),
        f"{name}.mlp.up_proj.weight": _noise(inner, size),
        f"{name}.mlp.down_proj.weight": _noise(size, inner),
        f"{name}.post_attention_layernorm.weight": torch.ones(size),
    }


def _llama(reference: Reference, architecture: str) -> dict[str, Any]:
    """The configuration of a Llama of one layer with the target's sizes, which heads are."""
    target = reference.model.config
    kept = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    return {
        "model_type": "llama",
        "architectures": [architecture],
        **{key: getattr(target, key) for key in kept},
        "head_dim": getattr(target, "head_dim", None)
        or target.hidden_size // target.num_attention_heads,
        "vocab_size": target.vocab_size,
        "max_position_embeddings": target.max_position_embeddings,
        "rms_norm_eps": target.rms_norm_eps,
        "num_hidden_layers": 1,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }


def _weights(checkpoint: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    files = sorted(checkpoint.glob("*.safetensors"))
    return {name: weight for file in files for name, weight in load_file(file).items()}


def _copy(checkpoint: Path, folder: Path) -> None:
    """Everything of a checkpoint but its weights."""
    folder.mkdir(parents=True)
    for path in checkpoint.iterdir():
        if path.is_file() and not path.name.startswith(("model", "manifest")):
            shutil.copy(path, folder / path.name)


def _save(folder: Path, config: dict[str, Any], weights: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    contiguous = {name: weight.contiguous() for name, weight in weights.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})
