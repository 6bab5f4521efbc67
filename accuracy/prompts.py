"""The texts whose tokens the port gate compares: short and long, prose, code, figures, scripts.

Written for this project. One is longer than a block of the KV cache, so that attention reads over
the border of two.
"""

from __future__ import annotations

TEXTS: tuple[str, ...] = (
    "The capital of France is",
    ("Water boils at 100 degrees Celsius at sea level, and at a lower one on mountains, because"),
    "def mean(values):\n    total = 0\n    for value in values:\n        total +=",
    "1, 2, 4, 8, 16, 32, 64,",
    "昇腾处理器上的推理结果应当与参考实现一致，",
    (
        "The ferry leaves the harbour at seven in the morning. It carries letters, bread, two "
        "bicycles and a dog that belongs to nobody in particular. The captain counts the "
        "passengers twice, because last spring he left without the schoolteacher, who had to "
        "wait on the pier until noon. On the island the baker's son waits with a cart. He "
        "takes the letters to the post office first, then the bread to the inn, and last of "
        "all the bicycles to the house behind the church, where the two sisters live. They "
        "ride along the shore every evening, whatever the weather, and when the light of the "
        "tower begins to turn they stop and look at the sea in silence. One evening the older "
        "of the two said that"
    ),
)
"""Prompts of the port gate, the longest of well over 128 tokens with the tokenizers in use."""

GENERATED = 24
"""Tokens generated after each prompt."""

TOP = 20
"""Most likely tokens asked for at each position; vLLM allows so many unless told otherwise."""
