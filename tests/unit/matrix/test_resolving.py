"""The resolver answers with versions and commands, or says why not and what is nearest."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

import matrix
from tests.unit.matrix.conftest import Data

Run = Callable[..., tuple[int, str, str]]


def ask(run: Run, **parts: str) -> tuple[int, str, str]:
    return run("resolve", *(f"--{part}={value}" for part, value in parts.items()))


def answer(run: Run, **parts: str) -> dict:  # type: ignore[type-arg]
    code, out, err = run("resolve", "--json", *(f"--{k}={v}" for k, v in parts.items()))
    assert code == 0, err
    return json.loads(out)


def test_versions_are_those_of_the_current_release(run: Run) -> None:
    found = answer(run, model="qwen3-8b", feature="lora", hardware="a2")
    release = matrix.load().release
    assert found["cell"] == f"qwen3-8b/lora/cann-{release.stable_cann}/a2"
    assert found["versions"] == {
        "vllm-ascend": release.plugin,
        "vllm": release.vllm,
        "torch": release.torch,
        "torch-npu": release.torch_npu,
        "triton-ascend": None,
        "cann": release.stable_cann,
        "python": release.python,
    }


def test_another_release_gives_other_commands(run: Run, data: Data) -> None:
    data.replace("releases.yaml", 'torch_npu: "2.13.0"', 'torch_npu: "2.13.1"')
    data.replace("releases.yaml", 'stable_cann: "9.1.0"', 'stable_cann: "9.0.0"')
    options = ("resolve", "--json", "--model=qwen3-8b", "--hardware=a3")
    found = json.loads(run("--root", data.root, *options)[1])
    assert "torch-npu==2.13.1" in found["commands"]["install"][0]
    assert found["image"] == "quay.io/ascend/cann:9.0.0-a3-ubuntu22.04-py3.11"
    assert found["image"] in found["commands"]["container"]


def test_commands_for_a_feature(run: Run) -> None:
    found = answer(run, model="qwen3-8b", feature="lora", hardware="a2")
    assert found["commands"]["serve"].startswith("vllm serve Qwen/Qwen3-8B")
    assert "--enable-lora" in found["commands"]["serve"]
    assert "--device /dev/davinci0 " in found["commands"]["container"]
    assert "/dev/davinci1" not in found["commands"]["container"]


def test_what_speaks_for_a_checkpoint_is_of_its_stand_in(run: Run) -> None:
    found = answer(run, model="qwen3-8b", feature="lora", hardware="a2")
    assert found["shown_by"] == [
        "architecture and feature shown on qwen3 (qwen3/lora/cann-9.1.0/a2)"
    ]
    assert any("No run used the weights of Qwen/Qwen3-8B" in note for note in found["notes"])
    assert any("No evidence of a real NPU" in note for note in found["notes"])


def test_a_range_that_shares_a_chip_says_whose_evidence_it_is(run: Run) -> None:
    found = answer(run, model="qwen3-8b", hardware="Atlas 800T A2")
    assert found["cell"].endswith("/a2-training")
    (shown,) = found["shown_by"]
    assert "shown on qwen3, on a2, which has the same chip (qwen3/base/" in shown


def test_weights_are_named_by_their_repository(run: Run) -> None:
    found = answer(run, model="vllm-ascend/Qwen3-32B-W8A8", hardware="a2")
    assert found["cell"] == "qwen3-32b/quantisation/cann-9.1.0/a2"
    assert found["cards"] == 1
    assert "vllm serve vllm-ascend/Qwen3-32B-W8A8" in found["commands"]["serve"]


def test_a_stand_in_can_be_asked_about_too(run: Run) -> None:
    found = answer(run, model="qwen3", feature="lora", hardware="a2")
    assert found["cell"] == "qwen3/lora/cann-9.1.0/a2"


@pytest.mark.parametrize(
    ("question", "code", "told"),
    [
        ({"model": "qwen3-9b"}, 2, "Did you mean 'qwen3.5-9b'?"),
        ({"model": "Qwen/Qwen3-8b"}, 2, "Did you mean 'Qwen/Qwen3-8B'?"),
        ({"feature": "lorra"}, 2, "Did you mean 'lora'?"),
        ({"hardware": "a4"}, 2, "Did you mean 'a"),
        ({"cann": "9.1.1"}, 2, "Did you mean '9.1.0'?"),
        ({"hardware": "300i-duo", "feature": "bfloat16"}, 6, "Nearest: a2 (Atlas A2)"),
        ({"feature": "prompt-adapter"}, 6, "vLLM 0.10.0 removed prompt adapters"),
        ({"cann": "8.3.RC2"}, 7, "The nearest is CANN 8.5.0; or install vllm-ascend 0.13.0rc1"),
        ({"cann": "9.0.1"}, 7, "with vLLM 0.23.0"),
        ({"cann": "7.0.0"}, 7, "The nearest is CANN 8.2.RC1."),
        ({"model": "qwen3-32b"}, 8, "the weights vllm-ascend/Qwen3-32B-W8A8"),
        ({"model": "vllm-ascend/Qwen3-32B-W4A4"}, 6, "reads no weights of this scheme"),
    ],
)
def test_each_cause_has_its_code_and_the_nearest(
    run: Run, question: dict[str, str], code: int, told: str
) -> None:
    parts = {"model": "qwen3-8b", "hardware": "a2"} | question
    got, out, err = ask(run, **parts)
    assert (got, out) == (code, "")
    assert told in err


def test_what_does_not_fit_one_range_fits_a_larger_one(run: Run) -> None:
    _, _, err = ask(run, model="qwen3-32b", hardware="a2")
    assert "950 (Ascend 950)" in err
    assert answer(run, model="qwen3-32b", hardware="950")["cards"] == 1


def test_an_older_cann_is_told_of(run: Run) -> None:
    found = answer(run, model="qwen3-8b", hardware="a2", cann="8.5.0")
    assert any("Not a pair that torch-npu 2.13.0 was published for" in n for n in found["notes"])
