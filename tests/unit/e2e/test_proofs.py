"""Each proof accepts what a working feature leaves, and refuses what one that is off leaves."""

from __future__ import annotations

import importlib
import math
from types import SimpleNamespace
from typing import Any

import pytest

import matrix
from tests.e2e import (
    adapters,
    endpoints,
    generation,
    multimodal,
    pooling,
    quantised,
    sampling,
    sleeping,
    speculation,
)
from tests.e2e.context import GateFailed
from tests.e2e.device import Work
from tests.e2e.engine import Engine, Run, Step, StepTrace
from tests.e2e.quantised import CacheSpec
from tests.e2e.reference import Scored
from tests.e2e.serving import ServerError, flags, read_metric, require_served

LAYERS = 3


def engine_of(layers: int = LAYERS) -> Engine:
    text = SimpleNamespace(num_hidden_layers=layers)
    config = SimpleNamespace(
        model_config=SimpleNamespace(is_encoder_decoder=False, hf_text_config=text)
    )
    llm = SimpleNamespace(llm_engine=SimpleNamespace(vllm_config=config))
    return Engine(llm, {}, counters=None, platform={"platform": "npu"})  # type: ignore[arg-type]


def run_of(steps: int, attention: int) -> Run:
    work = Work({"aclnnFusedInferAttentionScoreV3": attention, "aclnnMatmul": 9}, 0)
    done = [Step({"r": 1}, 2 * i, 2 * i + 1) for i in range(steps)]
    return Run([], 1.0, done, work)


def test_attention_has_to_be_launched_once_per_layer_and_step() -> None:
    proof = engine_of().proof_of_attention(run_of(4, 4 * LAYERS))
    assert proof["attention_launches"] == 12
    for attention in (0, 4 * LAYERS - 1, 5 * LAYERS):
        with pytest.raises(GateFailed, match="expected 12"):
            engine_of().proof_of_attention(run_of(4, attention))
    with pytest.raises(GateFailed, match="not schedule a single step"):
        engine_of().proof_of_attention(run_of(0, 0))


def test_an_encoder_launches_attention_beside_the_decoder() -> None:
    proof = engine_of().proof_of_attention(run_of(4, 4 * LAYERS + 2), encoders=[3, 1])
    assert proof["attention_launches"] == 14
    for attention in (4 * LAYERS, 4 * LAYERS + 4):
        with pytest.raises(GateFailed, match="2 calls of encoders' attention; expected 14"):
            engine_of().proof_of_attention(run_of(4, attention), encoders=[3, 1])


def test_each_image_has_to_be_encoded_once() -> None:
    media = {"placeholders": {"image": "<i>"}, "prompt": "{media}{text}", "per_prompt": 2}
    asked = multimodal.questions(media, 4)
    assert asked[-1].text.startswith("<i><i>What")
    assert asked[-1].items == (("image", 2), ("image", 0))

    def run(encoded: int) -> Run:
        return Run([], 1.0, [Step({"r": 9}, 0, 1, encoded)], None)

    proof = multimodal.proof_of_encoding(run(3), asked, [1, 1])
    assert (proof["encoded"], proof["encoder_cache_hits"]) == (3, 3)
    for encoded in (0, 2, 6):
        with pytest.raises(GateFailed, match="of 3 different images"):
            multimodal.proof_of_encoding(run(encoded), asked, [])


def test_a_reference_that_does_not_look_shows_nothing() -> None:
    def scored(value: float) -> Scored:
        return Scored([5, 6], 1, [value], [[(6, value)]], [1.0])

    asked = [multimodal.Asked("What?", (("image", n),)) for n in (0, 1)]
    multimodal.require_different(asked, [scored(-1.0), scored(-1.5)])
    with pytest.raises(GateFailed, match="answers the same"):
        multimodal.require_different(asked, [scored(-1.0), scored(-1.0)])
    with pytest.raises(GateFailed, match="no question"):
        multimodal.require_different(asked[:1], [scored(-1.0)])


def test_attention_in_two_operators_takes_up_to_one_for_each_request() -> None:
    def run(decode: int, prompts: int) -> Run:
        launches = {"aclnnIncreFlashAttentionV4": decode, "aclnnPromptFlashAttentionV3": prompts}
        steps = [Step({"a": 9, "b": 4}, 0, 1), Step({"a": 1, "b": 1}, 2, 3)]
        return Run([], 1.0, steps, Work(launches, 0))

    proof = engine_of().proof_of_attention(run(LAYERS, 2 * LAYERS))
    assert proof["attention_launches"] == 3 * LAYERS
    for decode, prompts in ((0, 2 * LAYERS - 1), (LAYERS, 3 * LAYERS + 1)):
        with pytest.raises(GateFailed, match=f"expected {2 * LAYERS} to {4 * LAYERS}"):
            engine_of().proof_of_attention(run(decode, prompts))


def test_chunks_within_the_budget_are_counted() -> None:
    parts = {"a": [32, 32, 16, 1, 1], "b": [32, 32, 16, 1, 1]}
    assert generation.proof_of_chunks(parts, 80, 32)["prefill_parts"] == 6


@pytest.mark.parametrize(
    ("parts", "size", "message"),
    [
        ({"a": [80, 1, 1]}, 80, "not read in several steps"),
        ({"a": [32, 32, 1, 1]}, 80, "not read in several steps"),
        ({"a": [40, 40, 1]}, 80, "the budget is 32"),
        ({"a": [20, 1, 1]}, 20, "fit into one step"),
        ({}, 80, "no request"),
    ],
)
def test_prompts_read_at_once_or_over_budget_fail(
    parts: dict[str, list[int]], size: int, message: str
) -> None:
    with pytest.raises(GateFailed, match=message):
        generation.proof_of_chunks(parts, size, 32)


def test_prefix_hits_are_the_work_that_was_saved() -> None:
    proof = generation.proof_of_prefix_hits([0, 0, 96, 96], warm=100, cold=196)
    assert proof["cached_tokens"] == 96


@pytest.mark.parametrize(
    ("hits", "warm", "cold", "message"),
    [
        ([0, 0, 0, 0], 196, 196, "no token of the shared prefix"),
        ([0, 16, 112, 112], 100, 196, "in a cache that was empty"),
        ([0, 0, 96, 112], 100, 196, "after the cache was emptied"),
        ([0, 0, 96, 96], 196, 196, "0 fewer were computed"),
    ],
)
def test_prefix_cache_that_is_off_or_only_counts_fails(
    hits: list[float], warm: int, cold: int, message: str
) -> None:
    with pytest.raises(GateFailed, match=message):
        generation.proof_of_prefix_hits(hits, warm, cold)


SAMPLES = [[[1, 2], [1, 3], [2, 2]]]


def test_samples_differ_repeat_with_their_seed_and_change_with_another() -> None:
    generation.proof_of_samples(SAMPLES, SAMPLES, [[[7, 7], [1, 3], [2, 2]]], 3)
    with pytest.raises(GateFailed, match="2 of 3 samples"):
        generation.proof_of_samples([[[1, 2], [1, 2], [2, 2]]], SAMPLES, SAMPLES, 3)
    with pytest.raises(GateFailed, match="3 samples, not 4"):
        generation.proof_of_samples(SAMPLES, SAMPLES, SAMPLES, 4)
    with pytest.raises(GateFailed, match="other samples the second time"):
        generation.proof_of_samples(SAMPLES, [[[1, 2], [1, 3], [2, 3]]], [[[7, 7]]], 3)
    with pytest.raises(GateFailed, match="another seed gave the same"):
        generation.proof_of_samples(SAMPLES, SAMPLES, SAMPLES, 3)


def test_draws_that_are_all_the_most_likely_token_are_implausible() -> None:
    # Mean and variance of the logprob of tokens with probabilities 0.7, 0.2, 0.1.
    mean, variance = -0.8018, 0.5207
    fair = [-0.3567] * 45 + [-1.6094] * 13 + [-2.3026] * 6
    assert abs(generation.require_plausible_draws(fair, mean, variance)) < 1
    with pytest.raises(GateFailed, match="standard errors"):
        generation.require_plausible_draws([-0.3567] * 64, mean, variance)


FREE = ["Paris.\n", "100 degrees"]
GUIDED = {
    "choice": ["a red boat", "no boat"],
    "regex": ["abcd-123", "ffff-000"],
    "json": ['{"open": true, "pier": "first", "pupils": 7}'] * 2,
}


def test_grammar_is_obeyed_by_constrained_outputs_only() -> None:
    assert generation.proof_of_grammar(FREE, GUIDED)["constraints"] == ["choice", "json", "regex"]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("choice", "a green boat"),
        ("regex", "abcd-12"),
        ("json", '{"open": true, "pier": "fourth", "pupils": 7}'),
        ("json", '{"open": true, "pier": "first", "pupils": 700}'),
        ("json", '{"open": true, "pier": "first"}'),
        ("json", '{"open": true, "pier": "first", "pupils": 7'),
        ("json", '{"open": 1, "pier": "first", "pupils": true}'),
    ],
)
def test_output_that_breaks_its_constraint_fails(kind: str, text: str) -> None:
    with pytest.raises(GateFailed, match=f"breaks its {kind} constraint"):
        generation.proof_of_grammar(FREE, {**GUIDED, kind: [GUIDED[kind][0], text]})


def test_constraint_that_changed_nothing_fails() -> None:
    with pytest.raises(GateFailed, match="obeys choice anyway"):
        generation.proof_of_grammar(["no boat", "no boat"], {"choice": ["no boat", "no boat"]})


class _Scheduler:
    """Hands out the given numbers of tokens, as vLLM's scheduler does."""

    def schedule(self, tokens: dict[str, int]) -> Any:
        total = sum(tokens.values())
        return SimpleNamespace(
            num_scheduled_tokens=tokens,
            total_num_scheduled_tokens=total,
            scheduled_new_reqs=[],
            scheduled_encoder_inputs={"a": [0, 1]} if total > 4 else {},
        )

    def update_from_output(self, _output: Any, result: str) -> str:
        return result


def test_trace_tells_overlapping_steps_from_sequential_ones() -> None:
    scheduler = _Scheduler()
    trace = StepTrace(scheduler)
    first = scheduler.schedule({"a": 5})
    scheduler.schedule({})
    assert scheduler.update_from_output(first, "done") == "done"
    second = scheduler.schedule({"a": 1})
    third = scheduler.schedule({"a": 1, "b": 4})
    scheduler.update_from_output(second, "")
    scheduler.update_from_output(third, "")
    run = Run([], 1.0, trace.steps, None)
    assert [step.tokens for step in trace.steps] == [{"a": 5}, {"a": 1}, {"a": 1, "b": 4}]
    assert run.overlapping == 1
    assert run.per_request() == {"a": [5, 1, 1], "b": [4]}
    assert run.scheduled == 11
    assert [step.encoded for step in trace.steps] == [2, 0, 2]
    assert run.encoded == 4


METRICS = """# HELP vllm:generation_tokens_total Number of generation tokens processed.
vllm:generation_tokens_total{engine="0",model_name="m"} 80.0
vllm:generation_tokens_total{engine="1",model_name="m"} 16.0
vllm:generation_tokens_created{engine="0"} 1.7e+09
"""


def test_server_that_counted_fewer_requests_or_tokens_fails() -> None:
    assert read_metric(METRICS, "vllm:generation_tokens_total") == 96
    with pytest.raises(ServerError, match="no 'vllm:prompt_tokens_total'"):
        read_metric(METRICS, "vllm:prompt_tokens_total")
    require_served({"requests": 7.0, "generated_tokens": 96.0}, 7, 96)
    with pytest.raises(GateFailed, match="6 requests"):
        require_served({"requests": 6.0, "generated_tokens": 96.0}, 7, 96)
    with pytest.raises(GateFailed, match="95 generated tokens"):
        require_served({"requests": 7.0, "generated_tokens": 95.0}, 7, 96)


def test_engine_settings_become_options_of_the_server() -> None:
    settings = {"max_model_len": 64, "enable_prefix_caching": False, "hf_overrides": {"a": 1}}
    assert flags(settings) == [
        "--max-model-len=64",
        "--no-enable-prefix-caching",
        '--hf-overrides={"a": 1}',
    ]


def test_work_since_an_earlier_reading_leaves_out_what_did_not_run() -> None:
    earlier = Work({"aclnnMatmul": 5, "aclnnAdd": 2}, 3)
    later = Work({"aclnnMatmul": 9, "aclnnAdd": 2, "aclnnFusedInferAttentionScoreV2": 1}, 4)
    done = later.since(earlier)
    assert done.launches == {"aclnnMatmul": 4, "aclnnFusedInferAttentionScoreV2": 1}
    assert (done.attention, done.total, done.synchronizations) == (1, 5, 1)


def test_every_feature_of_the_matrix_has_a_body() -> None:
    loaded = matrix.load()
    shown = {c.feature.name for c in matrix.expand(loaded) if c.unsupported is None}
    for name in shown:
        assert loaded.features[name].body, name
    for feature in loaded.features.values():
        if feature.body is None:
            continue
        module, _, name = feature.body.partition(":")
        assert callable(getattr(importlib.import_module(module), name)), feature.name


def test_a_window_has_to_be_shorter_than_prompts_and_matter() -> None:
    proof = generation.proof_of_window([[1, 2], [3, 4]], [[1, 2], [3, 5]], 32, 150)
    assert proof["answers_changed_by_the_window"] == 1
    for others, window, words in (
        ([[1, 2], [3, 5]], 150, "holds prompts of 150"),
        ([[1, 2], [3, 4]], 32, "same answers come without"),
    ):
        with pytest.raises(GateFailed, match=words):
            generation.proof_of_window([[1, 2], [3, 4]], others, window, 150)


def test_drafts_have_to_be_made_accepted_and_worth_it() -> None:
    proof = speculation.proof_of_drafts((10, 30, 12), steps=88, tokens=100)
    assert (proof["accepted_tokens"], proof["steps_saved"]) == (12, 12)
    for counted, steps, words in (
        ((0, 0, 0), 100, "speculation was off"),
        ((10, 30, 0), 100, "none of 30 drafted"),
        ((10, 30, 31), 60, "31 of 30"),
        ((10, 30, 12), 100, "none was saved"),
    ):
        with pytest.raises(GateFailed, match=words):
            speculation.proof_of_drafts(counted, steps, 100)


def test_a_draft_counts_as_long_as_all_before_it_were_right() -> None:
    tokens = [0, 1, 2, 3, 4, 5, 6, 7, 8]
    right = list(tokens)
    assert speculation.would_accept(right, tokens, length=6, width=3) == 3 + 3
    wrong_first = [9, 9, 2, 3, 4, 5, 6, 7, 8]
    assert speculation.would_accept(wrong_first, tokens, length=6, width=3) == 0 + 3
    assert speculation.would_accept([9] * 9, tokens, length=6, width=3) == 0


def test_adapters_have_to_share_a_step() -> None:
    assert adapters.proof_of_one_batch([2, 6, 6], 6) == {"requests_in_one_step": 6}
    with pytest.raises(GateFailed, match="largest step had 3"):
        adapters.proof_of_one_batch([2, 3, 3], 6)


def test_sleep_has_to_free_the_weights_and_take_them_again() -> None:
    good = [100, 10, 100, 10, 40, 100]
    assert sleeping.proof_of_memory(good, 30, 60)["bytes_asleep_level_2"] == 10
    for place, value, words in (
        (1, 80, "level 1 freed 20"),
        (3, 80, "level 2 freed 20"),
        (2, 90, "less than was freed"),
        (5, 90, "less than was freed"),
        (4, 30, "weights alone took 20"),
        (4, 100, "weights alone took 90"),
        (5, 120, "beside the first ones: 20 bytes more"),
    ):
        with pytest.raises(GateFailed, match=words):
            sleeping.proof_of_memory([*good[:place], value, *good[place + 1 :]], 30, 60)


def test_answers_that_were_given_have_to_be_drafted_from() -> None:
    proof = speculation.proof_of_memory_of_answers([10, 75], 128)
    assert proof == {"accepted_when_new": 10, "accepted_when_asked_again": 75}
    with pytest.raises(GateFailed, match="earlier answers were not drafted from"):
        speculation.proof_of_memory_of_answers([10, 74], 128)


def test_attention_has_to_take_sinks_that_matter() -> None:
    def proof(found: int, launched: str, count: int) -> dict[str, object]:
        completion = SimpleNamespace(token_ids=[1, found])
        outputs = [SimpleNamespace(outputs=[completion])]
        run = Run(outputs, 1.0, [Step({"a": 2}, 0, 1)], Work({launched: count}, 0))
        return generation.proof_of_sinks(run, 3, [[1, 2]])

    assert proof(7, "aclnnFusedInferAttentionScoreV4", 3)["launches_with_sinks"] == 3
    with pytest.raises(GateFailed, match="the same answers come without sinks"):
        proof(2, "aclnnFusedInferAttentionScoreV4", 3)
    for launched, count in (
        ("aclnnFusedInferAttentionScoreV3", 3),
        ("aclnnFusedInferAttentionScoreV5", 2),
    ):
        with pytest.raises(GateFailed, match=r"launches of attention with sinks in 1 steps of 3"):
            proof(7, launched, count)


def test_each_token_has_a_row_and_each_pair_both_texts() -> None:
    assert pooling.proof_of_rows([[[1.0]], [[1.0], [2.0]]], [1, 2]) == {"rows": 3}
    with pytest.raises(GateFailed, match=r"\[1\] rows for prompts of \[2\] tokens"):
        pooling.proof_of_rows([[[1.0]]], [2])
    assert pooling.proof_of_both([[1, 2, 3]], [[[1, 2], [3]]]) == {"tokens_of_pairs": 3}
    with pytest.raises(GateFailed, match=r"of a pair has not \[\[4\]\]"):
        pooling.proof_of_both([[1, 2, 3]], [[[1, 2], [4]]])


def test_quantised_products_have_to_be_launched_once_per_layer_and_step() -> None:
    def run(quantising: int, products: int) -> Run:
        launches = {"aclnnDynamicQuantV2": quantising, "aclnnQuantMatmulV4": products}
        return Run([], 1.0, [Step({"a": 4}, 0, 1), Step({"a": 1}, 2, 3)], Work(launches, 0))

    proof = quantised.proof_of_products(run(24, 24), 12, 0, "W8A8_DYNAMIC")
    assert (proof["aclnnDynamicQuant"], proof["aclnnQuantMatmul"]) == (24, 24)
    for quantising, products in ((24, 23), (0, 24)):
        with pytest.raises(GateFailed, match="12 quantised products, not 24"):
            quantised.proof_of_products(run(quantising, products), 12, 0, "W8A8_DYNAMIC")
    with pytest.raises(GateFailed, match="no linear layer"):
        quantised.proof_of_products(run(0, 0), 0, 0, "W8A8_DYNAMIC")
    with pytest.raises(GateFailed, match=r"24 launches of aclnnDynamicQuant\*.*14 quantised"):
        quantised.proof_of_products(run(24, 24), 12, 1, "W8A8_DYNAMIC")
    with pytest.raises(GateFailed, match=r"0 launches of aclnnGroupedMatmul\*"):
        quantised.proof_of_products(run(28, 24), 12, 1, "W8A8_DYNAMIC")


def test_a_quantised_cache_has_to_be_small_written_and_read() -> None:
    """Two layers; a prompt of four tokens, then it and another prompt, then both by one token."""
    steps = [Step({"a": 4}, 0, 1), Step({"a": 1, "b": 3}, 2, 3), Step({"a": 1, "b": 1}, 4, 5)]
    good = {"aclnnQuantize": 12, "aclnnAscendAntiQuant": 8, "aclnnFusedInferAttentionScoreV3": 8}

    def proof(specs: list[CacheSpec], launches: dict[str, int]) -> dict[str, object]:
        return quantised.proof_of_cache(Run([], 1.0, steps, Work(launches, 0)), 2, specs)

    spec = CacheSpec("int8", 100, 200)
    assert proof([spec], good)["attention_launches_over_int8"] == 4
    for wrong in (CacheSpec("float16", 100, 200), CacheSpec("int8", 200, 200)):
        with pytest.raises(GateFailed, match="int8 in half of that"):
            proof([spec, wrong], good)
    for operator in good:
        with pytest.raises(GateFailed, match=r"launches of aclnn.*not "):
            proof([spec], {**good, operator: good[operator] - 1})
    with pytest.raises(GateFailed, match="no step had a request with one new token"):
        quantised.proof_of_cache(Run([], 1.0, steps[:1], Work(good, 0)), 2, [spec])


def test_an_error_beyond_its_bound_is_refused() -> None:
    scored = Scored([7, 8, 9], 1, [-1.0, -2.0], [], [])
    metrics = quantised.within([[-1.1, -2.3]], [scored], "float", 0.2)
    assert metrics["float_difference_mean"][0] == pytest.approx(0.2)
    assert metrics["float_perplexity_ratio"][0] == pytest.approx(math.exp(0.2))
    for found in ([[-1.1, -2.4]], [[-1.0, math.nan]]):
        with pytest.raises(GateFailed, match="from the float model's by"):
            quantised.within(found, [scored], "float", 0.2)
    with pytest.raises(GateFailed, match="1 logprobs"):
        quantised.within([[-1.0]], [scored], "float", 0.2)


def test_tool_calls_have_to_fit_their_schema() -> None:
    good = ("weather", '{"city": "Rome", "days": 2}')
    assert endpoints.proof_of_calls([good]) == [good[1]]
    for calls, words in (
        ([], "no tool call"),
        ([("time", "{}")], "'time'"),
        ([good, ("weather", "null")], "break the schema"),
        ([("weather", '{"city": "Rome"}')], "break the schema"),
        ([("weather", '{"city": "Bonn", "days": 2}')], "break the schema"),
    ):
        with pytest.raises(GateFailed, match=words):
            endpoints.proof_of_calls(calls)


def test_thought_and_answer_have_to_come_apart() -> None:
    thought, answer = " it rains in Rome. ", " yes."
    assert endpoints.proof_of_reasoning(thought, answer, answer)["answer"] == answer
    for told, words in (
        ((None, f"{thought} {answer}", answer), "thought is None"),
        (("Here is " + thought, answer, answer), "thought is"),
        ((thought, thought + answer, answer), "answer is"),
        ((thought, answer, ""), "stream's answer is ''"),
    ):
        with pytest.raises(GateFailed, match=words):
            endpoints.proof_of_reasoning(*told)


def test_refusals_have_to_name_what_is_wrong() -> None:
    words = {"rank": "rank 16"}
    refused = endpoints.proof_of_refusals({"rank": (500, "LoRA rank 16 is too large")}, words)
    assert refused == {"refused": {"rank": 500}}
    for answer, message in (
        ((200, "rank 16"), "answered 200"),
        ((400, "no"), "does not name 'rank 16'"),
    ):
        with pytest.raises(GateFailed, match=message):
            endpoints.proof_of_refusals({"rank": answer}, words)


def test_a_trace_has_to_hold_the_npus_attention() -> None:
    events = [{"name": "aten::attention"}, {"name": "aclnnFusedInferAttentionScoreV3"}]
    assert endpoints.proof_of_trace(events)["attention_events"] == 1
    with pytest.raises(GateFailed, match="among 1 events"):
        endpoints.proof_of_trace([{"name": "aten::Attention"}])


def test_controls_have_to_change_the_choice() -> None:
    row = [(7, -0.1), (5, -1.0), *((token, -9.0) for token in range(100, 114))]
    assert sampling.proof_of_bad_words([row], [5]) == {"bad_words": 1}
    for token, words in ((7, "barred token 7"), (8, "next best is 5")):
        with pytest.raises(GateFailed, match=words):
            sampling.proof_of_bad_words([row], [token])
    assert sampling.proof_of_min_p(row, [7, 5, 100], [7, 5], 0.3, 1.0)["min_p_leaves"] == 2
    for free, narrow, words in (
        ([7, 5], [7], "obey min-p anyway"),
        ([7, 100], [7, 100], r"tokens \[100\] were drawn"),
    ):
        with pytest.raises(GateFailed, match=words):
            sampling.proof_of_min_p(row, free, narrow, 0.3, 1.0)
    assert sampling.proof_of_choice("a bias", [1], [1]) == {"right_with_a_bias": 1}
    with pytest.raises(GateFailed, match=r"with a bias came \[2\], not \[1\]"):
        sampling.proof_of_choice("a bias", [1], [2])
