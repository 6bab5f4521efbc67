"""The prompts that bodies use: short ones of different lengths, and long ones made of them."""

from __future__ import annotations

from typing import Any

SHORT = (
    "The capital of France is",
    "Water boils at",
    "def fibonacci(n):",
    "Once upon a time there was a",
    "The quick brown fox jumps over the lazy dog, and then",
    "1, 2, 3, 4,",
    "Dear Sir or Madam,",
    "In the year 1969",
    "The three primary colours are",
    "A recipe for bread needs flour,",
    "The opposite of hot is",
    "Photosynthesis is the process by which plants",
    "import numpy as np\n\n",
    "Question: how many legs has a spider?\nAnswer:",
    "To be, or not to be, that is",
    "Le soleil se couche sur",
)
"""Texts that a small model continues in different ways."""

SYSTEM = (
    "You answer questions about a small harbour town. The harbour has three piers; the first is "
    "used by fishing boats, the second by the ferry to the island, and the third by visitors. "
    "The market opens at seven in the morning and closes at noon. On Sundays there is no ferry. "
    "The lighthouse was built in 1874, and its keeper lives in the white house next to it. "
    "The school has ninety pupils and four teachers. "
)
"""A text that several prompts share as their beginning."""

QUESTIONS = (
    "When does the market open?",
    "Who uses the second pier?",
    "How old is the lighthouse?",
    "How many pupils has the school?",
    "Is there a ferry on Sundays?",
    "Where does the keeper live?",
)
"""Endings that make the prompts differ."""


def encode(tokenizer: Any, texts: list[str] | tuple[str, ...]) -> list[list[int]]:
    """Return the token ids of each text, with the special tokens that the tokenizer adds."""
    return [list(tokenizer(text)["input_ids"]) for text in texts]


def long_prompts(tokenizer: Any, count: int, length: int) -> list[list[int]]:
    """Return `count` prompts of exactly `length` tokens, each beginning with another question."""
    prompts = []
    for index in range(count):
        question = QUESTIONS[index % len(QUESTIONS)]
        tokens = encode(tokenizer, [f"{question} " + SYSTEM * (1 + length // 80)])[0]
        prompts.append(tokens[:length])
    return prompts


def shared_prefix(tokenizer: Any, count: int, length: int) -> tuple[list[int], list[list[int]]]:
    """Return a prefix of exactly `length` tokens, and `count` prompts that begin with it."""
    prefix = encode(tokenizer, [SYSTEM * (1 + length // 80)])[0][:length]
    endings = encode(tokenizer, [f" {q}" for q in QUESTIONS])
    return prefix, [prefix + endings[i % len(endings)] for i in range(count)]
