"""An engine that cannot start says what is wrong with what it was given, and what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cannsim.environment import Settings, variables
from safetensors.torch import load_file, save_file

import matrix
from matrix.checkpoints import materialise

PROGRAM = Path(__file__).with_name("bad_starts.py")
LIMIT = 1024
"""The model's longest sequence, by its config.json."""

Weights = dict[str, torch.Tensor]
DOWN = "model.layers.1.mlp.down_proj.weight"
KEY = "model.layers.2.self_attn.k_proj.weight"


def changed(folder: Path, good: Path, change: Callable[[Weights], Any]) -> Path:
    """A copy of a checkpoint with other tensors."""
    shutil.copytree(good, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def configured(folder: Path, good: Path, **values: Any) -> Path:
    """A copy of a checkpoint with other words in its config.json."""
    shutil.copytree(good, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))
    return folder


def cut(folder: Path, good: Path) -> Path:
    """A copy of a checkpoint whose download ended early."""
    shutil.copytree(good, folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return folder


def without_file(folder: Path, good: Path, name: str) -> Path:
    shutil.copytree(good, folder)
    (folder / name).unlink()
    return folder


def cases(good: Path, work: Path) -> dict[str, dict[str, Any]]:
    """Every wrong input, as arguments of `vllm.LLM`."""
    checkpoints = {
        "missing tensor": changed(work / "1", good, lambda w: w.pop(DOWN)),
        "missing part of a fused tensor": changed(work / "2", good, lambda w: w.pop(KEY)),
        "wrong shape": changed(work / "3", good, lambda w: w.update({DOWN: w[DOWN][:-1].clone()})),
        "cut file": cut(work / "4", good),
        "no weights": without_file(work / "5", good, "model.safetensors"),
        "no config": without_file(work / "6", good, "config.json"),
        "unknown architecture": configured(work / "7", good, architectures=["Qwen9ForCausalLM"]),
        "unknown type of model": configured(work / "8", good, model_type="nosuch"),
        "unknown quantisation in config": configured(
            work / "9", good, quantization_config={"quant_method": "nonsense"}
        ),
    }
    options: dict[str, dict[str, Any]] = {
        "unknown quantisation": {"quantization": "nonsense"},
        "quantisation of GPUs": {"quantization": "fp8"},
        "float8 as dtype": {"dtype": "float8_e4m3fn"},
        "float8 cache": {"kv_cache_dtype": "fp8"},
        "too long": {"max_model_len": 1000 * LIMIT},
        "cache for less than a request": {"kv_cache_memory_bytes": 500_000},
        "no memory for a cache": {"gpu_memory_utilization": 0.0001},
        "more memory than there is": {"gpu_memory_utilization": 1.5},
        "two NPUs": {"tensor_parallel_size": 2},
    }
    common = {"dtype": "float16", "max_model_len": LIMIT}
    made = {name: {**common, "model": str(path)} for name, path in checkpoints.items()}
    return made | {name: {**common, "model": str(good), **o} for name, o in options.items()}


def run(work: Path, wrong: dict[str, dict[str, Any]], settings: Settings) -> dict[str, Any]:
    (work / "cases.json").write_text(json.dumps(wrong))
    environment = {
        **os.environ,
        **variables(settings),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "HF_HUB_OFFLINE": "1",
    }
    ran = subprocess.run(
        [sys.executable, str(PROGRAM), str(work / "cases.json"), str(work / "out.json")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads((work / "out.json").read_text())


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What engines on the A2 said, each with 1 GiB of memory."""
    good, work = materialise(matrix.load().models["qwen3"]), tmp_path_factory.mktemp("starts")
    return run(work, cases(good, work), Settings(device_memory=1 << 30))


WORDS: dict[str, tuple[str, ...]] = {
    "missing tensor": ("no file has the whole of", "layers.1.mlp.down_proj.weight", "fetch them"),
    "missing part of a fused tensor": ("no file has the whole of", "layers.2.self_attn.qkv_proj"),
    "wrong shape": (DOWN, "(95, 256)", "does not fit", "config.json", "fetch them again"),
    "cut file": ("model.safetensors", "fetch them again"),
    "no weights": ("Cannot find any model weights",),
    "no config": ("config.json",),
    "unknown architecture": ("Qwen9ForCausalLM", "not supported"),
    "unknown type of model": ("`nosuch`", "does not recognize this architecture"),
    "unknown quantisation in config": ("Unknown quantization method: nonsense",),
    "unknown quantisation": ("Unknown quantization method: nonsense",),
    "quantisation of GPUs": ("'fp8' is not implemented on an NPU", "compressed-tensors"),
    "float8 as dtype": ("dtype", "'float8_e4m3fn'", "'bfloat16'"),
    "float8 cache": ("cannot run on an NPU", "kv_cache_dtype"),
    "too long": (str(1000 * LIMIT), str(LIMIT), "max_model_len"),
    "cache for less than a request": ("GiB KV cache is needed", "decreasing `max_model_len`"),
    "no memory for a cache": ("gpu_memory_utilization=0.0001", "the weights take", "lower --max"),
    "more memory than there is": ("gpu_memory_utilization", "less than or equal to 1"),
    "two NPUs": ("2 NPUs were asked for", "Set the parallel sizes to 1"),
}
"""What is wrong, to what the message has to name."""


@pytest.mark.parametrize("what", WORDS)
def test_the_message_names_what_is_wrong(said: dict[str, Any], what: str) -> None:
    assert said[what] is not None, "the engine started"
    text = said[what]["text"]
    assert [word for word in WORDS[what] if word not in text] == [], text


def test_each_case_is_checked(said: dict[str, Any]) -> None:
    assert set(said) == set(WORDS)


def test_the_300i_duo_has_no_bfloat16(tmp_path: Path) -> None:
    """It is refused where it is asked for, and replaced where the checkpoint only says so."""
    good = materialise(matrix.load().models["qwen3"])
    common = {"max_model_len": LIMIT, "kv_cache_memory_bytes": 1 << 28}
    released = configured(tmp_path / "released", good, dtype="bfloat16")
    wrong = {
        "asked": {**common, "model": str(good), "dtype": "bfloat16"},
        "float16": {**common, "model": str(good), "dtype": "float16"},
        "released": {**common, "model": str(released), "dtype": "auto"},
    }
    said = run(tmp_path, wrong, Settings(chip="Ascend310P3"))
    assert "310P" in said["asked"]["text"]
    assert "does not compute in bfloat16" in said["asked"]["text"]
    assert "float16, float32" in said["asked"]["text"]
    assert (said["float16"], said["released"]) == (None, None)


def test_an_installation_that_does_not_fit_ends_the_server(tmp_path: Path) -> None:
    """As `vllm serve` ends: with status 1 and what to do, before it reads the checkpoint."""
    home = tmp_path / "cann"
    made = variables(Settings())
    shutil.copytree(made["ASCEND_HOME_PATH"], home, symlinks=True)
    info = next(home.glob("*-linux/ascend_toolkit_install.info"))
    info.write_text("version=8.1.RC1\n")
    environment = {**os.environ, **made, "ASCEND_HOME_PATH": str(home), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(
        [str(Path(sys.executable).with_name("vllm")), "serve", str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 1
    for word in ("CANN toolkit 8.1.RC1: it is too old", "install CANN 9.1.0", "vllm_ascend.doctor"):
        assert word in ran.stderr
