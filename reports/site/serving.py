"""How to serve a model: what to install, the command, and a client's call, out of the data."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matrix import Cell, Model, Release
from reports.record import Record
from reports.site import text
from reports.statuses import Status
from reports.support import Support

PROOF_KEY = "commands"
"""The entry of a record's proof that holds the commands that the cell ran."""

_LIMIT = 4_000  # characters of a command
_HARNESS = ("gpu_memory_utilization", "max_num_seqs", "seed", "enforce_eager", "runner")


@dataclass(frozen=True)
class Step:
    """A feature of a model that passed, with what it adds to the command.

    Attributes:
        feature: title and name of the feature.
        flags: what is added to `vllm serve`, empty where it needs nothing.
        cards: NPUs that it takes.
        cell: the cell of the newest passed run.
        status: that cell's status.
        commands: what that run really started, empty for records that do not say.
    """

    feature: str
    name: str
    flags: str
    cards: int
    cell: str
    status: Status
    commands: Sequence[str]


@dataclass(frozen=True)
class Tutorial:
    """How to serve one model.

    Attributes:
        checkpoint: what stands after `vllm serve`.
        served: the command for the model alone.
        steps: what passed, feature by feature.
        client: a request by curl.
        python: the same by the openai client; empty where it has no such call.
    """

    checkpoint: str
    install: str
    served: str
    steps: Sequence[Step]
    client: str
    python: str


def tutorial(support: Support, model: Model, cells: Sequence[Cell]) -> Tutorial:
    """Return how to serve `model`, whose supported cells are `cells`."""
    checkpoint = model.represents[0] if model.represents else f"/path/to/{model.name}"
    curl, python = client(model, checkpoint)
    return Tutorial(
        checkpoint=checkpoint,
        install=install(support.matrix.release),
        served=_command(checkpoint, {**_released(model.engine)}),
        steps=steps(support, cells),
        client=curl,
        python=python,
    )


def install(release: Release) -> str:
    """Return the commands that install a release's versions."""
    return (
        f"python3 -m pip install torch=={release.torch} torch-npu=={release.torch_npu}\n"
        f"VLLM_TARGET_DEVICE=empty python3 -m pip install --no-binary vllm vllm=={release.vllm}\n"
        f"python3 -m pip install vllm-ascend=={release.plugin}"
    )


def flags(options: Mapping[str, Any]) -> str:
    """Return keyword arguments of vllm.LLM as options of `vllm serve`, fit for a shell."""
    return " ".join(_flag(name.replace("_", "-"), value) for name, value in options.items())


def _flag(option: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{option}" if value else f"--no-{option}"
    said = json.dumps(value) if isinstance(value, dict | list) else str(value)
    return f"--{option} {shlex.quote(said)}"


def commands_of(record: Record) -> list[str]:
    """Return the commands that a run started, as its record says; empty if it does not say."""
    found = record.proof.get(PROOF_KEY)
    if not isinstance(found, list):
        return []
    return [text.start(one, _LIMIT) for one in found if isinstance(one, str)]


def _released(engine: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's arguments without those that only fit a stand-in's tiny size."""
    return {name: value for name, value in engine.items() if name not in _HARNESS}


def _command(checkpoint: str, options: Mapping[str, Any]) -> str:
    return f"vllm serve {shlex.quote(checkpoint)} {flags(options)}".rstrip()


def steps(support: Support, cells: Sequence[Cell]) -> list[Step]:
    """Return a step for each feature that passed somewhere, by its newest run."""
    newest: dict[str, tuple[Cell, Status, Record]] = {}
    for cell in cells:
        status = support.marks["e2e"][cell.id]
        if status.state != "passed" or status.record is None:
            continue
        before = newest.get(cell.feature.name)
        if before is None or before[2].started < status.record.started:
            newest[cell.feature.name] = (cell, status, status.record)
    return [
        Step(
            feature=cell.feature.title,
            name=name,
            flags=flags(cell.feature.engine),
            cards=cell.feature.cards,
            cell=cell.id,
            status=status,
            commands=commands_of(record),
        )
        for name, (cell, status, record) in newest.items()
    ]


_CALLS: dict[str, tuple[str, dict[str, Any], str]] = {
    "generate": (
        "chat/completions",
        {"messages": [{"role": "user", "content": "What is the capital of France?"}]},
        "client.chat.completions.create",
    ),
    "embed": (
        "embeddings",
        {"input": ["The capital of France is Paris."]},
        "client.embeddings.create",
    ),
    "classify": ("classify", {"input": "The capital of France is Paris."}, ""),
}


def client(model: Model, checkpoint: str) -> tuple[str, str]:
    """Return a request by curl, and by the openai client where that has such a call."""
    path, body, call = _CALLS.get(model.task, _CALLS["generate"])
    if model.task == "multimodal" and model.media is not None:
        body = {"messages": [{"role": "user", "content": _media(list(model.media.placeholders))}]}
    address = "http://localhost:8000/" + ("classify" if path == "classify" else f"v1/{path}")
    said = json.dumps({"model": checkpoint, **body}, indent=2)
    curl = f"curl {address} -H 'Content-Type: application/json' -d {shlex.quote(said)}"
    if not call:
        return curl, ""
    arguments = "".join(f"    {name}={value!r},\n" for name, value in body.items())
    python = (
        "from openai import OpenAI\n\n"
        'client = OpenAI(base_url="http://localhost:8000/v1", api_key="unused")\n'
        f"print({call}(\n    model={checkpoint!r},\n{arguments}))"
    )
    return curl, python


def _media(kinds: list[str]) -> list[dict[str, Any]]:
    endings = {"image": "png", "audio": "wav"}
    given = [
        {"type": f"{kind}_url", f"{kind}_url": {"url": f"https://example.com/a.{endings[kind]}"}}
        for kind in kinds
    ]
    return [{"type": "text", "text": f"What is in this {' and this '.join(kinds)}?"}, *given]
