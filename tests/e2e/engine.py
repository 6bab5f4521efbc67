"""Starts vLLM for a cell, and records what its scheduler and its device did in each step."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e import device
from tests.e2e.context import CellContext, require

KV_CACHE_BYTES = 192 << 20
"""Enough for every body; without a bound the engine would take most of the device's memory."""

SMALL: dict[str, Any] = {
    "kv_cache_memory_bytes": KV_CACHE_BYTES,
    "max_num_seqs": 16,
    # The engine profiles one step of this many tokens when it starts: on a simulated device that
    # is most of the start.
    "max_num_batched_tokens": 128,
    "disable_log_stats": False,
    "seed": 0,
}
"""Engine settings of every cell, below what the model and the feature say."""

QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
"""Variables with which nothing is sent or fetched; the checkpoint is a local folder."""


@dataclass
class Step:
    """One step of the engine that computed something.

    Attributes:
        tokens: request id to the number of its tokens that were computed.
        encoded: how many images and sounds were encoded.
        scheduled_at: place of its scheduling in the order of all scheduler calls.
        updated_at: place of the reading of its output; None while that has not happened.
    """

    tokens: dict[str, int]
    scheduled_at: int
    updated_at: int | None = None
    encoded: int = 0


class StepTrace:
    """Records the steps of a scheduler that lives in this process, without changing them."""

    def __init__(self, scheduler: Any) -> None:
        self.steps: list[Step] = []
        self.to_read: dict[str, int] = {}
        """Request id to the tokens of its prompt that were not in the prefix cache."""
        self._clock = itertools.count()
        self._open: dict[int, Step] = {}
        self._schedule, self._update = scheduler.schedule, scheduler.update_from_output
        scheduler.schedule = self._on_schedule
        scheduler.update_from_output = self._on_update

    def _on_schedule(self, *arguments: Any, **named: Any) -> Any:
        output = self._schedule(*arguments, **named)
        for new in output.scheduled_new_reqs:
            self.to_read[new.req_id] = len(new.prompt_token_ids or ()) - new.num_computed_tokens
        if output.total_num_scheduled_tokens:
            encoded = sum(len(items) for items in output.scheduled_encoder_inputs.values())
            step = Step(dict(output.num_scheduled_tokens), next(self._clock), encoded=encoded)
            self.steps.append(step)
            self._open[id(output)] = step
        return output

    def _on_update(self, output: Any, *arguments: Any, **named: Any) -> Any:
        step = self._open.pop(id(output), None)
        if step is not None:
            step.updated_at = next(self._clock)
        return self._update(output, *arguments, **named)


@dataclass(frozen=True)
class Run:
    """What came out of one call of the engine.

    Attributes:
        outputs: vLLM's request outputs, in the order of the prompts.
        seconds: wall time.
        steps: the engine's steps; empty if the engine is in another process.
        work: what the device did; None if nobody counted.
    """

    outputs: list[Any]
    seconds: float
    steps: list[Step]
    work: device.Work | None

    @property
    def tokens(self) -> list[list[int]]:
        """The first completion of each prompt."""
        return [list(output.outputs[0].token_ids) for output in self.outputs]

    @property
    def logprobs(self) -> list[list[float]]:
        """The logprobs of the first completion's tokens of each prompt."""
        return [chosen_logprobs(output.outputs[0]) for output in self.outputs]

    @property
    def scheduled(self) -> int:
        """How many tokens were computed, prompts included."""
        return sum(sum(step.tokens.values()) for step in self.steps)

    @property
    def encoded(self) -> int:
        """How many images and sounds were encoded; one that is in the cache is not."""
        return sum(step.encoded for step in self.steps)

    @property
    def overlapping(self) -> int:
        """How many steps were scheduled before the output of the step before had been read."""
        pairs = itertools.pairwise(self.steps)
        return sum(a.updated_at is None or b.scheduled_at < a.updated_at for a, b in pairs)

    def per_request(self) -> dict[str, list[int]]:
        """Request id to the number of its tokens in each step in which it took part."""
        parts: dict[str, list[int]] = {}
        for step in self.steps:
            for request, count in step.tokens.items():
                parts.setdefault(request, []).append(count)
        return parts


@dataclass
class Engine:
    """A running engine.

    Attributes:
        llm: the `vllm.LLM`.
        timings: seconds for `import`, `engine_start` and, summed over runs, `generation`.
        counters: folder in which the engine's processes leave their counters when they end.
    """

    llm: Any
    timings: dict[str, float]
    counters: Path
    trace: StepTrace | None = None
    platform: dict[str, object] = field(default_factory=dict)

    @property
    def config(self) -> Any:
        """The configuration as vLLM resolved it."""
        return self.llm.llm_engine.vllm_config

    @property
    def layers(self) -> int:
        """Number of layers of attention over a cache, which cross attention is, too."""
        model = self.config.model_config
        each = 2 if model.is_encoder_decoder else 1
        kinds = getattr(model.hf_text_config, "layer_types", None) or []
        states = sum(kind == "linear_attention" for kind in kinds)
        return each * (int(model.hf_text_config.num_hidden_layers) - states)

    @property
    def attention_apart(self) -> tuple[str, ...]:
        """What attends where no operator does it for all requests of a step at once."""
        text = self.config.model_config.hf_text_config
        if hasattr(text, "index_topk"):
            return device.SPARSE_ATTENTION
        capped = getattr(text, "attn_logit_softcapping", None) is not None
        return device.CAPPED_ATTENTION if capped else device.SEPARATE_ATTENTION

    @property
    def core(self) -> Any:
        """The engine core, if it lives in this process."""
        return self.llm.llm_engine.engine_core.engine_core

    def generate(self, prompts: Sequence[Sequence[int]], params: Any) -> Run:
        """Generate for prompts given as token ids."""
        inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        return self.measure(lambda: self.llm.generate(inputs, params, use_tqdm=False))

    def measure(self, call: Any) -> Run:
        """Call a method of the engine and record time, steps and the device's work."""
        first = len(self.trace.steps) if self.trace else 0
        before = device.work() if self.trace else None
        started = time.perf_counter()
        outputs = call()
        seconds = time.perf_counter() - started
        after = device.work() if self.trace else None
        self.timings["generation"] = self.timings.get("generation", 0.0) + seconds
        return Run(
            list(outputs),
            seconds,
            self.trace.steps[first:] if self.trace else [],
            after.since(before) if after and before else None,
        )

    def metric(self, name: str) -> float:
        """Return the value of one of vLLM's Prometheus counters, summed over its labels."""
        return float(sum(m.value for m in self.llm.get_metrics() if m.name == name))

    def proof_of_attention(
        self, run: Run, *, apart: bool = False, encoders: Sequence[int] = ()
    ) -> dict[str, object]:
        """Require that each step of a run launched paged attention once per layer on the device.

        Without the fused operator (a chip has none, or scores are capped), and where requests are
        attended `apart` for another reason, a layer may need as many as the step has requests.

        Args:
            run: what was generated.
            apart: whether a layer may need as many launches as a step has requests.
            encoders: the sequences in each call of an encoder's attention, which launches the same
                operator once, or, on such a chip, once a sequence.

        Raises:
            GateFailed: the model is not on an NPU, or the launches are not layers times steps.
        """
        proof = dict(self.platform)
        proof["steps"], proof["layers"] = len(run.steps), self.layers
        require(bool(run.steps), "the engine's scheduler did not schedule a single step")
        if run.work is not None:
            least = most = self.layers * len(run.steps) + len(encoders)
            launches, names = run.work.attention, f"{device.ATTENTION}*"
            others = sum(run.work.matching(name) for name in self.attention_apart)
            if others:
                launches += others
                names = f"{'* and '.join(self.attention_apart)}*"
                least += sum(encoders) - len(encoders)
            if others or apart:
                most = self.layers * sum(len(step.tokens) for step in run.steps) + sum(encoders)
            proof["attention_launches"] = launches
            proof["operator_launches"] = run.work.total
            expected = f"{least}" if least == most else f"{least} to {most}"
            require(
                least <= launches <= most,
                f"{launches} launches of {names} in {len(run.steps)} steps "
                f"of {self.layers} layers and {len(encoders)} calls of encoders' attention; "
                f"expected {expected}. Launched were: "
                f"{dict(sorted(run.work.launches.items()))}",
            )
        return proof


def proof_of_work_elsewhere(folder: Path) -> dict[str, object]:
    """Require that processes which have ended launched paged attention, if anybody counts.

    Args:
        folder: where they left their counters, see `device.work_of_others`.

    Raises:
        GateFailed: this process counts its work and those left nothing, or no attention.
    """
    work = device.work_of_others(folder)
    if work is None:
        require(device.work() is None, f"no process left its device counters in {folder}")
        return {}
    launches = work.attention + work.separate_attention
    require(launches > 0, f"no launch of {device.ATTENTION}* among {work.launches}")
    return {"attention_launches": launches, "operator_launches": work.total}


@contextlib.contextmanager
def start(ctx: CellContext, *, in_process: bool = True, **overrides: Any) -> Iterator[Engine]:
    """Start the engine of a cell, and shut it down afterwards.

    Args:
        ctx: the cell.
        in_process: keep the engine core in this process, so that its steps and the device's
            counters can be read; otherwise vLLM starts a process for it, as is its default.
        overrides: keyword arguments for `vllm.LLM` above those of the matrix.

    Raises:
        GateFailed: the platform that vLLM found is not an NPU.
    """
    os.environ.update(QUIET)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0" if in_process else "1"
    counters = ctx.workdir / "counters"
    if not in_process:
        counters.mkdir(parents=True, exist_ok=True)
        os.environ["CANNSIM_COUNTERS"] = str(counters)
    started = time.perf_counter()
    from vllm import LLM

    imported = time.perf_counter()
    # vLLM collects garbage a dozen times while it starts, each time over all that was imported.
    gc.freeze()
    options = {"model": str(ctx.checkpoint), **arguments(ctx, overrides)}
    ctx.started(f"vllm.LLM({', '.join(f'{name}={value!r}' for name, value in options.items())})")
    llm = LLM(**options)
    timings = {"import": imported - started, "engine_start": time.perf_counter() - imported}
    engine = Engine(llm, timings, counters)
    try:
        if in_process:
            engine.trace = StepTrace(engine.core.scheduler)
        engine.platform = _platform(engine, in_process)
        yield engine
    finally:
        llm.llm_engine.engine_core.shutdown()


def arguments(ctx: CellContext, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the keyword arguments for `vllm.LLM`: common, model's, feature's, the body's own."""
    return {
        **SMALL,
        "dtype": ctx.model["dtype"],
        "max_model_len": ctx.model["max_model_len"],
        **ctx.model.get("engine", {}),
        **ctx.feature.get("engine", {}),
        **(overrides or {}),
    }


def chosen_logprobs(completion: Any) -> list[float]:
    """Return the logprob of each token of one of vLLM's completions, which must carry them."""
    pairs = zip(completion.token_ids, completion.logprobs, strict=True)
    return [float(position[token].logprob) for token, position in pairs]


def _platform(engine: Engine, in_process: bool) -> dict[str, object]:
    """Say where the model is, and require that it is on an NPU."""
    from vllm.platforms import current_platform

    found: dict[str, object] = {
        "platform": current_platform.device_type,
        "platform_class": type(current_platform).__qualname__,
        "model_runner": "V2" if engine.config.use_v2_model_runner else "V1",
    }
    extensions = os.environ.get("CANNSIM_EXTENSIONS")
    if extensions:
        # What the simulated chip was allowed beyond the real one has to stand next to the result.
        found["simulator_extensions"] = extensions
    if in_process:
        devices = engine.llm.apply_model(_devices)[0]
        found["weights_on"] = devices
        require(devices == ["npu"], f"the model's weights are on {devices}, not on an NPU")
    require(
        current_platform.device_type == "npu",
        f"vLLM runs on the platform {current_platform.device_type!r}, not on 'npu'",
    )
    return found


def _devices(model: Any) -> list[str]:
    return sorted({weight.device.type for weight in model.parameters()})
