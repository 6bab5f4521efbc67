"""Images and sounds by number, made up so that nothing has to be shipped."""

from __future__ import annotations

from typing import Any

SIDE = 56
"""Pixels of an image's side: a multiple of the patches of the stand-ins."""

RATE = 16000
"""Samples of a sound in a second, as the feature extractors expect."""


def make(kind: str, number: int) -> Any:
    """Return an RGB image, or a sound of a quarter of a second, that differs by `number`.

    A sound is a pair of samples (float32, within one) and their rate.
    """
    import numpy as np

    generator = np.random.default_rng(number)
    if kind == "image":
        from PIL import Image

        colours = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        return Image.fromarray(colours).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    times = np.arange(RATE // 4) / RATE
    tones = generator.uniform(200, 2000, 3)
    sound = sum(np.sin(2 * np.pi * tone * times) for tone in tones) / 3
    return np.asarray(sound, dtype=np.float32), RATE
