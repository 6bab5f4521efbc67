"""What the model runner does beyond vLLM's: seeds and adapters where a prompt is in the way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from vllm.lora.punica_wrapper.punica_selector import get_punica_wrapper
from vllm.v1.worker.gpu_model_runner import GPUModelRunner
from vllm_ascend.model_runner import TAKEN_BACK, NPUModelRunner

VOCABULARY = 512


def generator() -> torch.Generator:
    made = torch.Generator(device="npu")
    made.manual_seed(7)
    return made


def draw(source: torch.Generator) -> list[float]:
    return torch.empty(VOCABULARY, device="npu").exponential_(generator=source).cpu().tolist()


def runner(generators: dict[int, torch.Generator], discarded: list[bool]) -> NPUModelRunner:
    made = NPUModelRunner.__new__(NPUModelRunner)
    made.input_batch = SimpleNamespace(generators=generators, num_reqs=len(discarded))
    made.discard_request_mask = SimpleNamespace(np=np.array(discarded))
    return made


def test_a_discarded_draw_leaves_the_seed_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    generators = {0: generator(), 1: generator()}

    def sample(self: Any, *_: Any) -> str:
        for source in self.input_batch.generators.values():
            draw(source)
        return "output"

    monkeypatch.setattr(GPUModelRunner, "_sample", sample)
    assert runner(generators, [True, False])._sample(None, None) == "output"
    # What vLLM does next with those that it discards, in `_bookkeeping_sync`.
    generators[0].set_offset(generators[0].get_offset() - TAKEN_BACK)
    fresh = generator()
    first, second = draw(fresh), draw(fresh)
    assert draw(generators[0]) == first, "as if nothing had been drawn"
    assert draw(generators[1]) == second, "one draw counted"


def test_vllm_takes_back_as_much_as_is_said_here() -> None:
    import inspect

    assert f"get_offset() - {TAKEN_BACK})" in inspect.getsource(GPUModelRunner._bookkeeping_sync)


def test_logprobs_of_a_prompt_pass_adapters_that_leave_the_output_layer_alone() -> None:
    wrapper = get_punica_wrapper(16, 8, "npu")
    mapping = SimpleNamespace(index_mapping=(7, 7, 0), prompt_mapping=(7, 0), is_prefill=True)
    wrapper.update_metadata(mapping, [5, 7], 2, 64)
    logits, hidden = torch.randn(9, 12), torch.randn(9, 16).npu()
    given, a, b = logits.npu(), torch.zeros(2, 1, 4, 16).npu(), torch.zeros(2, 1, 12, 4).npu()
    wrapper.add_lora_logits(given, hidden, a, b, 1.0)
    assert torch.equal(given.cpu(), logits)
    with pytest.raises(NotImplementedError, match="lm_head"):
        wrapper.add_lora_logits(given, hidden, a + 1, b, 1.0)
