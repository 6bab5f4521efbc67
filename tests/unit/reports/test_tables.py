"""Tables show every cell with its state in words, its evidence and its date."""

from __future__ import annotations

import re

import matrix
from reports import Store, Support, derive, markdown
from reports.support import as_json
from tests.unit.reports.conftest import NOW, record, versions

MATRIX = matrix.load()
TABLES = len(MATRIX.cann) * len(MATRIX.hardware)


def support(store: Store) -> Support:
    return derive(MATRIX, store, NOW)


def row(text: str, cann: str, model: str) -> list[str]:
    """Return the cells of one row of one table."""
    table = text.split(f"CANN {cann}\n")[1].split("###")[0]
    line = next(line for line in table.splitlines() if line.startswith(f"| {model} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_empty_store_renders_never_run(store: Store) -> None:
    text = markdown.render(support(store))
    assert row(text, "9.1.0", "Qwen3 (stand-in)")[1] == "○ never run"
    assert "Evidence: **none yet (runs at hand are simulated)**" in text
    assert "✔ passed 20" not in text


def test_one_table_per_cann_version_and_hardware(store: Store) -> None:
    text = markdown.render(support(store))
    headings = re.findall(r"^### (.*)$", text, re.MULTILINE)
    assert len(set(headings)) == len(headings) == TABLES
    assert headings[0] == "Atlas A2 (Ascend910B1), CANN 9.1.0"
    assert "Atlas A2 (Ascend910B1), CANN 8.5.0" in headings


def test_states_stand_in_their_cells(store: Store) -> None:
    store.add(record("qwen3/base/cann-9.1.0/a2"))
    store.add(record("qwen3/logprobs/cann-9.1.0/a2", verdict="failed"))
    store.add(record("qwen3/base/cann-8.5.0/a2", started="2026-09-01T00:00:00Z"))
    text = markdown.render(support(store))
    newest = dict(zip(MATRIX.features, row(text, "9.1.0", "Qwen3 (stand-in)")[1:], strict=True))
    assert newest["base"] == "✔ passed 2026-11-21"
    assert newest["logprobs"] == "✘ failed 2026-11-21"
    note = re.fullmatch(r"– n/a \[(\d+)\]", newest["embedding"])
    assert note is not None
    assert newest["beam-search"] == "○ never run"
    assert row(text, "8.5.0", "Qwen3 (stand-in)")[1] == "◷ stale (passed) 2026-09-01"
    assert f"- [{note[1]}] The model is served with the generation runner" in text


def test_evidence_is_named_everywhere(store: Store) -> None:
    store.add(record())
    text = markdown.render(support(store))
    assert "Nothing here has run on a real NPU" in text
    assert "Evidence: **simulated (no real NPU)**" in text
    assert text.count("Evidence: **") == TABLES


def test_mixed_evidence_is_told_apart_cell_by_cell(store: Store) -> None:
    store.add(record())
    kept = versions(cannsim=None)
    store.add(record("llama/base/cann-9.1.0/a2", evidence="hardware", versions=kept))
    text = markdown.render(support(store))
    assert row(text, "9.1.0", "Qwen3 (stand-in)")[1] == "✔ passed 2026-11-21 (simulated)"
    assert row(text, "9.1.0", "Llama 3 (stand-in)")[1] == "✔ passed 2026-11-21 (hardware)"
    assert "Nothing here has run on a real NPU" not in text


def test_legend_explains_every_state(store: Store) -> None:
    text = markdown.render(support(store))
    for state in ("passed", "failed", "error", "inconclusive", "stale", "never run"):
        assert re.search(rf"^- \S {state}: ", text, re.MULTILINE), state


def test_json_has_every_cell_and_its_record(store: Store) -> None:
    one = record()
    store.add(one)
    document = as_json(support(store))
    cells = {cell["id"]: cell for cell in document["cells"]}
    assert len(cells) == len(matrix.everything(MATRIX))
    assert cells[one.cell]["record"] == one.document()
    assert cells[one.cell]["evidence"] == "simulated"
    assert document["summary"]["passed"] == 1
    assert sum(document["summary"].values()) == len(cells)


def test_real_models_come_before_stand_ins(store: Store) -> None:
    forms = [model.stand_in for model, _ in support(store).tables[0].rows]
    assert forms == sorted(forms)
    assert False in forms
    assert True in forms
