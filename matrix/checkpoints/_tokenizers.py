"""Builds the tokenizers of stand-ins: their real class over a small, fixed vocabulary."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matrix.checkpoints._errors import CheckpointError

if TYPE_CHECKING:
    from matrix.schema import TokenizerRecipe

COMMON_LETTERS = "etaoinshrdlucmfwygpbvk"
"""English letters by frequency: merging them shortens prompts as a trained vocabulary would."""

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
"""Template of a stand-in whose recipe gives none: every role as a line of plain text."""


def save(recipe: TokenizerRecipe, folder: Path, max_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json into `folder`.

    Raises:
        CheckpointError: transformers has no such class, or the vocabulary cannot be filled.
    """
    import transformers

    cls = getattr(transformers, recipe.tokenizer_class, None)
    if cls is None:
        raise CheckpointError(
            f"transformers {transformers.__version__} has no tokenizer class "
            f"{recipe.tokenizer_class!r}.",
            why="The recipe's tokenizer_class is mistyped or newer than the installed version.",
            fix="Correct tokenizer.tokenizer_class of the model in matrix/models/.",
        )
    arguments: dict[str, Any] = {
        **recipe.special_tokens,
        "chat_template": recipe.chat_template or CHAT_TEMPLATE,
        "model_max_length": max_length,
    }
    special = list(recipe.special_tokens.values())
    tokenizer = _construct(cls, recipe, special, arguments)
    # Some classes bring special tokens of their own, which must not lie beyond the vocabulary.
    missing = [t for t in tokenizer.all_special_tokens if t not in special]
    if missing:
        tokenizer = _construct(cls, recipe, special + missing, arguments)
    tokenizer.save_pretrained(folder)


def _construct(
    cls: Any, recipe: TokenizerRecipe, special: list[str], arguments: dict[str, Any]
) -> Any:
    import transformers

    vocabulary, merges = _vocabulary(recipe, special)
    if cls is transformers.PreTrainedTokenizerFast:
        return cls(tokenizer_object=_byte_level(vocabulary, merges), **arguments)
    return cls(vocab=vocabulary, merges=merges, **arguments)


def _vocabulary(
    recipe: TokenizerRecipe, special: list[str]
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Special tokens, then 256 bytes, then (for byte fallback) characters, then merges."""
    from tokenizers import pre_tokenizers

    tokens = list(special)
    if recipe.algorithm == "byte-level-bpe":
        tokens += sorted(pre_tokenizers.ByteLevel.alphabet())
        space = "Ġ"
    else:
        space = "▁"
        tokens += [f"<0x{value:02X}>" for value in range(256)]
        tokens += [space, "\n", *(chr(code) for code in range(0x21, 0x7F))]
    room = recipe.vocab_size - len(tokens)
    pairs = [(space, letter) for letter in COMMON_LETTERS]
    pairs += list(product(COMMON_LETTERS, COMMON_LETTERS))
    if not 0 <= room <= len(pairs):
        raise CheckpointError(
            f"A vocabulary of {recipe.vocab_size} entries cannot be built.",
            why=f"{len(tokens)} are special tokens and bytes, and {len(pairs)} merges are known.",
            fix=f"Set tokenizer.vocab_size between {len(tokens)} and {len(tokens) + len(pairs)}.",
        )
    merges = pairs[:room]
    tokens += [left + right for left, right in merges]
    return {token: index for index, token in enumerate(tokens)}, merges


def _byte_level(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
