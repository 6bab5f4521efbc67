"""Builds stand-ins: a real architecture with tiny dimensions and seeded random weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matrix.checkpoints import _tokenizers
from matrix.checkpoints._errors import CheckpointError
from matrix.errors import did_you_mean

if TYPE_CHECKING:
    from matrix.schema import ProcessorRecipe, StandInRecipe

NORM_SPREAD = 0.1
"""Standard deviation added to norm weights and biases, so that an ignored one is noticed."""

LAST_NORM = r"(thinker\.)?(model\.)?(language_model\.)?(model\.)?(norm|final_layernorm)\.weight"
"""The parameter that scales the logits, by the names that the families give it."""

TRIAL_TOKENS = 32
VARIED_TOKENS = 4
"""Different tokens in a trial, on average over its prompts, below which a recipe is refused."""

OUTPUT_GAIN = 3.0
"""Standard deviation of the last norm's weights, which scales the logits.

Its weights have random signs: with tied embeddings, a positive norm would favour the token that
was just read, and greedy decoding would repeat it for ever.
"""


def build(
    recipe: StandInRecipe, folder: Path, prepare: Callable[[Any], None] | None = None
) -> None:
    """Write the checkpoint (weights in float32) into `folder`.

    Args:
        recipe: what to build.
        folder: where it goes.
        prepare: changes the model before it is tried and saved.

    Raises:
        CheckpointError: transformers lacks a class, or refuses the configuration.
    """
    import torch
    import transformers

    config = _config(transformers, recipe)
    cls = _class_of(transformers, recipe.architectures[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        try:
            model = cls(config)
        except (TypeError, ValueError, AttributeError) as error:
            raise _refused(recipe, error) from error
        _spread(torch, model)
    if prepare is not None:
        prepare(model)
    model.eval()
    if model.can_generate():
        if not config.is_encoder_decoder:  # others say nothing without something to encode
            _require_varied(torch, model, recipe)
        model.generation_config = transformers.GenerationConfig(
            do_sample=False,
            **{
                key: getattr(config, key)
                for key in ("bos_token_id", "eos_token_id", "pad_token_id")
                if getattr(config, key, None) is not None
            },
        )
    model.save_pretrained(folder)
    if recipe.renames:
        _rename(recipe.renames, folder / "model.safetensors")
    length = getattr(config, "max_position_embeddings", 2048)
    _tokenizers.save(recipe.tokenizer, folder, length)
    if recipe.processor is not None:
        _save_processor(transformers, recipe.processor, folder)


def _save_processor(transformers: Any, recipe: ProcessorRecipe, folder: Path) -> None:
    """Write the processor's files beside those of the tokenizer, which it takes as it is."""
    parts: dict[str, Any] = {}
    for name, description in recipe.parts.items():
        arguments = dict(description)
        parts[name] = _class_of(transformers, str(arguments.pop("class")))(**arguments)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    cls = _class_of(transformers, recipe.processor_class)
    cls(tokenizer=tokenizer, **parts, **recipe.arguments).save_pretrained(folder)


def _rename(renames: dict[str, str], path: Path) -> None:
    """Give the weights in a file the names that they have in released checkpoints."""
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    for pattern, replacement in renames.items():
        renamed = {re.sub(pattern, replacement, name): w for name, w in weights.items()}
        if renamed.keys() == weights.keys():
            raise CheckpointError(
                f"No weight's name is changed by {pattern!r}.",
                why="The pattern is mistyped, or transformers saves other names than it did.",
                fix="Correct or remove it in checkpoint.renames of the model in matrix/models/.",
            )
        weights = renamed
    save_file(weights, path, metadata={"format": "pt"})


def _config(transformers: Any, recipe: StandInRecipe) -> Any:
    cls = _class_of(transformers, recipe.config_class)
    arguments = _with_spread(dict(recipe.config), recipe.weight_std)
    try:
        config = cls(**arguments)
    except Exception as error:  # the classes validate in several ways, each with its own type
        raise _refused(recipe, error) from error
    config.architectures = list(recipe.architectures)
    config.dtype = "float32"
    return config


def _with_spread(config: dict[str, Any], deviation: float) -> dict[str, Any]:
    """The configuration with the deviation of weights, in each of its parts if it has any."""
    parts = {
        name: _with_spread(value, deviation)
        for name, value in config.items()
        if isinstance(value, dict) and name.endswith("_config")
    }
    return {"initializer_range": deviation, **config, **parts}


def _spread(torch: Any, model: Any) -> None:
    """Add noise to every one-dimensional weight, and draw the last norm's anew.

    All-ones norms would hide one that is skipped or whose weights are exchanged with another's.
    """
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if weight.dim() != 1:
                continue
            if re.fullmatch(LAST_NORM, name):
                # Families that multiply by (1 + weight) start at zero, the others at one.
                weight.sub_(1.0).add_(torch.randn_like(weight), alpha=OUTPUT_GAIN)
            else:
                weight.add_(torch.randn_like(weight), alpha=NORM_SPREAD)


def _require_varied(torch: Any, model: Any, recipe: StandInRecipe) -> None:
    """Decode greedily from a few prompts and refuse weights that repeat one token for ever.

    A model that always says the same agrees with its reference even when attention is wrong.
    """
    first = len(recipe.tokenizer.special_tokens)
    prompts = torch.arange(first, first + 64).reshape(4, 16)
    with torch.inference_mode():
        # A model that also speaks generates by the part that thinks.
        tokens = getattr(model, "thinker", model).generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=TRIAL_TOKENS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[:, prompts.shape[1] :]
    varied = sum(len(set(row)) for row in tokens.tolist()) / len(prompts)
    if varied < VARIED_TOKENS:
        raise CheckpointError(
            f"The stand-in's greedy output has {varied:.1f} different tokens in {TRIAL_TOKENS}.",
            why="With this seed and weight_std it repeats itself, so that comparing its output "
            "with a reference would show little.",
            fix="Change checkpoint.seed or checkpoint.weight_std of the model in matrix/models/.",
        )


def _class_of(transformers: Any, name: str) -> Any:
    cls = getattr(transformers, name, None)
    if cls is None:
        similar = [n for n in dir(transformers) if n[:3].lower() == name[:3].lower()]
        raise CheckpointError(
            f"transformers {transformers.__version__} has no class {name!r}.",
            why="The recipe is mistyped, or the class is newer than the installed version.",
            fix=did_you_mean(name, similar),
        )
    return cls


def _refused(recipe: StandInRecipe, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{recipe.config_class} refuses the stand-in's dimensions: {error}",
        why="The values under checkpoint.config do not fit together.",
        fix="Correct checkpoint.config of the model in matrix/models/.",
    )
