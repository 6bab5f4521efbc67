"""What the parts of a combined body share: prompts, adapters, the engine, and the common run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol

from tests.e2e import compare, prompts
from tests.e2e.context import CellContext, require
from tests.e2e.engine import Engine, Run, chosen_logprobs
from tests.e2e.reference import Reference

COUNTERS = {
    "cached": "vllm:prefix_cache_hits",
    "drafts": "vllm:spec_decode_num_drafts",
    "drafted": "vllm:spec_decode_num_draft_tokens",
    "accepted": "vllm:spec_decode_num_accepted_tokens",
}
"""vLLM's counters, of which each run notes what it added."""


class Choosing(Protocol):
    """What the common run knows of a part."""

    name: str

    def parameters(self) -> dict[str, Any]:
        """Sampling parameters of every request."""

    def adjust(self, row: Any, answer: Sequence[int]) -> Any:
        """The row of logprobs from which the next token after `answer` is chosen."""

    def report(self, row: Any, answer: Sequence[int]) -> Any:
        """The row of logprobs that the engine reports of the token after `answer`."""


class Shared:
    """One workload, to which the parts add what they need.

    Attributes:
        reference: of the base model; of the dequantised weights where weights are quantised.
        asked: token ids of each prompt.
        adapters: for each prompt the LoRA request, or None.
        references: for each prompt what its answer is compared with.
        engine: while it runs.
        run: the common run.
        added: what vLLM's counters rose by in it.
        call: what the run calls; beam search puts another there.
        judge: what compares the run with the reference.
        speculative: whether a second model may attend.
        sampled: whether answers are drawn, not the likeliest.
        changed: part to the number of tokens that are others for it.
    """

    engine: Engine
    run: Run

    def __init__(self, ctx: CellContext, count: int, length: int) -> None:
        self.ctx, self.length = ctx, length
        quantised = ctx.model["checkpoint"].get("quantisation")
        self.scheme = None if quantised is None else str(quantised["scheme"])
        self.folder = ctx.checkpoint / "dequantised" if self.scheme else ctx.checkpoint
        self.reference = Reference(self.folder)
        self.asked = prompts.encode(self.reference.tokenizer, prompts.SHORT[:count])
        self.adapters: list[Any] = [None] * count
        self.references = [self.reference] * count
        self.parts: Sequence[Choosing] = ()
        self.added: dict[str, float] = {}
        self.speculative = False
        self.sampled = False
        self.call: Callable[[], Any] = self._generate
        self.judge: Callable[[], dict[str, tuple[float, str]]] = self.verify
        self.changed: dict[str, int] = {}

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """Sampling parameters of every request."""
        chosen: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True, "logprobs": 0}
        for part in self.parts:
            chosen |= part.parameters()
        return chosen

    def has(self, *names: str) -> bool:
        """Whether a part of one of these features is on."""
        return any(part["name"] in names for part in self.ctx.feature["parts"])

    # ---------------------------------------------------------------------------- running

    def ask(self) -> Run:
        """Run the common workload and keep it as the run; return it."""
        self.run, self.added = self.asking()
        return self.run

    def asking(self) -> tuple[Run, dict[str, float]]:
        """Run the common workload; return the run and what vLLM's counters rose by."""
        before = self._counted()
        run = self.engine.measure(self.call)
        after = self._counted()
        return run, {name: after[name] - before[name] for name in after}

    def generate(self, asked: Sequence[Sequence[int]], adapters: Sequence[Any], **more: Any) -> Run:
        """Run prompts of a part's own."""
        return self.engine.measure(lambda: self._generate(asked, adapters, **more))

    def _generate(
        self,
        asked: Sequence[Sequence[int]] | None = None,
        adapters: Sequence[Any] | None = None,
        **more: Any,
    ) -> Any:
        from vllm import SamplingParams

        params = SamplingParams(**{"max_tokens": self.length, **self.parameters, **more})
        return self.engine.llm.generate(
            [{"prompt_token_ids": list(p)} for p in (self.asked if asked is None else asked)],
            params,
            lora_request=list(self.adapters if adapters is None else adapters),
            use_tqdm=False,
        )

    def _counted(self) -> dict[str, float]:
        return {name: self.engine.metric(metric) for name, metric in COUNTERS.items()}

    def proof_of_work(self) -> dict[str, Any]:
        """Require that the common run launched attention, once a layer and step or more.

        A model that drafts attends, too; and where an answer may end by itself, a step that was
        scheduled in advance is dropped.
        """
        ends = not self.parameters["ignore_eos"]
        if not self.speculative and not ends:
            return self.engine.proof_of_attention(self.run)
        proof: dict[str, Any] = {**self.engine.platform, "steps": len(self.run.steps)}
        if self.run.work is not None:
            launches = self.run.work.attention + self.run.work.separate_attention
            steps = len(self.run.steps) - ends
            proof["attention_launches"] = launches
            least = self.engine.layers * steps
            require(launches >= least > 0, f"{launches} launches of attention; at least {least}")
        return proof

    # --------------------------------------------------------------------------- judging

    @property
    def completions(self) -> list[tuple[int, Any]]:
        """Each completion with the number of its prompt."""
        return [(i, c) for i, out in enumerate(self.run.outputs) for c in out.outputs]

    @property
    def answers(self) -> list[list[int]]:
        """The tokens of each completion."""
        return answers(self.run)

    @property
    def seconds(self) -> float:
        """Time that references took."""
        return sum(reference.seconds for reference in {id(r): r for r in self.references}.values())

    def expected(self, number: int) -> list[int]:
        """What the reference answers to a prompt, token by token, under every part's say."""
        asked, answer = self.asked[number], list[int]()
        for _ in range(self.length):
            row = self.references[number].rows([*asked, *answer])[-1]
            answer.append(int(self._adjusted(row, answer).argmax()))
        return answer

    def _adjusted(self, row: Any, answer: Sequence[int], without: str = "") -> Any:
        for part in self.parts:
            if part.name != without:
                row = part.adjust(row, answer)
        return row

    def verify(self) -> dict[str, tuple[float, str]]:
        """Require that each token is the right one, with the reference's logprob.

        Where answers are sampled, a token has to be one that is left to choose from. Weights that
        are quantised are judged by their logprobs alone, as their own cell does.

        Raises:
            GateFailed: a token is another, or logprobs are too far off.
        """
        ours: list[float] = []
        theirs: list[float] = []
        for number, completion in self.completions:
            tokens = list(completion.token_ids)
            rows = self.references[number].rows([*self.asked[number], *tokens])
            rows = rows[len(self.asked[number]) - 1 : -1]
            for position, (row, token) in enumerate(zip(rows, tokens, strict=True)):
                self._check(number, row, tokens[:position], token)
            ours += chosen_logprobs(completion)
            told = self.reported(rows, tokens)
            theirs += [float(row[token]) for row, token in zip(told, tokens, strict=True)]
        return {"tokens": (len(ours), "tokens"), **self.close(ours, theirs)}

    def reported(self, rows: Sequence[Any], answer: Sequence[int]) -> list[Any]:
        """Return the logprobs that the engine should report at each position of an answer."""
        found = []
        for position, row in enumerate(rows):
            for part in self.parts:
                row = part.report(row, answer[:position])
            found.append(row)
        return found

    def _check(self, number: int, row: Any, answer: list[int], token: int) -> None:
        left = self._adjusted(row, answer)
        best = int(left.argmax())
        for part in self.parts:
            other = int(self._adjusted(row, answer, without=part.name).argmax())
            self.changed[part.name] = self.changed.get(part.name, 0) + (other != best)
        gap = float(left[best] - left[token])
        if self.sampled or self.scheme:
            allowed = gap < float("inf")
        else:
            allowed = gap <= compare.TIE_GAP[self.ctx.dtype]
        require(
            allowed,
            f"prompt {number}: token {token} at position {len(answer)}, where {best} is likelier "
            f"by {gap:.4f} nats after every feature had its say",
        )

    def close(
        self, ours: Sequence[float], theirs: Sequence[float], what: str = "logprob"
    ) -> dict[str, tuple[float, str]]:
        """Require that logprobs agree as the dtype, or the scheme of the weights, allows."""
        if self.scheme is None:
            found = compare.close_logprobs(ours, theirs, self.ctx.dtype, f"{what}s")
            largest, mean = found.largest, found.mean
        else:
            differences = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
            largest, mean = max(differences), sum(differences) / len(differences)
            bound = self.bound
            require(mean <= bound, f"{what}s differ by {mean:.4f} on average; {bound} is allowed")
        return {
            f"{what}_difference_max": (largest, "nats"),
            f"{what}_difference_mean": (mean, "nats"),
        }

    @property
    def bound(self) -> float:
        """Mean difference that the scheme of the weights allows, as its own feature says."""
        named = {part["name"]: part for part in self.ctx.feature["parts"]}
        bounds = named["quantisation"]["parameters"]["bounds"][self.scheme]
        return float(bounds["dequantised"])


def answers(run: Run) -> list[list[int]]:
    """The tokens of each completion, or of each beam after its prompt."""
    found = []
    for output in run.outputs:
        if hasattr(output, "sequences"):
            found += [list(beam.tokens) for beam in output.sequences]
        else:
            found += [list(completion.token_ids) for completion in output.outputs]
    return found
