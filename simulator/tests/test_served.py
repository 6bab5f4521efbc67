"""Every operator and function of torch-npu that serving programs use works here, on some chip.

used_operators.txt lists the names. Operators are noted as the other files' tests call them, which
compare their results; what those do not call is called here.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch_npu
from torch_npu.multiprocessing.reductions import rebuild_npu_tensor

from simulator.tests.tensors import fill
from simulator.tests.test_atb import HEADS, KEY_HEADS, SCALE, SLOTS, WIDTH, attend, causal, near

USED = dict(
    re.split(r"\s+", line.strip(), maxsplit=1)
    for line in (Path(__file__).parent / "used_operators.txt").read_text().splitlines()
    if line and not line.startswith("#")
)

FILES = [
    f"simulator/tests/test_{name}.py"
    for name in (
        "fused",
        "quantisation",
        "moe",
        "latent_attention",
        "attention_forms",
        "atb",
        "attention",
        "graphs",
    )
]

NOT_SERVED = {"npu_matmul_compress_dequant": "how a compressed weight lies is not documented"}


def served(how: str) -> list[str]:
    """The names that are called in a certain way."""
    return [name for name, where in USED.items() if where.split()[0] == how]


def operator(name: str) -> str:
    return name.removeprefix("torch_npu.").removeprefix("torch.ops.npu.")


def recorded(files: list[str], *options: str) -> dict[str, str]:
    """The operators that the tests of ``files`` call, which must pass."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "operators.json"
        command = [sys.executable, "-m", "cannsim", "run", *options, "--", sys.executable]
        tests = ["-m", "pytest", "-q", "-p", "simulator.tests.recorder", "--operators", str(found)]
        done = subprocess.run(
            [
                *command,
                *tests,
                *files,
                "--deselect",
                "simulator/tests/test_quantisation.py::TestMx",
            ],
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout[-3000:]
        names: dict[str, str] = json.loads(found.read_text())
        return names


@functools.cache
def here() -> dict[str, str]:
    return recorded(FILES, "--devices", "2")


def test_every_name_says_where_it_is_called() -> None:
    assert len(USED) > 100
    assert {where.split()[0] for where in USED.values()} <= {"tests", "950", "ranks", "here", "not"}
    assert [operator(name) for name in served("not")] == list(NOT_SERVED)


@pytest.mark.parametrize("name", served("tests"))
def test_an_operator_is_called_and_compared(name: str) -> None:
    known = USED[name].split()[1:] or [operator(name)]
    assert known[0] in here(), f"no test of {', '.join(FILES)} calls {known[0]}"


def test_operators_of_the_950_are_called_and_compared() -> None:
    found = recorded(["simulator/tests/test_mx.py"], "--chip", "Ascend950PR_9589")
    assert [name for name in served("950") if operator(name) not in found] == []


@pytest.mark.parametrize("name", served("ranks"))
def test_operators_over_ranks_are_called_by_their_programs(name: str) -> None:
    program = Path(__file__).parent / "product_programs.py"
    assert f"{name}(" in program.read_text()


@pytest.mark.parametrize("name", served("here"))
def test_the_rest_is_called_in_this_file(name: str) -> None:
    last = name.rsplit(".", 2 if name.endswith(".out") else 1)
    assert ".".join(last[1:]) in Path(__file__).read_text()


@pytest.mark.parametrize("name", NOT_SERVED)
def test_what_is_not_served_says_so(name: str) -> None:
    matrix, row = torch.zeros(4, 4, dtype=torch.int8).npu(), torch.zeros(4).npu()
    with pytest.raises(RuntimeError, match="aclnnMatmulCompressDequant"):
        getattr(torch_npu, name)(matrix, row.char(), row.char(), row.int(), row.long())


# ---- attention that no other file calls ----------------------------------------------------------


class TestAttention:
    lengths = (6, 3)

    def inputs(self) -> list[torch.Tensor]:
        total = sum(self.lengths)
        shapes = [(total, heads, WIDTH) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
        return [fill(shape, torch.float16, "any", seed) for seed, shape in enumerate(shapes)]

    def check(self, out: torch.Tensor, inputs: list[torch.Tensor], masked: bool) -> None:
        pieces = zip(*(x.split(list(self.lengths)) for x in (out.cpu(), *inputs)), strict=True)
        for got, query, key, value in pieces:
            mask = causal(len(query), torch.float32) if masked else None
            near(got, attend(query, key, value, mask))

    def common(self) -> dict[str, object]:
        lengths = torch.tensor(self.lengths, dtype=torch.int32)
        numbers = {"scale_value": SCALE, "num_heads": HEADS, "num_kv_heads": KEY_HEADS}
        return {"seq_len": lengths, **numbers}

    def test_a_later_form_of_packed_sequences(self) -> None:
        inputs = self.inputs()
        out = torch.empty_like(inputs[0]).npu()
        mask = causal(128, torch.float16).npu()  # its pattern, as mask type 3 takes it
        on_device = [x.npu() for x in inputs]
        torch_npu._npu_flash_attention_v3(*on_device, mask=mask, **self.common(), out=out)
        self.check(out, inputs, masked=True)

    def test_a_later_form_without_a_mask(self) -> None:
        inputs = self.inputs()
        out = torch.empty_like(inputs[0]).npu()
        on_device = [x.npu() for x in inputs]
        torch_npu._npu_flash_attention_unpad_v2(*on_device, **self.common(), out=out)
        self.check(out, inputs, masked=False)

    def test_a_later_form_over_pages(self) -> None:
        rows, lengths = [3, 1], [20, 6]
        query = fill((4, HEADS, WIDTH), torch.float16, "any", 3)
        caches = [fill((4, SLOTS, KEY_HEADS, WIDTH), torch.float16, "any", n) for n in (4, 5)]
        table = torch.tensor([[2, 0], [1, 3]], dtype=torch.int32)
        out = torch.empty_like(query).npu()
        torch_npu._npu_paged_attention_splitfuse_v2(
            query=query.npu(),
            key_cache=caches[0].npu(),
            value_cache=caches[1].npu(),
            mask=causal(128, torch.float16).npu(),
            block_table=table.npu(),
            seq_len=torch.tensor(rows, dtype=torch.int32),
            context_lens=torch.tensor(lengths, dtype=torch.int32),
            num_kv_heads=KEY_HEADS,
            num_heads=HEADS,
            scale_value=SCALE,
            out=out,
        )
        first = 0
        for i, (count, length) in enumerate(zip(rows, lengths, strict=True)):
            key, value = (c[table[i].long()].flatten(0, 1)[:length] for c in caches)
            seen = torch.full((count, length), -10000.0).triu(length - count + 1)
            part = slice(first, first + count)
            near(out[part], attend(query[part], key, value, seen))
            first += count

    def test_workspace_of_attention_over_pages(self) -> None:
        cache = torch.zeros(4, SLOTS, KEY_HEADS, WIDTH).half().npu()
        query = torch.zeros(1, HEADS, WIDTH).half().npu()
        made = torch_npu._npu_paged_attention_get_workspace(
            query=query,
            key_cache=cache,
            value_cache=cache,
            num_kv_heads=KEY_HEADS,
            num_heads=HEADS,
            scale_value=SCALE,
            block_table=torch.zeros(1, 2, dtype=torch.int32).npu(),
            context_lens=torch.tensor([3], dtype=torch.int32),
            out=torch.empty_like(query),
        )
        assert made.device.type == "npu"

    def test_the_second_fused_form_into_given_tensors(self) -> None:
        query, key, value = (
            fill((1, heads, rows, WIDTH), torch.float16, "any", seed)
            for seed, (heads, rows) in enumerate([(HEADS, 3), (KEY_HEADS, 5), (KEY_HEADS, 5)])
        )
        numbers = {"num_query_heads": HEADS, "num_key_value_heads": KEY_HEADS}
        named = {**numbers, "softmax_scale": SCALE, "input_layout": "BNSD"}
        given = [x.npu() for x in (query, key, value)]
        space = torch_npu._npu_fused_infer_attention_score_v2_get_max_workspace(*given, **named)
        out, total = torch.empty_like(given[0]), torch.empty(1, device="npu")
        torch_npu.npu_fused_infer_attention_score_v2.out(
            *given, **named, workspace=space, out=[out, total]
        )
        near(out[0].transpose(0, 1), attend(*(x[0].transpose(0, 1) for x in (query, key, value))))


# ---- functions -----------------------------------------------------------------------------------


def _format() -> None:
    torch.npu.config.allow_internal_format = True
    x = torch.randn(32, 32).half().npu()
    blocks = torch_npu.npu_format_cast(x, torch_npu.Format.FRACTAL_NZ)
    assert torch_npu.get_npu_format(blocks) == torch_npu.Format.FRACTAL_NZ == 29
    made = torch_npu.empty_with_format((32, 32), dtype=torch.float16, device="npu", acl_format=29)
    assert torch_npu.get_npu_format(made) == 29
    torch.npu.config.allow_internal_format = False


def _weak_reference() -> None:
    x = torch.arange(4.0).npu()
    alias = torch_npu._C._weak_ref_tensor(x)
    assert alias.data_ptr() == x.data_ptr()
    assert alias.tolist() == [0, 1, 2, 3]


def _streams() -> None:
    stream = torch_npu.npu.Stream()
    with torch_npu.npu.stream(stream):
        assert torch_npu.npu.current_stream() == stream
    torch_npu.npu.synchronize()
    assert torch_npu.npu.current_device() == torch.npu.current_device()


def _host_function() -> None:
    stream, seen = torch_npu.npu.current_stream(), []
    torch_npu.npu._subscribe_report(stream)
    torch_npu.npu._launch_host_func(stream, seen.append, 7)
    torch_npu.npu.synchronize()
    torch_npu.npu._unsubscribe_report(stream)
    assert seen == [7]


def _versions() -> None:
    assert torch_npu.npu.get_soc_version() > 0
    assert torch_npu.__version__
    assert torch_npu.__file__
    torch_npu.npu.set_compile_mode(jit_compile=False)


def _types() -> None:
    for name in ("float8_e8m0fnu", "float4_e2m1fn_x2", "hifloat8"):
        assert hasattr(torch_npu, name)
    assert torch_npu._C._NPUTaskGroupHandle
    assert callable(rebuild_npu_tensor)
    group = torch_npu._C._distributed_c10d.ProcessGroupHCCL
    assert group.Options().hccl_config == {}


def _profiler() -> None:
    profiler = torch_npu.profiler
    config = profiler._ExperimentalConfig(
        export_type=profiler.ExportType.Text,
        profiler_level=profiler.ProfilerLevel.Level1,
        aic_metrics=profiler.AiCMetrics.PipeUtilization,
    )
    with tempfile.TemporaryDirectory() as folder:
        handler = profiler.tensorboard_trace_handler(folder)
        kinds = [profiler.ProfilerActivity.CPU, profiler.ProfilerActivity.NPU]
        with profiler.profile(
            activities=kinds, experimental_config=config, on_trace_ready=handler
        ) as watched:
            torch.ones(4).npu().add_(1)
            watched.step()
        assert list(Path(folder).rglob("kernel_details.csv"))
    profiler.dynamic_profile.step()  # of a profile that nobody asked for: nothing


def _libraries() -> None:
    torch_npu.op_plugin.atb._atb_ops._register_atb_extensions()


@pytest.mark.parametrize(
    "call",
    [
        _format,
        _weak_reference,
        _streams,
        _host_function,
        _versions,
        _types,
        _profiler,
        _libraries,
    ],
    ids=lambda call: call.__name__.strip("_"),
)
def test_a_function_is_called(call: Callable[[], None]) -> None:
    call()
