"""The plugin inside a real engine: every shim is reached, and the engine's own layers and
attention are the registered ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import matrix
from matrix.checkpoints import materialise

PROGRAM = Path(__file__).with_name("engine_hits.py")


@pytest.fixture(scope="module")
def hits(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What a small engine reached, from a process of its own (shims change torch for good)."""
    checkpoint = materialise(matrix.load().models["qwen3"])
    out = tmp_path_factory.mktemp("hits") / "hits.json"
    environment = {
        **os.environ,
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "HF_HUB_OFFLINE": "1",
        "CANNSIM_EXTENSIONS": "float32-attention",
    }
    ran = subprocess.run(
        [sys.executable, str(PROGRAM), str(checkpoint), str(out)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert "Traceback" not in ran.stderr, ran.stderr[-4000:]
    return json.loads(out.read_text())


def test_every_shim_is_reached(hits: dict) -> None:
    from vllm_ascend.shims import SHIMS

    assert {shim.target: hits["shims"].get(shim.target, 0) > 0 for shim in SHIMS} == {
        shim.target: True for shim in SHIMS
    }


def test_a_shim_that_nothing_reaches_would_be_seen(hits: dict) -> None:
    assert hits["shims"]["torch.cuda.current_stream"] > hits["shims"]["torch.cuda.Stream"]
    assert "torch.cuda.no_such_shim" not in hits["shims"]


def test_the_engine_runs_the_plugins_classes(hits: dict) -> None:
    assert hits["worker"] == "vllm_ascend.worker.NPUWorker"
    assert hits["runner"] == "vllm_ascend.model_runner.NPUModelRunner"
    assert {"AscendSiluAndMul", "AscendRotaryEmbedding"} <= set(hits["layers"])


def test_asynchronous_scheduling_is_on_by_default(hits: dict) -> None:
    assert hits["async_scheduling"] is True


def test_one_attention_launch_a_layer_and_step(hits: dict) -> None:
    """8 tokens of one sequence: one prefill step and seven decode steps."""
    attention = sum(
        n
        for name, n in hits["launches"].items()
        if name.startswith("aclnnFusedInferAttentionScore")
    )
    assert attention == hits["layer_count"] * 8
    assert hits["launches"]["aclnnScatterPaKvCache"] == hits["layer_count"] * 8
