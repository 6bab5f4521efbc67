"""Quantised stand-ins: the codes and scales in the files stand for the weights beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from matrix.checkpoints import CheckpointError, _quantise, materialise
from matrix.schema import Quantisation
from tests.unit.checkpoints.conftest import stand_in_with

PROJECTION = "model.layers.1.mlp.up_proj"


def quantised(form: str, scheme: str, group: int | None = None, **changes: Any) -> Any:
    how = {"format": form, "scheme": scheme, "group_size": group}
    dims = {"hidden_size": 64, "intermediate_size": 96}
    return stand_in_with(dims, kind="quantised-stand-in", quantisation=how, **changes)


def unpacked(words: torch.Tensor, bits: int) -> torch.Tensor:
    """[rows, words] to [rows, numbers], the lowest bits first."""
    shifts = torch.arange(0, 32, bits)
    return (words.long()[..., None] >> shifts & (1 << bits) - 1).flatten(1)


@pytest.mark.parametrize("scheme", ["W8A8", "W8A8_DYNAMIC", "W8A16"])
def test_modelslim_describes_each_tensor(tmp_path: Path, scheme: str) -> None:
    folder = materialise(quantised("modelslim", scheme), tmp_path)
    weights = load_file(folder / "model.safetensors")
    described = json.loads((folder / "quant_model_description.json").read_text())
    assert described.pop("model_quant_type") == scheme
    assert set(described) == set(weights)
    assert described["lm_head.weight"] == "FLOAT"
    assert described[f"{PROJECTION}.weight"] == scheme
    codes, scale = weights[f"{PROJECTION}.weight"], weights[f"{PROJECTION}.weight_scale"]
    assert codes.dtype == torch.int8
    meant = load_file(folder / "dequantised" / "model.safetensors")[f"{PROJECTION}.weight"]
    assert torch.equal(codes.float() * scale, meant)
    original = load_file(folder / "float" / "model.safetensors")[f"{PROJECTION}.weight"]
    assert 0 < (meant - original).abs().max() <= 0.51 * scale.max()


def test_a_static_scheme_undoes_its_offset(tmp_path: Path) -> None:
    folder = materialise(quantised("modelslim", "W8A8"), tmp_path)
    parts = {
        name.removeprefix(f"{PROJECTION}."): tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
        if name.startswith(PROJECTION)
    }
    words = parts["deq_scale"].view(torch.int32).view(-1, 2)
    assert not words[:, 1].any()
    product = words[:, 0].contiguous().view(torch.float32)
    assert torch.equal(product, parts["weight_scale"].flatten() * parts["input_scale"])
    x = torch.randn(4, 64) * 0.3
    codes = (x / parts["input_scale"] + parts["input_offset"]).round().clamp(-128, 127)
    given = (codes @ parts["weight"].float().t() + parts["quant_bias"]) * product
    expected = x @ (parts["weight"] * parts["weight_scale"]).t()
    assert (given - expected).abs().max() < 0.05 * expected.abs().max()


def test_two_scales_of_four_bits(tmp_path: Path) -> None:
    folder = materialise(quantised("modelslim", "W4A8_DYNAMIC", 32), tmp_path)
    weights = load_file(folder / "model.safetensors")
    described = json.loads((folder / "quant_model_description.json").read_text())
    assert described["group_size"] == 32
    codes = weights[f"{PROJECTION}.weight"]
    assert codes.abs().max() == 7
    scale = weights[f"{PROJECTION}.weight_scale"] * weights[f"{PROJECTION}.weight_scale_second"]
    meant = load_file(folder / "dequantised" / "model.safetensors")[f"{PROJECTION}.weight"]
    torch.testing.assert_close(codes * scale.repeat_interleave(32, 1), meant)


def test_blocks_of_mx(tmp_path: Path) -> None:
    folder = materialise(quantised("modelslim", "W8A8_MXFP8"), tmp_path)
    weights = load_file(folder / "model.safetensors")
    codes, powers = weights[f"{PROJECTION}.weight"], weights[f"{PROJECTION}.weight_scale"]
    assert (codes.dtype, powers.dtype) == (torch.float8_e4m3fn, torch.uint8)
    scale = torch.exp2(powers.float() - 127).repeat_interleave(32, 1)
    meant = load_file(folder / "dequantised" / "model.safetensors")[f"{PROJECTION}.weight"]
    assert torch.equal(codes.float() * scale, meant)
    original = load_file(folder / "float" / "model.safetensors")[f"{PROJECTION}.weight"]
    greatest = original.unflatten(1, (-1, 32)).abs().amax(-1).repeat_interleave(32, 1)
    assert ((meant - original).abs() <= greatest / 8).all()
    assert (codes.float().abs().unflatten(1, (-1, 32)).amax(-1) >= 240).all()


def test_blocks_of_mx_in_four_bits(tmp_path: Path) -> None:
    folder = materialise(quantised("modelslim", "W4A4_MXFP4"), tmp_path)
    weights = load_file(folder / "model.safetensors")
    packed, powers = weights[f"{PROJECTION}.weight"], weights[f"{PROJECTION}.weight_scale"]
    assert packed.dtype == powers.dtype == torch.uint8
    codes = torch.stack([packed & 15, packed >> 4], -1).flatten(1).long()
    values = torch.tensor(_quantise.FLOAT4)[codes & 7] * (1 - 2 * (codes >> 3))
    scale = torch.exp2(powers.float() - 127).repeat_interleave(32, 1)
    meant = load_file(folder / "dequantised" / "model.safetensors")[f"{PROJECTION}.weight"]
    assert torch.equal(values * scale, meant)
    original = load_file(folder / "float" / "model.safetensors")[f"{PROJECTION}.weight"]
    greatest = original.unflatten(1, (-1, 32)).abs().amax(-1).repeat_interleave(32, 1)
    assert ((meant - original).abs() <= greatest / 4).all()
    assert (values.abs().unflatten(1, (-1, 32)).amax(-1) >= 4).all()


@pytest.mark.parametrize("form", ["modelslim", "compressed-tensors"])
def test_scales_of_a_cache_hold_what_was_cached(tmp_path: Path, form: str) -> None:
    """Of every layer, for the tokens of the calibration, each number has a code."""
    model = quantised(form, "W8A16")
    how = model.checkpoint.quantisation.model_copy(update={"cache": "C8"})
    model = model.model_copy(
        update={"checkpoint": model.checkpoint.model_copy(update={"quantisation": how})}
    )
    folder = materialise(model, tmp_path)
    weights = load_file(folder / "model.safetensors")
    original = transformers.AutoModelForCausalLM.from_pretrained(folder / "float")
    cached = _quantise._calibrate(original, model.checkpoint.seed).past_key_values
    for index, layer in enumerate(cached.layers):
        rows = layer.keys.transpose(1, 2).flatten(0, 1).flatten(1)
        stem = f"model.layers.{index}.self_attn"
        if form == "modelslim":
            scale, zero = (
                weights[f"{stem}.k_proj.kv_cache_{part}"] for part in ("scale", "offset")
            )
            described = json.loads((folder / "quant_model_description.json").read_text())
            assert described["kv_cache_type"] == described[f"{stem}.k_proj.kv_cache_scale"] == "C8"
        else:
            scale, zero = weights[f"{stem}.k_scale"], 0
            config = json.loads((folder / "config.json").read_text())["quantization_config"]
            assert config["kv_cache_scheme"]["type"] == "int"
        codes = (rows / scale + zero).round()
        assert codes.min() >= -129
        assert codes.max() <= 128
        assert codes.max() - codes.min() > 100


def test_groups_of_gptq(tmp_path: Path) -> None:
    folder = materialise(quantised("gptq", "W4A16", 32), tmp_path)
    weights = load_file(folder / "model.safetensors")
    codes = unpacked(weights[f"{PROJECTION}.qweight"].t(), 4) - 8
    assert (unpacked(weights[f"{PROJECTION}.qzeros"], 4) == 7).all()  # stored less one
    scale = weights[f"{PROJECTION}.scales"].float().t()[:, weights[f"{PROJECTION}.g_idx"].long()]
    meant = load_file(folder / "dequantised" / "model.safetensors")[f"{PROJECTION}.weight"]
    torch.testing.assert_close(codes * scale, meant, atol=0, rtol=0)


def test_groups_of_awq(tmp_path: Path) -> None:
    folder = materialise(quantised("awq", "W4A16", 32), tmp_path)
    weights = load_file(folder / "model.safetensors")
    columns = [8 * word + column for word in range(12) for column in _quantise.AWQ_ORDER]
    codes, zeros = torch.empty(64, 96), torch.empty(2, 96)
    codes[:, columns] = unpacked(weights[f"{PROJECTION}.qweight"], 4).float()
    zeros[:, columns] = unpacked(weights[f"{PROJECTION}.qzeros"], 4).float()
    scale = weights[f"{PROJECTION}.scales"].float().repeat_interleave(32, 0)
    meant = load_file(folder / "dequantised" / "model.safetensors")[f"{PROJECTION}.weight"]
    torch.testing.assert_close((codes - zeros.repeat_interleave(32, 0)) * scale, meant.t())


def test_compressed_tensors_reads_what_is_written(tmp_path: Path) -> None:
    """The package that defines the format unpacks the numbers."""
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

    folder = materialise(quantised("compressed-tensors", "W4A16", 32), tmp_path)
    weights = load_file(folder / "model.safetensors")
    shape = torch.Size(weights[f"{PROJECTION}.weight_shape"].tolist())
    codes = unpack_from_int32(weights[f"{PROJECTION}.weight_packed"], 4, shape)
    scale = weights[f"{PROJECTION}.weight_scale"].float().repeat_interleave(32, 1)
    meant = load_file(folder / "dequantised" / "model.safetensors")[f"{PROJECTION}.weight"]
    torch.testing.assert_close(codes * scale, meant)


def test_a_model_without_linear_layers_is_refused(tmp_path: Path) -> None:
    model = quantised("modelslim", "W8A16", renames={r"model\.layers\.": "transformer.h."})
    with pytest.raises(CheckpointError, match="no weights of linear layers"):
        materialise(model, tmp_path)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"format": "awq", "scheme": "W8A8"}, "W8A8 is a scheme of modelslim, compressed"),
        ({"format": "modelslim", "scheme": "W8A8", "group_size": 64}, "no group_size"),
    ],
)
def test_schemes_that_a_format_lacks_are_refused(how: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Quantisation.model_validate(how)
