"""Quantises stand-ins: the same weights as codes and scales, in the files of each format.

The folder `float` holds the stand-in as it was, `dequantised` what its codes and scales stand for:
references for what quantisation loses, and for what a kernel does with it.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matrix.checkpoints import _standin
from matrix.checkpoints._errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from matrix.schema import Quantisation, QuantisedStandInCheckpoint

LINEAR = re.compile(r"model\.layers\.\d+\..*_proj\.weight")
"""Names of the weights that are quantised: those of linear layers within the decoder's layers."""

WEIGHTS = "model.safetensors"

CALIBRATION = (8, 64)
"""Sequences and tokens by which the range of each layer's input is found."""

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight neighbouring columns AWQ puts into each nibble, the lowest first."""

PLAIN_ORDER = tuple(range(8))


def build(recipe: QuantisedStandInCheckpoint, folder: Path) -> None:
    """Write the quantised checkpoint into `folder`, and its two references beside it.

    Raises:
        CheckpointError: the stand-in cannot be built, or has no layers to quantise.
    """
    from safetensors.torch import load_file, save_file

    original = folder / "float"
    original.mkdir()
    _standin.build(recipe, original)
    weights = load_file(original / WEIGHTS)
    chosen = [name for name in weights if LINEAR.fullmatch(name)]
    if not chosen:
        raise CheckpointError(
            "The stand-in has no weights of linear layers to quantise.",
            why=f"No name matches {LINEAR.pattern!r}; transformers may save fused weights.",
            fix="Choose another architecture, or extend matrix/checkpoints/_quantise.py.",
        )
    how = recipe.quantisation
    ranges = _input_ranges(original, recipe.seed) if how.scheme == "W8A8" else {}
    files: dict[str, Tensor] = {}
    schemes: dict[str, str] = {}
    dequantised = dict(weights)
    for name, weight in weights.items():
        if name in chosen:
            stem = name.removesuffix(".weight")
            parts, dequantised[name] = _quantise(weight, how, ranges.get(stem))
            parts = {f"{stem}.{part}": tensor.contiguous() for part, tensor in parts.items()}
            schemes |= dict.fromkeys(parts, how.scheme)
            files |= parts
        else:
            files[name], schemes[name] = weight, "FLOAT"
    if how.cache is not None:
        scales = _cache_scales(original, recipe.seed, how)
        schemes |= dict.fromkeys(scales, how.cache)
        files |= scales
    for target in (folder, folder / "dequantised"):
        shutil.copytree(
            original, target, ignore=shutil.ignore_patterns(WEIGHTS), dirs_exist_ok=True
        )
    save_file(dequantised, folder / "dequantised" / WEIGHTS, metadata={"format": "pt"})
    save_file(files, folder / WEIGHTS, metadata={"format": "pt"})
    if how.format == "modelslim":
        description: dict[str, Any] = {"model_quant_type": how.scheme, **schemes}
        if how.group_size:
            description["group_size"] = how.group_size
        if how.cache is not None:
            description["kv_cache_type"] = how.cache
        (folder / "quant_model_description.json").write_text(json.dumps(description, indent=2))
    else:
        path = folder / "config.json"
        config = {**json.loads(path.read_text()), "quantization_config": _described(how)}
        path.write_text(json.dumps(config, indent=2) + "\n")


def _input_ranges(folder: Path, seed: int) -> dict[str, tuple[float, float]]:
    """Least and greatest number that each linear layer reads, over seeded random tokens."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    ranges: dict[str, tuple[float, float]] = {}

    def watch(name: str) -> Any:
        def seen(_: Any, inputs: tuple[Tensor, ...]) -> None:
            ranges[name] = (float(inputs[0].min()), float(inputs[0].max()))

        return seen

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(watch(name))
    _calibrate(model, seed)
    return ranges


def _calibrate(model: Any, seed: int) -> Any:
    """What a model answers to seeded random tokens."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(model.config.vocab_size, CALIBRATION, generator=generator)
    with torch.inference_mode():
        return model(tokens, use_cache=True)


def _cache_scales(folder: Path, seed: int, how: Quantisation) -> dict[str, Tensor]:
    """The scales of keys, as they are cached, and values of each layer, by the format's names."""
    from transformers import AutoModelForCausalLM

    cached = _calibrate(AutoModelForCausalLM.from_pretrained(folder), seed).past_key_values
    made: dict[str, Tensor] = {}
    for index, layer in enumerate(cached.layers):
        stem = f"model.layers.{index}.self_attn"
        for part, numbers in (("k", layer.keys), ("v", layer.values)):
            if how.format == "compressed-tensors":
                made[f"{stem}.{part}_scale"] = (numbers.abs().max() / 127).view(1)
                continue
            rows = numbers.transpose(1, 2).flatten(0, 1).flatten(1)  # [tokens, channels]
            low, high = rows.amin(0), rows.amax(0)
            scale = (high - low) / 255
            made[f"{stem}.{part}_proj.kv_cache_scale"] = scale
            made[f"{stem}.{part}_proj.kv_cache_offset"] = (-128 - low / scale).round()
    return made


def _quantise(
    weight: Tensor, how: Quantisation, inputs: tuple[float, float] | None
) -> tuple[dict[str, Tensor], Tensor]:
    """A weight [out, in] as the tensors of a format, and what they stand for."""
    import torch

    if how.scheme == "W8A8_MXFP8":
        return _mx(weight)
    if how.scheme == "W4A4_MXFP4":
        return _mx4(weight)
    bits = int(how.scheme[1])
    group = how.group_size or weight.shape[1]
    codes, scale, zero = _codes(weight, bits, group, asymmetric=how.format == "awq")
    wide = codes.unflatten(1, (-1, group)) - zero[..., None]
    meant = (wide * scale.float()[..., None]).flatten(1)
    groups = scale.shape[1]
    if how.format == "gptq":
        biased, none = codes + (1 << bits - 1), (1 << bits - 1) - 1
        return {
            "qweight": pack(biased.t(), bits, 0),
            "qzeros": pack(torch.full((groups, weight.shape[0]), none), bits, 1),
            "scales": scale.t(),
            "g_idx": (torch.arange(weight.shape[1]) // group).int(),
        }, meant
    if how.format == "awq":
        return {
            "qweight": pack(codes.t(), bits, 1, AWQ_ORDER),
            "qzeros": pack(zero.t(), bits, 1, AWQ_ORDER),
            "scales": scale.t(),
        }, meant
    if how.format == "compressed-tensors" and how.scheme.endswith("A16"):
        return {
            "weight_packed": pack(codes + (1 << bits - 1), bits, 1),
            "weight_scale": scale,
            "weight_shape": torch.tensor(weight.shape),
        }, meant
    parts = {"weight": codes.to(torch.int8), "weight_scale": scale.float()}
    if how.scheme == "W4A8_DYNAMIC":
        whole = scale.float().amax(1, keepdim=True)
        parts |= {"weight_scale": whole, "weight_scale_second": scale.float() / whole}
        parts["weight_offset_second"] = torch.zeros_like(parts["weight_scale_second"])
    if how.format == "modelslim":
        parts["weight_offset"] = torch.zeros_like(parts["weight_scale"])
    if inputs is not None:
        parts |= _static(how, parts, *inputs)
    return parts, meant


FLOAT4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""What the lower three bits of float4_e2m1 stand for; the fourth is the sign."""


def _mx4(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """MXFP4: as `_mx`, in float4_e2m1, whose greatest exponent is 2; two to a byte, the first in
    the low half.
    """
    import torch

    rows = weight.unflatten(1, (-1, 32))
    exponents = rows.abs().amax(-1).clamp(min=2.0**-100).log2().floor() - 2
    scaled, table = torch.ldexp(rows, -exponents[..., None].int()), torch.tensor(FLOAT4)
    codes = (scaled.abs()[..., None] - table).abs().argmin(-1)
    meant = torch.ldexp(table[codes] * scaled.sign(), exponents[..., None].int())
    signed = (codes + 8 * (scaled < 0)).flatten(1)
    packed = (signed[:, ::2] + 16 * signed[:, 1::2]).to(torch.uint8)
    return {"weight": packed, "weight_scale": (exponents + 127).to(torch.uint8)}, meant.flatten(1)


def _mx(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """MXFP8: blocks of 32 numbers in float8_e4m3fn, whose greatest exponent is 8, with the power
    of two (plus 127) that brings each block's greatest there (OCP's specification of MX formats).
    """
    import torch

    rows = weight.unflatten(1, (-1, 32))
    exponents = rows.abs().amax(-1).clamp(min=2.0**-100).log2().floor() - 8
    codes = torch.ldexp(rows, -exponents[..., None].int()).clamp(-448, 448)
    codes = codes.to(torch.float8_e4m3fn)
    meant = torch.ldexp(codes.float(), exponents[..., None].int())
    parts = {"weight": codes.flatten(1), "weight_scale": (exponents + 127).to(torch.uint8)}
    return parts, meant.flatten(1)


def _codes(
    weight: Tensor, bits: int, group: int, *, asymmetric: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Whole numbers [out, in], and each group's scale (float16) and zero point [out, groups]."""
    import torch

    rows = weight.unflatten(1, (-1, group))
    if asymmetric:
        low, high = rows.amin(-1).clamp(max=0), rows.amax(-1).clamp(min=0)
        least, most = 0, (1 << bits) - 1
        scale = ((high - low) / most).half()
        zero = (-low / scale.float()).round()
    else:
        most = (1 << bits - 1) - 1
        least = -most - 1
        scale = (rows.abs().amax(-1) / most).half()
        zero = torch.zeros_like(scale, dtype=torch.float32)
    codes = (rows / scale.float()[..., None]).round() + zero[..., None]
    return codes.clamp(least, most).flatten(1).int(), scale, zero.int()


def _static(
    how: Quantisation, parts: dict[str, Tensor], low: float, high: float
) -> dict[str, Tensor]:
    """The tensors of an input with one scale: with an offset for ModelSlim, else symmetric."""
    import torch

    if how.format == "compressed-tensors":
        return {"input_scale": torch.tensor([max(-low, high) / 127])}
    scale = (high - low) / 255
    offset = round(-128 - low / scale)
    total = parts["weight"].sum(1, dtype=torch.int32)
    product = parts["weight_scale"].flatten() * scale
    # Files for float16 hold the operator's words: the float32 in the lower half.
    words = torch.stack([product.view(torch.int32), torch.zeros_like(total)], 1)
    return {
        "input_scale": torch.tensor([scale]),
        "input_offset": torch.tensor([float(offset)]),
        "quant_bias": -total * offset,
        "deq_scale": words.view(torch.int64).flatten(),
    }


def pack(codes: Tensor, bits: int, dim: int, order: tuple[int, ...] = PLAIN_ORDER) -> Tensor:
    """Whole numbers from 0 on, 32 / bits of them to an int32 along `dim`, the first lowest."""
    import torch

    each = 32 // bits
    rows = codes.long().movedim(dim, -1).unflatten(-1, (-1, each))[..., list(order[:each])]
    words = (rows << torch.arange(0, 32, bits)).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).int().movedim(-1, dim)


def _described(how: Quantisation) -> dict[str, Any]:
    """What config.json says under `quantization_config`."""
    bits = int(how.scheme[1])
    if how.format == "gptq":
        size = how.group_size or -1
        return {
            "quant_method": "gptq",
            "bits": bits,
            "group_size": size,
            "desc_act": False,
            "sym": True,
        }
    if how.format == "awq":
        return {
            "quant_method": "awq",
            "bits": bits,
            "group_size": how.group_size or -1,
            "zero_point": True,
            "version": "gemm",
        }
    number = {"type": "int", "symmetric": True}
    grouped = {"strategy": "group", "group_size": how.group_size}
    weights = {**number, "num_bits": bits, "dynamic": False}
    weights |= grouped if how.group_size else {"strategy": "channel"}
    dynamic = how.scheme == "W8A8_DYNAMIC"
    inputs = {
        **number,
        "num_bits": 8,
        "strategy": "token" if dynamic else "tensor",
        "dynamic": dynamic,
    }
    whole = how.scheme.endswith("A16")
    cache = None
    if how.cache is not None:
        cache = {**number, "num_bits": 8, "strategy": "tensor", "dynamic": False}
    parts = {"weights": weights, "input_activations": None if whole else inputs}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized" if whole else "int-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "kv_cache_scheme": cache,
        "config_groups": {"group_0": {"targets": ["Linear"], **parts}},
    }
