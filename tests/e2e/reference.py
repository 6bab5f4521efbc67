"""The reference: unmodified transformers on the CPU in float32, its answers kept on disk.

Every answer is stored under a hash of the checkpoint, the versions and the question, so that the
many cells that ask the same compute it once.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.e2e import prompts as texts_module
from tests.e2e.compare import TIE_GAP

TOP = 16
"""Most likely tokens kept at each position; more than any body compares."""

GRAIN = 24
"""Greedy continuations are computed for multiples of so many tokens."""

FORMAT = 1
"""Raised when stored answers change their meaning."""


@dataclass(frozen=True)
class Scored:
    """What the reference says about every position of one sequence.

    `logprobs`, `top` and `gaps` have one entry for each token but the first: what the model said
    about the token after it had read all tokens before it.

    Attributes:
        tokens: prompt and continuation.
        prompt_length: number of tokens that are the prompt.
        logprobs: log-probability of each token (nats).
        top: the most likely (token, logprob) at each position, the best first.
        gaps: difference between the two best logprobs (nats).
    """

    tokens: list[int]
    prompt_length: int
    logprobs: list[float]
    top: list[list[tuple[int, float]]]
    gaps: list[float]

    @property
    def prompt(self) -> list[int]:
        """The tokens of the prompt."""
        return self.tokens[: self.prompt_length]

    @property
    def continuation(self) -> list[int]:
        """The tokens after the prompt."""
        return self.tokens[self.prompt_length :]

    @property
    def continuation_logprobs(self) -> list[float]:
        """Log-probability of each token after the prompt."""
        return self.logprobs[self.prompt_length - 1 :]

    @property
    def continuation_top(self) -> list[list[tuple[int, float]]]:
        """Most likely tokens at each position after the prompt."""
        return self.top[self.prompt_length - 1 :]

    @property
    def continuation_gaps(self) -> list[float]:
        """Difference between the two best logprobs at each position after the prompt."""
        return self.gaps[self.prompt_length - 1 :]

    def cut(self, length: int) -> Scored:
        """Return the same with the first `length` tokens of the continuation."""
        end = self.prompt_length + length
        return Scored(
            self.tokens[:end],
            self.prompt_length,
            self.logprobs[: end - 1],
            self.top[: end - 1],
            self.gaps[: end - 1],
        )


@dataclass(frozen=True)
class Beam:
    """One hypothesis of a beam search: tokens after the prompt, and the sum of their logprobs."""

    tokens: list[int]
    score: float


class Reference:
    """Answers about one checkpoint.

    Args:
        checkpoint: folder of the checkpoint, or of that and what it was converted from.
        store: folder of kept answers; `default_store()` if None.
    """

    def __init__(self, checkpoint: Path, store: Path | None = None) -> None:
        # Where the files are of a repository with code of its own, the same model under
        # transformers' names is beside them.
        converted = checkpoint / "reference"
        self.checkpoint = converted if converted.is_dir() else checkpoint
        self.store = store or default_store()
        self.seconds = 0.0
        """Time spent computing; nothing if every answer was in the store."""

    @cached_property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.checkpoint)

    def greedy(self, prompts: Sequence[Sequence[int]], length: int) -> list[Scored]:
        """Return the greedy continuation of each prompt by exactly `length` tokens.

        The end-of-sequence token is a token like any other here.
        """
        # Lengths are rounded up, so that bodies that ask for a few tokens more or less share one.
        rounded = -(-length // GRAIN) * GRAIN
        questions = [{"greedy": list(prompt), "length": rounded} for prompt in prompts]
        pairs = zip(prompts, questions, strict=True)
        missing = [list(prompt) for prompt, q in pairs if not self._path(q).is_file()]
        fresh = iter(self._timed(lambda: self._generate(missing, rounded)) if missing else [])
        for question in questions:
            if not self._path(question).is_file():
                self._keep(question, asdict(next(fresh)))
        return [_scored(self._answer(question, dict)).cut(length) for question in questions]

    def score(self, prompt: Sequence[int], continuation: Sequence[int]) -> Scored:
        """Return what the reference says about a given continuation, from one forward pass."""
        question = {"score": list(prompt), "continuation": list(continuation)}
        answer = self._answer(
            question, lambda: asdict(self._forward(list(prompt), list(continuation)))
        )
        return _scored(answer)

    def rows(self, tokens: Sequence[int]) -> Any:
        """Return the logprob of every token of the vocabulary after each token of a sequence.

        Returns:
            A tensor [tokens, vocabulary] of nats; row i is about what follows token i.
        """
        import torch

        with torch.inference_mode():
            logits = self._timed(lambda: self.model(torch.tensor([list(tokens)])).logits[0])
        return logits.float().log_softmax(-1)

    def beams(self, prompt: Sequence[int], width: int, length: int) -> list[Beam]:
        """Return the hypotheses of transformers' beam search, the best first, without ends."""
        question = {"beams": list(prompt), "width": width, "length": length}
        answer = self._answer(question, lambda: self._beams(list(prompt), width, length))
        return [Beam(**beam) for beam in answer["beams"]]

    def sampling_moments(self, prompt: Sequence[int], temperature: float) -> tuple[float, float]:
        """Return mean and variance of the logprob of a first token sampled at `temperature`.

        The logprob itself is that of the unscaled distribution, which is what vLLM reports.
        """
        question = {"moments": list(prompt), "temperature": temperature}
        answer = self._answer(question, lambda: self._moments(list(prompt), temperature))
        return answer["mean"], answer["variance"]

    def embed(self, prompt: Sequence[int], pooling: str) -> list[float]:
        """Return the normalised vector of a prompt, pooled as `LAST`, `MEAN` or `CLS` says."""
        question = {"embed": list(prompt), "pooling": pooling}
        return list(self._answer(question, lambda: self._embed(list(prompt), pooling))["vector"])

    def scores(self, prompt: Sequence[int]) -> list[float]:
        """Return what the classification head gives for a prompt, before any activation."""
        question = {"scores": list(prompt)}
        return list(self._answer(question, lambda: self._scores(list(prompt)))["scores"])

    def by_token(self, prompt: Sequence[int], task: str) -> list[list[float]]:
        """Return each token's vector (`token_embed`), or what the head gives for it."""
        question = {"by_token": list(prompt), "task": task}
        return list(self._answer(question, lambda: self._by_token(list(prompt), task))["rows"])

    def seen(self, prompt: str, items: Sequence[tuple[str, int]], length: int) -> Scored:
        """Return the greedy answer to a prompt about images and sounds.

        Args:
            prompt: text with the model's placeholders, in the order of the items.
            items: kind (`image` or `audio`) and number of each, see `tests.e2e.media`.
            length: tokens to generate.
        """
        given = [list(item) for item in items]
        question = {"seen": prompt, "items": given, "length": length}
        answer = self._answer(question, lambda: asdict(self._seen(prompt, items, length)))
        return _scored(answer)

    def decisive(self, count: int, length: int) -> list[Scored]:
        """Return greedy continuations of `count` short prompts without a near tie.

        Where two logits are equal up to rounding, another order of summation may exchange them:
        such a prompt says nothing about the engine, so the next one is taken.

        Raises:
            ValueError: too few prompts qualify.
        """
        prompts = texts_module.encode(self.tokenizer, texts_module.SHORT)
        scored = self.greedy(prompts, length)
        found = [s for s in scored if min(s.continuation_gaps) >= TIE_GAP["float32"]]
        if len(found) >= count:
            return found[:count]
        raise ValueError(
            f"Only {len(found)} of {len(texts_module.SHORT)} prompts have no near tie in "
            f"{length} tokens; {count} are asked for. Ask for fewer or shorter ones."
        )

    # ------------------------------------------------------------------------------- computing

    @cached_property
    def model(self) -> Any:
        """The checkpoint as the class that it names, in float32 on the CPU."""
        import torch
        import transformers

        cls = getattr(transformers, self._config.architectures[0])
        options = {"dtype": torch.float32, **self._attention}
        model = cls.from_pretrained(self.checkpoint, **options).eval()
        return getattr(model, "thinker", model)  # of a model that also speaks, what answers in text

    @cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(self.checkpoint)

    @property
    def _attention(self) -> dict[str, str]:
        """Attention out of parts where scores are capped: torch's fused one leaves the cap out."""
        capped = getattr(self._config.get_text_config(), "attn_logit_softcapping", None)
        return {"attn_implementation": "eager"} if capped else {}

    def _generate(self, prompts: list[list[int]], length: int) -> list[Scored]:
        """Generate in one batch, and keep what a forward pass of each sequence alone confirms."""
        import torch

        longest = max(len(prompt) for prompt in prompts)
        padded = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        continuations = self._decode(padded, mask, length)
        return [
            self._confirmed(prompt, continuation)
            for prompt, continuation in zip(prompts, continuations, strict=True)
        ]

    def _confirmed(self, prompt: list[int], continuation: list[int]) -> Scored:
        """Score a continuation; decode again without a batch if padding changed a near tie."""
        import torch

        scored = self._forward(prompt, continuation)
        if [row[0][0] for row in scored.continuation_top] == continuation:
            return scored
        ids = torch.tensor([prompt])
        return self._forward(prompt, self._decode(ids, torch.ones_like(ids), len(continuation))[0])

    def _decode(self, ids: Any, mask: Any, length: int) -> list[list[int]]:
        import torch

        with torch.inference_mode():
            output = self.model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=length,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        tokens: list[list[int]] = output[:, ids.shape[1] :].tolist()
        return tokens

    def _forward(self, prompt: list[int], continuation: list[int]) -> Scored:
        import torch

        tokens = prompt + continuation
        with torch.inference_mode():
            logits = self.model(torch.tensor([tokens])).logits[0, :-1].float()
        logprobs = logits.log_softmax(-1)
        chosen = logprobs.gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]
        values, indices = logprobs.topk(min(TOP, logprobs.shape[-1]))
        top = [
            list(zip(row, value, strict=True))
            for row, value in zip(indices.tolist(), values.tolist(), strict=True)
        ]
        gaps = (values[:, 0] - values[:, 1]).tolist()
        return Scored(tokens, len(prompt), chosen.tolist(), top, gaps)

    def _beams(self, prompt: list[int], width: int, length: int) -> dict[str, Any]:
        import torch

        ids = torch.tensor([prompt])
        with torch.inference_mode():
            output = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=length,
                num_beams=width,
                num_return_sequences=width,
                length_penalty=0.0,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
                return_dict_in_generate=True,
                output_scores=True,
            )
        scores = output.sequences_scores.tolist()
        sequences = output.sequences[:, len(prompt) :].tolist()
        pairs = zip(sequences, scores, strict=True)
        return {"beams": [{"tokens": tokens, "score": score} for tokens, score in pairs]}

    def _moments(self, prompt: list[int], temperature: float) -> dict[str, float]:
        import torch

        with torch.inference_mode():
            logits = self.model(torch.tensor([prompt])).logits[0, -1].double()
        logprobs, weights = logits.log_softmax(-1), (logits / temperature).softmax(-1)
        mean = float((weights * logprobs).sum())
        return {"mean": mean, "variance": float((weights * (logprobs - mean) ** 2).sum())}

    def _embed(self, prompt: list[int], pooling: str) -> dict[str, list[float]]:
        import torch

        with torch.inference_mode():
            hidden = self.model.base_model(torch.tensor([prompt])).last_hidden_state[0]
        pooled = {"LAST": hidden[-1], "CLS": hidden[0], "MEAN": hidden.mean(0)}[pooling]
        return {"vector": torch.nn.functional.normalize(pooled, dim=-1).tolist()}

    def _by_token(self, prompt: list[int], task: str) -> dict[str, list[list[float]]]:
        import torch

        with torch.inference_mode():
            hidden = self.model.base_model(torch.tensor([prompt])).last_hidden_state[0]
            if task == "token_embed":
                return {"rows": torch.nn.functional.normalize(hidden, dim=-1).tolist()}
            return {"rows": self.model.score(hidden).tolist()}

    def _seen(self, prompt: str, items: Sequence[tuple[str, int]], length: int) -> Scored:
        import torch
        from transformers import AutoProcessor

        from tests.e2e.media import RATE, make

        media: dict[str, Any] = {}
        for kind, number in items:
            one = make(kind, number)
            name, value = ("images", one) if kind == "image" else ("audio", one[0])
            media.setdefault(name, []).append(value)
        if "audio" in media:
            media["sampling_rate"] = RATE
        processor = AutoProcessor.from_pretrained(self.checkpoint)
        if self.model.config.is_encoder_decoder:
            inputs = processor(**media, return_tensors="pt")
            own, ids = "decoder_input_ids", self.tokenizer(prompt, return_tensors="pt").input_ids
        else:
            inputs = processor(text=[prompt], return_tensors="pt", **media)
            own, ids = "input_ids", inputs.pop("input_ids")
        asked = ids[0].tolist()
        rows = []
        with torch.inference_mode():
            # Everything anew for each token: no cache, and no rule of a family's own generate().
            for _ in range(length):
                if own == "input_ids":
                    # It hides nothing; Qwen3-Omni counts in three dimensions only if it has one.
                    inputs["attention_mask"] = torch.ones_like(ids)
                logits = self.model(**inputs, **{own: ids}, use_cache=False).logits[0, -1]
                rows.append(logits.float().log_softmax(-1))
                ids = torch.cat([ids, logits.argmax().view(1, 1)], -1)
                for name in [name for name in inputs if name.endswith("token_type_ids")]:
                    inputs[name] = torch.nn.functional.pad(inputs[name], (0, 1))  # as text
        logprobs = torch.stack(rows)
        values, indices = logprobs.topk(TOP)
        chosen = ids[0, -length:].tolist()
        # What was said about the prompt's own tokens is not asked for; zeros stand in its place.
        before = [0.0] * (len(asked) - 1)
        top = [
            list(zip(row, value, strict=True))
            for row, value in zip(indices.tolist(), values.tolist(), strict=True)
        ]
        return Scored(
            asked + chosen,
            len(asked),
            before + logprobs.gather(1, torch.tensor(chosen)[:, None])[:, 0].tolist(),
            [[] for _ in before] + top,
            before + (values[:, 0] - values[:, 1]).tolist(),
        )

    def _scores(self, prompt: list[int]) -> dict[str, list[float]]:
        import torch

        with torch.inference_mode():
            return {"scores": self.model(torch.tensor([prompt])).logits[0].tolist()}

    # --------------------------------------------------------------------------------- keeping

    def _answer(
        self, question: dict[str, Any], compute: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        try:
            kept: dict[str, Any] = json.loads(self._path(question).read_text())
        except (OSError, ValueError):
            kept = self._timed(compute)
            self._keep(question, kept)
        return kept

    def _path(self, question: dict[str, Any]) -> Path:
        text = json.dumps({"format": FORMAT, "top": TOP, **self._origin, **question})
        return self.store / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"

    def _keep(self, question: dict[str, Any], answer: dict[str, Any]) -> None:
        _write(self._path(question), answer)

    def _timed(self, compute: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        try:
            return compute()
        finally:
            self.seconds += time.perf_counter() - started

    @cached_property
    def _origin(self) -> dict[str, str]:
        import torch
        import transformers

        return {
            "checkpoint": fingerprint(self.checkpoint),
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            **self._attention,
        }


def default_store() -> Path:
    """`reference/` in `$ASCEND_MATRIX_CACHE`, or in ~/.cache/ascend-matrix."""
    configured = os.environ.get("ASCEND_MATRIX_CACHE")
    base = Path(configured) if configured else Path.home() / ".cache" / "ascend-matrix"
    return base / "reference"


def fingerprint(checkpoint: Path) -> str:
    """Return a hash that changes whenever a file of the checkpoint does.

    Small files count by their contents, weights by name, size and time of change, since reading
    them all would take longer than loading the model.
    """
    digest = hashlib.sha256()
    for path in sorted(checkpoint.iterdir()):
        if not path.is_file():
            continue
        status = path.stat()
        digest.update(f"{path.name}\0{status.st_size}\0".encode())
        if path.suffix == ".safetensors":
            digest.update(f"{status.st_mtime_ns}\0".encode())
        else:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


def _scored(answer: dict[str, Any]) -> Scored:
    top = [[(int(token), float(value)) for token, value in row] for row in answer["top"]]
    return Scored(**{**answer, "top": top})


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, suffix=".tmp") as stream:
        json.dump(content, stream)
    Path(stream.name).replace(path)
