"""A real server refuses what it cannot serve, says why, and answers the next request as before."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import matrix
from matrix.checkpoints import materialise
from tests.e2e import adapters
from tests.e2e.context import CellContext
from tests.e2e.reference import Reference
from tests.e2e.serving import NAME, serve

RANK = 8
LIMIT = 512
"""The model's length, and the largest rank of an adapter that the server takes."""

QUESTION: dict[str, Any] = {"model": NAME, "prompt": [5, 6, 7], "max_tokens": 6, "temperature": 0.0}
SCHEMA = {"type": "object", "properties": {"a": {"type": "nosuchtype"}}}
VOCABULARY = 512


@dataclass(frozen=True)
class Served:
    """A server, its adapters by what is wrong with each, and what it answers to `QUESTION`."""

    url: str
    adapters: dict[str, Path]
    answer: list[int]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    model = matrix.load().models["qwen3"]
    checkpoint, work = materialise(model), tmp_path_factory.mktemp("served")
    context = CellContext(
        cell_id="qwen3/bad-requests",
        model=model.model_dump(mode="json"),
        feature={
            "engine": {"enable_lora": True, "max_loras": 1, "max_lora_rank": RANK},
            "time_limit": 300,
        },
        checkpoint=checkpoint,
        workdir=work,
        log=work / "log",
        chip="Ascend910B1",
        cann="9.1.0",
        environment={
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
            "CANNSIM_EXTENSIONS": "float32-attention",
        },
    )
    made = _adapters(checkpoint, work)
    with serve(context) as server:
        found = Served(server.url, made, [])
        found.answer.extend(tokens(found))
        yield found


def _adapters(checkpoint: Path, work: Path) -> dict[str, Path]:
    base = Reference(checkpoint)
    good, _ = adapters.make(base, work / "good", RANK, 1)
    large, _ = adapters.make(base, work / "large", 2 * RANK, 2)
    corrupt = work / "corrupt"
    shutil.copytree(good, corrupt)
    weights = corrupt / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    return {
        "good": good,
        "large": large,
        "corrupt": corrupt,
        "none": work / "none",
    }


def post(url: str, body: Any) -> tuple[int, str]:
    """Posts a body, as JSON unless it is bytes; returns the status and the answer's text."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def tokens(served: Served, model: str = NAME) -> list[int]:
    body = {**QUESTION, "model": model, "return_token_ids": True, "ignore_eos": True}
    status, text = post(f"{served.url}/v1/completions", body)
    assert status == 200, text
    return json.loads(text)["choices"][0]["token_ids"]


REFUSED: dict[str, tuple[str, Any, int, str]] = {
    "prompt over the limit": ("", {"prompt": [5] * (LIMIT + 1)}, 400, str(LIMIT)),
    "empty prompt": ("", {"prompt": []}, 400, "prompt"),
    "token that is not in the vocabulary": ("", {"prompt": [VOCABULARY + 1]}, 400, "vocab"),
    "temperature": ("", {"temperature": -1.0}, 400, "temperature"),
    "top_p": ("", {"top_p": 2.0}, 400, "top_p"),
    "top_k": ("", {"top_k": -5}, 400, "top_k"),
    "min_p": ("", {"min_p": 2.0}, 400, "min_p"),
    "repetition_penalty": ("", {"repetition_penalty": 0.0}, 400, "repetition_penalty"),
    "presence_penalty": ("", {"presence_penalty": 5.0}, 400, "presence_penalty"),
    "n of none": ("", {"n": 0}, 400, "n"),
    "n of several, greedily": ("", {"n": 2}, 400, "n must be 1"),
    "max_tokens of none": ("", {"max_tokens": 0}, 400, "max_tokens"),
    "too many logprobs": ("", {"logprobs": 1000}, 400, "logprobs"),
    "bias of a token that is not there": (
        "",
        {"logit_bias": {str(VOCABULARY + 1): 1.0}},
        400,
        str(VOCABULARY + 1),
    ),
    "text for a number": ("", {"max_tokens": "many"}, 400, "max_tokens"),
    "a schema that is none": (
        "",
        {"structured_outputs": {"json": SCHEMA}},
        400,
        "nosuchtype",
    ),
    "a regular expression that is none": ("", {"structured_outputs": {"regex": "(["}}, 400, ""),
    "two constraints": (
        "",
        {"structured_outputs": {"regex": "a", "choice": ["a", "b"]}},
        400,
        "one kind",
    ),
    "unknown model or adapter": ("", {"model": "other"}, 404, "other"),
    "unfinished JSON": ("", b'{"model": ', 400, "JSON"),
    "chat without messages": ("/v1/chat/completions", {"model": NAME}, 400, "messages"),
    "embeddings of a generating model": (
        "/v1/embeddings",
        {"model": NAME, "input": "a"},
        404,
        "Not Found",
    ),
}
"""What is wrong, to path, body (over `QUESTION`), status, and what the text names."""

WRONG_ADAPTERS = {
    "large": f"rank {2 * RANK}",
    "corrupt": "Error while deserializing header",
    "none": "none",
}
"""Adapters that do not load, to what the text names."""


@pytest.mark.parametrize("what", REFUSED)
def test_a_wrong_request(served: Served, what: str) -> None:
    path, body, wanted, word = REFUSED[what]
    if not path and isinstance(body, dict):
        body = {**QUESTION, **body}
    status, text = post(f"{served.url}{path or '/v1/completions'}", body)
    print(what, status, text[:400], sep=" | ")
    assert (status, word in text) == (wanted, True), text
    assert tokens(served) == served.answer


@pytest.mark.parametrize("what", WRONG_ADAPTERS)
def test_a_wrong_adapter(served: Served, what: str) -> None:
    body = {"lora_name": what, "lora_path": str(served.adapters[what])}
    status, text = post(f"{served.url}/v1/load_lora_adapter", body)
    print(what, status, text[:400], sep=" | ")
    # vLLM itself calls every other failure than a missing adapter an error of the server.
    assert status == (404 if what == "none" else 500), text
    assert WRONG_ADAPTERS[what] in text
    # It is not half there, and neither the model nor a good adapter is the worse for it.
    assert post(f"{served.url}/v1/completions", {**QUESTION, "model": what})[0] == 404
    good = {"lora_name": "good", "lora_path": str(served.adapters["good"])}
    assert post(f"{served.url}/v1/load_lora_adapter", good)[0] == 200
    assert tokens(served, "good") != served.answer
    assert post(f"{served.url}/v1/unload_lora_adapter", {"lora_name": "good"})[0] == 200
    assert tokens(served) == served.answer
