"""Bodies that ask a server for more than text: tools, reasoning, adapters, traces, refusals."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.e2e import adapters, compare
from tests.e2e.context import CellContext, Outcome, require
from tests.e2e.engine import proof_of_work_elsewhere
from tests.e2e.reference import Reference
from tests.e2e.serving import NAME, RESERVE, Server, serve

CITIES = ("Paris", "Rome", "Oslo")
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "strict": True,  # otherwise vLLM enforces a call, but not its arguments
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": list(CITIES)}, "days": {"enum": [1, 2, 3]}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
ASKED = [{"role": "user", "content": "How is the weather in Rome?"}]

THOUGHT = (
    "Here is my thought process: it (rains|snows) in (Rome|Oslo)\\. "
    "Here is my response: (yes|no)\\."
)
"""What a model that thinks aloud says in the words of the parser `granite`."""

CALLED = (
    '<tool_call>\n\\{"name": "weather", "arguments": \\{"city": "(Rome|Oslo)", "days": (1|2)\\}\\}'
    "\n</tool_call>"
)
"""What a model that calls tools says in the words of the parser `hermes`."""

FIGURES = (
    "vllm:time_to_first_token_seconds_count",
    "vllm:e2e_request_latency_seconds_count",
    "vllm:request_success_total",
    "vllm:generation_tokens_total",
    "vllm:prompt_tokens_total",
)
"""Metrics that every served request must have moved."""


def tools(ctx: CellContext) -> Outcome:
    """Tool calls and reasoning, parsed out of what a grammar makes a model say.

    A small model would not say such things by itself, and the parsers do not care why it does.
    """
    tokenizer = Reference(ctx.checkpoint).tokenizer
    common = {
        "model": NAME,
        "messages": ASKED,
        "max_tokens": 160,
        "temperature": 0.0,
        # A model of random weights would fill arguments with white space, which the grammar allows.
        "logit_bias": {
            str(token): -100
            for token in range(len(tokenizer))
            if tokenizer.decode([token]).isspace()
        },
    }
    with serve(ctx) as server, _client(server) as client:
        started = time.perf_counter()
        found: dict[str, object] = {}
        for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
            told = {**common, "tools": [TOOL], "tool_choice": choice}
            name = choice if isinstance(choice, str) else "named"
            found[name] = proof_of_calls(_calls(client.chat.completions.create(**told)))
        spoken = {**common, "extra_body": {"structured_outputs": {"regex": CALLED}}}
        found["auto"] = proof_of_calls(
            _calls(client.chat.completions.create(**spoken, tools=[TOOL]))
        )
        thinking = {**common, "extra_body": {"structured_outputs": {"regex": THOUGHT}}}
        whole = client.chat.completions.create(**thinking).choices[0].message
        streamed = _answer(client.chat.completions.create(**thinking, stream=True))
        proof = proof_of_reasoning(_reasoning(whole), whole.content, streamed)
        seconds = time.perf_counter() - started
        figures = {name: server.metric(name) for name in FIGURES}
        require(min(figures.values()) >= 5, f"five requests were made, and /metrics say {figures}")
        start_seconds = server.seconds
    proof |= {"tool_calls": found, "metrics": figures, **proof_of_work_elsewhere(server.counters)}
    return Outcome(
        metrics={"requests": (5, "requests")},
        proof=proof,
        timings={"import": 0.0, "engine_start": start_seconds, "generation": seconds},
    )


def lora(ctx: CellContext) -> Outcome:
    """Adapters come and go over HTTP; wrong requests are refused, and the server lives on."""
    length = int(ctx.parameter("max_tokens", 8))
    rank = int(ctx.feature["engine"]["max_lora_rank"])
    base = Reference(ctx.checkpoint)
    adapter, merged = adapters.make(base, ctx.workdir / "small", rank, 1)
    large, _ = adapters.make(base, ctx.workdir / "large", 2 * rank, 2)
    expected = {"small": Reference(merged).decisive(2, length), NAME: base.decisive(2, length)}
    ctx = dataclasses.replace(
        ctx, environment={**ctx.environment, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    )
    limit = int(ctx.model["max_model_len"])
    with serve(ctx) as server, _client(server) as client:
        started = time.perf_counter()

        def ask(name: str) -> list[list[int]]:
            return [
                list(
                    client.completions.create(
                        model=name,
                        prompt=e.prompt,
                        max_tokens=length,
                        temperature=0.0,
                        extra_body={"ignore_eos": True, "return_token_ids": True},
                    )
                    .choices[0]
                    .token_ids
                )
                for e in expected[name]
            ]

        load = f"{server.url}/v1/load_lora_adapter"
        require(_post(load, lora_name="small", lora_path=str(adapter))[0] == 200, "not loaded")
        tokens = {"small": ask("small"), NAME: ask(NAME)}
        refusals = {
            "wrong rank": _post(load, lora_name="large", lora_path=str(large)),
            "no such adapter": _post(load, lora_name="none", lora_path=str(ctx.workdir / "none")),
            "prompt over the limit": _post(
                f"{server.url}/v1/completions", model=NAME, prompt=[5] * (limit + 1), max_tokens=1
            ),
            "unknown model": _post(f"{server.url}/v1/completions", model="other", prompt="a"),
        }
        gone = _post(f"{server.url}/v1/unload_lora_adapter", lora_name="small")
        require(gone[0] == 200, f"the adapter could not be unloaded: {gone}")
        refusals["unloaded adapter"] = _post(
            f"{server.url}/v1/completions", model="small", prompt="a"
        )
        again = ask(NAME)
        seconds, start_seconds = time.perf_counter() - started, server.seconds
    proof = proof_of_refusals(
        refusals,
        {
            "wrong rank": f"rank {2 * rank}",
            "no such adapter": "none",
            "prompt over the limit": str(limit),
            "unknown model": "other",
            "unloaded adapter": "small",
        },
    )
    found = [*tokens["small"], *tokens[NAME], *again]
    wanted = [e.continuation for name in ("small", NAME, NAME) for e in expected[name]]
    equal = compare.equal_tokens(found, wanted, "tokens before and after the refusals")
    proof |= adapters.proof_of_difference(base, {"small": expected["small"]}, length)
    proof |= proof_of_work_elsewhere(server.counters)
    return Outcome(
        metrics={"tokens_equal": (equal, "tokens")},
        proof=proof,
        samples=[{"tokens": compare.digest(t)} for t in found],
        timings={
            "import": 0.0,
            "engine_start": start_seconds,
            "generation": seconds,
            "reference": base.seconds,
        },
    )


def profiling(ctx: CellContext) -> Outcome:
    """The endpoints start and stop torch_npu.profiler, which leaves a trace of the NPU's work."""
    traces = ctx.workdir / "traces"
    settings = {
        "profiler": "torch",
        "torch_profiler_dir": str(traces),
        "torch_profiler_with_stack": False,
    }
    engine = {**ctx.feature.get("engine", {}), "profiler_config": settings}
    ctx = dataclasses.replace(ctx, feature={**ctx.feature, "engine": engine})
    with serve(ctx) as server, _client(server) as client:
        started = time.perf_counter()
        for word in ("start", "stop"):
            status, text = _post(f"{server.url}/{word}_profile")
            require(status == 200, f"/{word}_profile answered {status}: {text}")
            if word == "start":
                client.completions.create(model=NAME, prompt="One, two,", max_tokens=4)
        seconds, start_seconds = time.perf_counter() - started, server.seconds
        # The server answers as before.
        client.completions.create(model=NAME, prompt="One, two,", max_tokens=1)
    files = sorted(traces.rglob("trace_view.json"))
    require(len(files) == 1, f"{len(files)} traces of an NPU in {traces}; there should be one")
    proof = proof_of_trace(json.loads(files[0].read_text()))
    proof |= proof_of_work_elsewhere(server.counters)
    return Outcome(
        metrics={"trace": (files[0].stat().st_size, "bytes")},
        proof=proof,
        timings={"import": 0.0, "engine_start": start_seconds, "generation": seconds},
    )


# ------------------------------------------------------------------------------------------ proofs


def proof_of_calls(calls: Sequence[tuple[str, str]]) -> list[str]:
    """Require calls of the tool with arguments that its schema allows.

    Raises:
        GateFailed: no call, another tool, or arguments that do not fit.
    """
    require(len(calls) > 0, "the answer holds no tool call")
    for name, arguments in calls:
        require(name == "weather", f"the tool {name!r} was called; there is only 'weather'")
        given = json.loads(arguments)
        fits = isinstance(given, dict) and set(given) == {"city", "days"}
        require(
            fits and given["city"] in CITIES and given["days"] in (1, 2, 3),
            f"arguments {arguments} break the schema",
        )
    return [arguments for _, arguments in calls]


def proof_of_reasoning(thought: str | None, answer: str | None, streamed: str) -> dict[str, object]:
    """Require thought and answer apart, without the words that mark them, and the same answer
    when it is streamed.

    Raises:
        GateFailed: they are not taken apart, or the stream's answer is another.
    """
    parted = re.fullmatch(r"it (rains|snows) in (Rome|Oslo)\.", (thought or "").strip())
    require(parted is not None, f"the thought is {thought!r}")
    require((answer or "").strip() in ("yes.", "no."), f"the answer is {answer!r}")
    require(streamed == answer, f"the stream's answer is {streamed!r}, and the whole {answer!r}")
    return {"thought": thought, "answer": answer}


def proof_of_refusals(
    refusals: Mapping[str, tuple[int, str]], words: Mapping[str, str]
) -> dict[str, object]:
    """Require of each refusal that it names what is wrong.

    Args:
        refusals: what was wrong to the HTTP status and the answer's text. vLLM itself gives 500
            to an adapter of too large a rank.
        words: what was wrong to what the text has to name.

    Raises:
        GateFailed: something was accepted, or is not named.
    """
    for what, (status, text) in refusals.items():
        require(status >= 400, f"{what}: the server answered {status}: {text[:300]}")
        require(words[what] in text, f"{what}: the answer does not name {words[what]!r}: {text}")
    return {"refused": {what: status for what, (status, _) in refusals.items()}}


def proof_of_trace(events: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """Require operators of the NPU in a trace, the attention among them.

    Raises:
        GateFailed: there are none.
    """
    names = [str(event.get("name", "")) for event in events]
    attention = [name for name in names if "Attention" in name and not name.startswith("aten")]
    require(bool(attention), f"no attention of the NPU among {len(names)} events of the trace")
    return {"trace_events": len(names), "attention_events": len(attention)}


# ------------------------------------------------------------------------------------------ asking


@contextlib.contextmanager
def _client(server: Server) -> Iterator[Any]:
    from openai import DefaultHttpxClient, OpenAI

    with OpenAI(
        base_url=f"{server.url}/v1",
        api_key="unused",
        max_retries=0,
        timeout=RESERVE,
        http_client=DefaultHttpxClient(trust_env=False),
    ) as client:
        yield client


def _calls(answer: Any) -> list[tuple[str, str]]:
    """The names and arguments of the tools that a chat's answer calls."""
    calls = answer.choices[0].message.tool_calls or []
    return [(call.function.name, call.function.arguments) for call in calls]


def _answer(stream: Any) -> str:
    """The text of a streamed chat, without the thought before it."""
    return "".join(c.delta.content or "" for chunk in stream for c in chunk.choices)


def _reasoning(message: Any) -> str | None:
    return getattr(message, "reasoning", None) or getattr(message, "reasoning_content", None)


def _post(url: str, **body: Any) -> tuple[int, str]:
    """Post JSON; return the HTTP status and the answer's text, whatever the status is."""
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=RESERVE) as response:
            return int(response.status), response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
