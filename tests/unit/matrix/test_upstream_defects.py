"""Each class of defect that was found in vllm-ascend's hand-typed tables is impossible here.

The classes are those of its documentation at commit 182b75e of 2026-08-22: three tables of Markdown
and the page of versions. A test breaks the data, or leaves evidence out, as somebody once did by
hand, and asserts that it is refused, or that the table says so.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

import matrix
from matrix.errors import DuplicateName, InvalidData, UnknownReference
from reports import Store, upstream
from reports.support import Support, derive
from tests.unit.matrix.conftest import Data
from tests.unit.reports.conftest import NOW, record

ROOT = Path(matrix.__file__).parents[1]
QWEN3 = ("base", "chunked-prefill", "lora", "async-scheduling", "prefix-caching", "logprobs")


def support_of(folder: Path, now: datetime = NOW, cells: tuple[str, ...] = ()) -> Support:
    store = Store(f"sqlite:///{folder}/records.sqlite")
    for cell in cells:
        store.add(record(cell))
    return derive(matrix.load(), store, now)


@pytest.fixture(scope="module")
def nothing_ran(tmp_path_factory: pytest.TempPathFactory) -> Support:
    return support_of(tmp_path_factory.mktemp("empty"))


@pytest.fixture(scope="module")
def qwen3_ran(tmp_path_factory: pytest.TempPathFactory) -> Support:
    places = ("cann-9.1.0/a2", "cann-9.1.0/a3")
    cells = tuple(f"qwen3/{feature}/{place}" for feature in QWEN3 for place in places)
    return support_of(tmp_path_factory.mktemp("qwen3"), cells=cells)


def rows(markdown: str) -> list[list[str]]:
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def row(markdown: str, label: str, after: str = "") -> list[str]:
    return next(r for r in rows(markdown[markdown.index(after) :]) if r[0] == label)


def test_empty_cells_that_mean_nothing(nothing_ran: Support) -> None:
    found = rows(upstream.render(nothing_ran))
    assert len(found) > 180
    # A note is empty where nothing has to be said; every other cell says something.
    assert all(cell for r in found for i, cell in enumerate(r) if i != 2)


def test_a_row_with_fewer_cells_than_its_header() -> None:
    with pytest.raises(ValueError, match="3 cells"):
        upstream.table(["Model", "Support", "Note"], [["Qwen3", "✅"]])


def test_no_versions_no_date_and_no_evidence(qwen3_ran: Support) -> None:
    text, release = upstream.render(qwen3_ran), qwen3_ran.matrix.release
    for told in (release.vllm, release.stable_cann, release.torch_npu, f"{NOW:%Y-%m-%d}"):
        assert told in text.splitlines()[2]
    assert row(text, "Qwen3-based")[-1] == "2026-11-21"
    assert row(text, "Aria")[-1] == "never"
    assert "Nothing here has run on a real NPU" in text


def test_quantised_weights_without_a_scheme(data: Data) -> None:
    data.replace("families/qwen.yaml", "scheme: W8A8_DYNAMIC, ", "")
    assert "scheme: this key is missing" in str(data.error())


def test_footnotes_that_point_elsewhere(nothing_ran: Support) -> None:
    text = upstream.render(nothing_ran)
    for section in text.split("\n## ")[1:]:
        marks = {int(mark) for mark in re.findall(r"\[(\d+)\]", section)}
        notes = {int(number) for number in re.findall(r"^(\d+)\. ", section, re.MULTILINE)}
        assert marks == notes
    reason = next(r.reason for r in nothing_ran.matrix.rules if r.name == "left-vllm-0.23")
    mark = row(text, "Baichuan")[2].strip("[]")
    tail = text[text.index("| Baichuan |") :]
    assert re.search(rf"^{mark}\. (.*)$", tail, re.MULTILINE)[1] == reason  # type: ignore[index]


def test_a_column_of_a_feature_that_was_removed(data: Data) -> None:
    text = (data.root / "features" / "later.yaml").read_text()
    assert "- name: weight-nz" in text
    data.replace("features/later.yaml", "- name: weight-nz", "- name: weight-prefetch")
    data.replace("rules/later.yaml", "feature: [weight-nz]", "feature: [weight-prefetch]")
    error = data.error()
    assert isinstance(error, UnknownReference)
    assert "'weight-nz'" in str(error)


def test_pages_that_contradict_each_other(qwen3_ran: Support) -> None:
    text = upstream.render(qwen3_ran)
    lora = row(text, "LoRA", "# Supported Features")[1]
    header = next(r for r in rows(text) if r[0] == "Model")
    in_models = {r[header.index("LoRA")] for r in rows(text) if len(r) == len(header)}
    assert lora != "🟡 Planned"
    assert "🔵" in in_models


def test_models_that_are_served_without_a_row() -> None:
    loaded = matrix.load()
    listed = {c.name for family in loaded.families.values() for c in family.checkpoints}
    assert {
        "internvl3.5-8b",
        "gpt-oss-120b",
        "mixtral-8x7b",
        "minitron-8b",
        "hunyuan-a13b",
    } <= listed
    assert "llava-onevision-0.5b" in listed
    represented = {r for m in loaded.models.values() if m.stand_in for r in (m.name,)}
    shown = {f.stand_in for f in loaded.families.values()}
    shown |= {c.stand_in for f in loaded.families.values() for c in f.checkpoints}
    unquantised = {n for n in represented if not loaded.models[n].quantised}
    decoders = {"qwen3-5"}  # of released models that read images, for which they do not speak
    assert unquantised - decoders <= shown, unquantised - decoders - shown


def test_every_row_of_theirs_is_there() -> None:
    tables = matrix.load().upstream.tables
    assert sum(len(table.rows) for table in tables) == 99
    assert len(tables) == 10


def test_a_claim_that_no_test_makes(nothing_ran: Support) -> None:
    text = upstream.render(nothing_ran)
    body = "\n".join(line for line in text.splitlines() if line.startswith("| "))
    assert not set("✅🔵🟢") & set(body)


def test_a_stand_in_is_never_the_model(qwen3_ran: Support) -> None:
    found = row(upstream.render(qwen3_ran), "Qwen3-based")
    assert found[1] == "🔵"
    assert "✅" not in found


def test_pairs_of_features_that_nobody_ran(nothing_ran: Support) -> None:
    text = upstream.triangle(nothing_ran)
    assert "✅" not in text.split("\n\n", 1)[1]
    assert "❔" in text


def test_latest_information_that_is_old(tmp_path: Path) -> None:
    cells = ("qwen3/base/cann-9.1.0/a2", "qwen3/base/cann-9.1.0/a3")
    late = support_of(tmp_path, NOW + timedelta(days=60), cells)
    assert row(upstream.render(late), "Qwen3-based")[1] == "🟡"
    assert late.statuses[cells[0]].state == "stale"


def test_the_same_table_typed_in_several_places() -> None:
    pages = [*ROOT.glob("docs/**/*.md"), ROOT / "README.md", ROOT / "README.zh.md"]
    symbols = re.compile(r"^\|.*[✅🔵🟡❌✔✘◷]", re.MULTILINE)
    for page in pages:
        if "build" not in page.parts:
            assert not symbols.search(page.read_text()), f"{page}: a table of statuses is typed"


def test_rows_of_releases_with_other_columns(nothing_ran: Support, data: Data) -> None:
    assert {len(r) for r in rows(upstream.releases(nothing_ran))} == {7}
    data.replace("releases.yaml", '    stable_cann: "9.1.0"\n', "")
    assert "stable_cann: this key is missing" in str(data.error())


def test_pins_that_moved_while_the_row_did_not() -> None:
    release = matrix.load().release
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    assert (release.vllm, release.torch, release.torch_npu) == (
        pins["vllm"],
        pins["torch"],
        pins["torch-npu"],
    )
    assert release.plugin == (ROOT / "VERSION").read_text().strip()
    assert f'requires-python = "{release.python}"' in (ROOT / "plugin/pyproject.toml").read_text()


def test_a_branch_that_is_maintained_for_ever(data: Data) -> None:
    path = data.root / "branches.yaml"
    old = "  - name: releases/v0.0.1\n    publisher: project\n    state: maintained\n"
    path.write_text(
        path.read_text() + old + '    vllm: ["0.30.0"]\n    source: Made up for a test.\n'
    )
    matrix.load(data.root)
    text = (data.root / "releases.yaml").read_text()
    entries = yaml.safe_load(text)["releases"]
    for minor in (2, 3, 4):
        entries.append(
            {**entries[0], "name": f"0.{minor}.0", "plugin": f"0.{minor}.0", "status": "past"}
        )
    (data.root / "releases.yaml").write_text(yaml.safe_dump({"releases": entries}))
    error = data.error()
    assert isinstance(error, InvalidData)
    assert "said to be maintained, and 3 newer minors were released" in str(error)


def test_releases_of_branches_that_nobody_lists(data: Data) -> None:
    data.replace("releases.yaml", "branch: main", "branch: releases/v0.1.0")
    error = data.error()
    assert isinstance(error, UnknownReference)
    assert "branch" in str(error)


def test_a_branch_with_a_name_of_its_own(data: Data) -> None:
    data.replace("branches.yaml", "- name: main\n", "- name: v0.1.0-dev\n")
    data.replace("releases.yaml", "branch: main\n", "branch: v0.1.0-dev\n")
    assert "'v0.1.0-dev' is no name for a branch" in str(data.error())


def test_a_version_that_is_typed_where_it_is_used(data: Data) -> None:
    from matrix.resolving import resolve

    before = resolve(matrix.load(), "qwen3-8b", "a2")
    data.replace("releases.yaml", 'vllm: "0.32.0"', 'vllm: "0.32.1"')
    after = resolve(matrix.load(data.root), "qwen3-8b", "a2")
    assert any("vllm==0.32.0" in command for command in before.install)
    assert all("0.32.0" not in command for command in after.install)


def test_a_mistyped_key_that_is_ignored(data: Data) -> None:
    data.replace("benchmarks.yaml", "items: 1319", "itmes: 1319")
    assert "Did you mean 'items'?" in str(data.error())


def test_hardware_in_free_text(data: Data) -> None:
    data.replace("upstream.yaml", "hardware: [a2, a3]", "hardware: [A2/A3]")
    assert "hardware" in str(data.error())


def test_one_model_in_two_rows_under_two_spellings(data: Data) -> None:
    data.replace("families/gemma.yaml", "name: gemma-2-9b,", "name: gemma2-2b,")
    error = data.error()
    assert isinstance(error, DuplicateName)
    assert "but for case, dots and dashes" in str(error)


def test_a_failure_that_is_forgiven_for_ever(data: Data) -> None:
    entry = (
        "expected:\n  - name: known\n    cells: [qwen3/base/cann-9.1.0/a2]\n"
        "    reason: It is being worked on.\n    issue: https://example.org/1\n"
        "    owner: somebody\n    expires: 2026-01-01\n"
    )
    data.replace("expected.yaml", "expected: []\n", entry)
    with pytest.raises(InvalidData, match="expired on 2026-01-01"):
        matrix.load(data.root, datetime.now(UTC).date())
