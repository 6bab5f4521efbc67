"""Bodies that go over HTTP: a real `vllm serve`, asked by the openai client."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e import compare
from tests.e2e.context import CellContext, Outcome, require
from tests.e2e.engine import QUIET, arguments, proof_of_work_elsewhere
from tests.e2e.reference import Reference

NAME = "served-model"
"""Name by which clients ask for the model."""

PATIENCE = 15.0
"""Seconds that the server gets to end by itself."""

RESERVE = 60.0
"""Seconds of the cell's time limit that are kept for the requests and the shutdown."""

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


class ServerError(Exception):
    """The server did not become ready, or ended."""


@dataclass
class Server:
    """A running server.

    Attributes:
        url: its address, without a path.
        seconds: time from its start until it said that it is healthy.
        counters: folder in which its processes leave their device counters when they end.
    """

    url: str
    seconds: float
    counters: Path

    def metric(self, name: str) -> float:
        """Return one of the server's Prometheus counters, summed over its labels."""
        return read_metric(_get(f"{self.url}/metrics"), name)


def http(ctx: CellContext) -> Outcome:
    """Completions, chat and a stream, with the server's own metrics as proof."""
    from openai import DefaultHttpxClient, OpenAI

    length = int(ctx.parameter("max_tokens", 16))
    reference = Reference(ctx.checkpoint)
    expected = reference.decisive(int(ctx.parameter("prompts", 4)), length)
    with serve(ctx) as server:
        with OpenAI(
            base_url=f"{server.url}/v1",
            api_key="unused",
            max_retries=0,
            timeout=RESERVE,
            # The server is on this machine, whatever proxy the environment names.
            http_client=DefaultHttpxClient(trust_env=False),
        ) as client:
            started = time.perf_counter()
            tokens, logprobs, texts = _complete(client, [e.prompt for e in expected], length)
            streamed = _stream(client, expected[0].prompt, length)
            whole, parts, chunks = _chat(client, length)
            seconds = time.perf_counter() - started
        proof: dict[str, object] = {
            "prompt_tokens": server.metric("vllm:prompt_tokens_total"),
            "generated_tokens": server.metric("vllm:generation_tokens_total"),
            "requests": server.metric("vllm:request_success_total"),
            "chat_chunks": chunks,
        }
    equal = compare.equal_tokens(tokens, [e.continuation for e in expected], "tokens over HTTP")
    agreement = compare.close_logprobs(
        [value for row in logprobs for value in row],
        [value for e in expected for value in e.continuation_logprobs],
        ctx.dtype,
    )
    require(streamed == texts[0], f"the stream said {streamed!r}, the whole answer {texts[0]!r}")
    require(parts == whole, f"the chat's stream said {parts!r}, the whole answer {whole!r}")
    require(chunks > 2, f"the chat's stream came in {chunks} pieces; it is not a stream")
    asked = len(expected) + 3
    require_served(proof, asked, length * (len(expected) + 1))
    proof |= proof_of_work_elsewhere(server.counters)
    return Outcome(
        metrics={
            "prompts": (len(expected), "prompts"),
            "tokens_equal": (equal, "tokens"),
            "logprob_difference_max": (agreement.largest, "nats"),
            "logprob_difference_mean": (agreement.mean, "nats"),
        },
        proof=proof,
        samples=[
            {"prompt": compare.digest(e.prompt), "tokens": compare.digest(t), "equal": True}
            for e, t in zip(expected, tokens, strict=True)
        ],
        timings={
            "import": 0.0,
            "engine_start": server.seconds,
            "generation": seconds,
            "reference": reference.seconds,
        },
    )


@contextlib.contextmanager
def serve(ctx: CellContext) -> Iterator[Server]:
    """Start `vllm serve` on a free port, wait until it is healthy, and end it afterwards.

    Raises:
        ServerError: it ended, or was not healthy in time; with the end of its log.
    """
    port, counters = free_port(), ctx.workdir / "counters"
    counters.mkdir(parents=True, exist_ok=True)
    log = ctx.workdir / "server.log"
    environment = {**os.environ, **ctx.environment, **QUIET, "CANNSIM_COUNTERS": str(counters)}
    # An engine body of the same process may have asked for an engine without processes.
    environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
    words = command(ctx, port)
    ctx.started(shlex.join(["vllm", *words[1:]]))
    started = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            words,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=ctx.workdir,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_healthy(process, url, max(ctx.time_limit - RESERVE, 30.0), log)
        yield Server(url, time.perf_counter() - started, counters)
    finally:
        end_group(process)
        # The cell's own log is what a reader of the record sees.
        print(log.read_text(errors="replace"), file=sys.stderr)


def command(ctx: CellContext, port: int) -> list[str]:
    """Return the command line that serves the cell's checkpoint on `port`."""
    program = Path(sys.executable).with_name("vllm")
    options = arguments(ctx)
    # Statistics, and with them /metrics, are on in a server unless its own flag turns them off.
    options.pop("disable_log_stats")
    return [
        str(program),
        "serve",
        str(ctx.checkpoint),
        "--host=127.0.0.1",
        f"--port={port}",
        f"--served-model-name={NAME}",
        *flags(options),
    ]


def flags(options: Mapping[str, Any]) -> list[str]:
    """Return keyword arguments of `vllm.LLM` as options of `vllm serve`."""
    result = []
    for name, value in options.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            result.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, (dict, list)):
            result.append(f"--{option}={json.dumps(value)}")
        else:
            result.append(f"--{option}={value}")
    return result


def free_port() -> int:
    """Return a port of this machine that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end_group(process: subprocess.Popen[bytes], patience: float = PATIENCE) -> None:
    """End a process politely, and after `patience` seconds for certain, with all of its group.

    Only the first process is asked: it tells the others, and waits for them.
    """
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    # Engine processes that outlive the server would keep the device.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def read_metric(text: str, name: str) -> float:
    """Return the sum over all labels of one metric in Prometheus' text format.

    Raises:
        ServerError: the metric is not there.
    """
    values = [
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith((f"{name}{{", f"{name} "))
    ]
    if not values:
        raise ServerError(f"the server's /metrics have no {name!r}")
    return sum(values)


def require_served(proof: Mapping[str, object], requests: int, tokens: int) -> None:
    """Require that the server itself counted the requests and tokens that were asked of it.

    Raises:
        GateFailed: it counted fewer.
    """
    found = float(str(proof["requests"])), float(str(proof["generated_tokens"]))
    require(
        found[0] == requests and found[1] >= tokens,
        f"the server counted {found[0]:.0f} requests and {found[1]:.0f} generated tokens; "
        f"{requests} requests with at least {tokens} tokens were made",
    )


def _wait_until_healthy(
    process: subprocess.Popen[bytes], url: str, seconds: float, log: Path
) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerError(
                f"vllm serve ended with exit code {process.returncode} before it was ready:\n"
                + _tail(log)
            )
        with contextlib.suppress(OSError, urllib.error.URLError):
            _get(f"{url}/health")
            return
        time.sleep(0.25)
    raise ServerError(f"vllm serve was not healthy after {seconds:.0f} s:\n{_tail(log)}")


def _get(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as response:
        return str(response.read().decode())


def _tail(log: Path, lines: int = 30) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _complete(
    client: Any, prompts: list[list[int]], length: int
) -> tuple[list[list[int]], list[list[float]], list[str]]:
    """Greedy completions, one request per prompt: token ids, their logprobs, and the text."""
    tokens, logprobs, texts = [], [], []
    for prompt in prompts:
        answer = client.completions.create(
            model=NAME,
            prompt=prompt,
            max_tokens=length,
            temperature=0.0,
            logprobs=1,
            extra_body={"ignore_eos": True, "return_token_ids": True},
        )
        choice = answer.choices[0]
        tokens.append(list(choice.token_ids))
        logprobs.append(list(choice.logprobs.token_logprobs))
        texts.append(choice.text)
    return tokens, logprobs, texts


def _stream(client: Any, prompt: list[int], length: int) -> str:
    stream = client.completions.create(
        model=NAME,
        prompt=prompt,
        max_tokens=length,
        temperature=0.0,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    return "".join(chunk.choices[0].text for chunk in stream if chunk.choices)


def _chat(client: Any, length: int) -> tuple[str, str, int]:
    """The same chat whole and streamed: both texts, and the number of pieces with text."""
    common = {"model": NAME, "messages": QUESTION, "max_tokens": length, "temperature": 0.0}
    extra = {"ignore_eos": True}
    whole = client.chat.completions.create(**common, extra_body=extra)
    pieces = [
        chunk.choices[0].delta.content or ""
        for chunk in client.chat.completions.create(**common, stream=True, extra_body=extra)
        if chunk.choices
    ]
    return whole.choices[0].message.content, "".join(pieces), len([p for p in pieces if p])
