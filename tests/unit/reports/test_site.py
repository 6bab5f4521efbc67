"""The site says where evidence comes from, opens from disk, and shows records as they are."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import matrix
from reports import SiteError, Store, Support, derive, site
from reports.site import badges, details, history, index, pages, serving, text
from reports.statuses import KINDS, MEANINGS
from tests.unit.reports.conftest import CELL, NOW, record

HOSTILE = "`````\n</pre></script><script>alert(1)</script> *x* {raw} | $y$ \x1b[31m\u202e\x00"
LOGPROBS = "qwen3/logprobs/cann-9.1.0/a2"
PAIR = "qwen3/async-scheduling+bfloat16/cann-9.1.0/a2"

SCORE = {
    "hellaswag/score": {"value": 0.37, "unit": "share"},
    "hellaswag/low": {"value": 0.282, "unit": "share"},
    "hellaswag/high": {"value": 0.468, "unit": "share"},
    "hellaswag/items": {"value": 100, "unit": "items"},
}


MODELS = ("smollm2-135m", "qwen3", "llama", "mistral", "qwen3-embedding", "whisper")


def some() -> matrix.Matrix:
    """Return the matrix with a few of its models, so that sites are built in no time."""
    whole = matrix.load()
    pairs = {whole.combinations.model, *whole.combinations.models.values()}
    models = {n: m for n, m in whole.models.items() if n in {*MODELS, *pairs}}
    families = {name: whole.families[name] for name in ("qwen3-dense", "llama3", "mistral")}
    return replace(whole, models=models, families=families)


def filled(folder: Path) -> Support:
    """Return statuses of a store with runs of every kind, and one whose log tries to break out."""
    store = Store(f"sqlite:///{folder}/records.sqlite")
    store.add(record(proof={"attention_launches": 480, "commands": ["vllm serve 'a b' --seed=0"]}))
    error = {"class": "GateFailed", "message": HOSTILE, "log_tail": "x" * 20_000 + HOSTILE}
    store.add(record("llama/base/cann-9.1.0/a2", verdict="failed", error=error))
    store.add(record(LOGPROBS))
    for day, verdict in (("19", "failed"), ("20", "passed")):
        store.add(
            record(
                LOGPROBS,
                kind="accuracy",
                verdict=verdict,
                started=f"2026-11-{day}T10:00:00Z",
                metrics=SCORE,
                run_url="https://ci.example/runs/7",
            )
        )
    store.add(record(LOGPROBS, kind="perf", verdict="inconclusive"))
    store.add(record(PAIR))
    store.add(record("nobody/<script>/cann-9.1.0/a2"))
    return derive(some(), store, NOW)


@pytest.fixture(scope="module")
def support(tmp_path_factory: pytest.TempPathFactory) -> Support:
    return filled(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def built(support: Support, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build once, with the prose."""
    return site.write(support, tmp_path_factory.mktemp("site") / "site")


def data_of(page: Path, name: str = "am-data") -> Any:
    """Return the JSON that stands in a page."""
    found = re.search(
        rf'<script type="application/json" id="{name}">(.*?)</script>', page.read_text()
    )
    assert found is not None
    return json.loads(found[1])


def cells_of(built: Path, model: str) -> dict[str, Any]:
    return json.loads((built / "cells" / f"{model}.json").read_text())["cells"]


# ------------------------------------------------------------------------------------- the document


def test_page_and_stable_address_hold_the_same_data(built: Path) -> None:
    assert data_of(built / "matrix.html") == json.loads((built / "matrix.json").read_text())


def test_every_cell_has_its_letter(support: Support, built: Path) -> None:
    document = json.loads((built / "matrix.json").read_text())
    models = [one["name"] for one in document["models"]]
    features = [one["name"] for one in document["features"]]
    pairs = 0
    for cell_id, status in support.statuses.items():
        model, feature, cann, hardware = cell_id.split("/")
        if "+" in feature:
            pairs += 1
            continue
        states = document["slices"][f"{hardware}/{cann.removeprefix('cann-')}"]["e2e"]["states"]
        place = models.index(model) * len(features) + features.index(feature)
        assert states[place] == index.letter(status), cell_id
    assert len(document["pairs"]) == pairs > 0


def test_pairs_name_their_cells(support: Support) -> None:
    document = index.document(support)
    for first, second, model, hardware, cann, letters, age, real in document["pairs"]:
        names = sorted(document["features"][place]["name"] for place in (first, second))
        cell = f"{document['models'][model]['name']}/{'+'.join(names)}/cann-{cann}/{hardware}"
        assert letters[0] == index.letter(support.statuses[cell])
        assert (age, real) == ((0, 0) if cell == PAIR else (None, 0))


def test_ages_follow_the_cells_with_records(support: Support) -> None:
    slices = index.document(support)["slices"]["a2/9.1.0"]
    assert slices["e2e"]["ages"] == "00" * 3
    assert slices["accuracy"]["ages"] == "01"
    assert "hardware" not in slices["e2e"]


def test_counts_agree_with_the_cells(support: Support) -> None:
    for kind in KINDS:
        counts = support.numbers(kind)
        assert counts["cells"] == len(support.cells)
        states = {name: n for name, n in counts.items() if name not in ("cells", "supported")}
        assert sum(states.values()) == counts["cells"]
        assert counts["supported"] == sum(c.unsupported is None for c in support.cells.values())
    assert support.numbers("e2e")["passed"] == 3
    assert support.numbers("e2e")["failed"] == 1


def test_stale_cells_keep_the_verdict_that_they_had(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/records.sqlite")
    store.add(record(started="2026-09-01T00:00:00Z"))
    support = derive(some(), store, NOW)
    assert index.letter(support.statuses[CELL]) == "P"


def test_records_of_unknown_cells_are_told(built: Path) -> None:
    unknown = json.loads((built / "matrix.json").read_text())["unknown"]
    assert [one["cell"] for one in unknown] == ["nobody/<script>/cann-9.1.0/a2"]
    page = (built / "matrix.html").read_text()
    assert "<code>nobody/&lt;script&gt;/cann-9.1.0/a2</code>" in page


# -------------------------------------------------------------------------------------- the details


def test_every_cell_opens(support: Support) -> None:
    found = details.by_model(support)
    for cell_id, cell in support.cells.items():
        entry = found[cell.model.name]["cells"][cell_id.partition("/")[2]]
        if cell.unsupported is not None:
            reason = found[cell.model.name]["reasons"][entry]
            assert (reason["rule"], reason["reason"]) == (
                cell.unsupported.name,
                cell.unsupported.reason,
            )
        else:
            assert isinstance(entry, dict)


def test_details_say_what_a_record_says(built: Path) -> None:
    found = cells_of(built, "qwen3")["base/cann-9.1.0/a2"]["e2e"]
    shown = found["record"]
    assert (found["state"], shown["evidence"], shown["seconds"]) == ("passed", "simulated", 7.5)
    assert shown["proof"]["attention_launches"] == 480
    assert shown["metrics"] == [["equal tokens", "128 tokens", ""]]
    assert shown["versions"]["vllm"] == "0.32.0+empty"
    assert shown["timings"]["engine_start"] == 3.0


def test_runs_are_told_newest_first_with_their_intervals(built: Path) -> None:
    found = cells_of(built, "qwen3")["logprobs/cann-9.1.0/a2"]["accuracy"]
    assert found["record"]["metrics"][0] == ["hellaswag", "37.0 %", "28.2 % to 46.8 %"]
    assert [run[:2] for run in found["runs"]] == [
        ["2026-11-20T10:00", "passed"],
        ["2026-11-19T10:00", "failed"],
    ]
    assert found["runs"][0][5] == "https://ci.example/runs/7"
    assert found["runs"][0][7] == ["hellaswag", 0.37, 0.282, 0.468, "37.0 %"]


def test_clocks_that_are_ahead_are_told(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/records.sqlite")
    store.add(record(started="2999-01-01T00:00:00Z"))
    store.add(record(LOGPROBS, started="2999-01-01T00:00:00Z"))
    store.add(record(LOGPROBS, verdict="failed"))
    support = derive(some(), store, NOW)
    found = details.by_model(support)["qwen3"]["cells"]
    alone = found["base/cann-9.1.0/a2"]["e2e"]
    assert (alone["state"], alone["all_runs"]) == ("never-run", 1)
    assert "the clock of the runner was ahead" in alone["reason"]
    assert found["logprobs/cann-9.1.0/a2"]["e2e"]["state"] == "failed"
    assert list(history.document(support)["kinds"]["e2e"]) == [LOGPROBS]


def test_long_histories_are_cut_and_say_so(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/records.sqlite")
    for minute in range(59):
        store.add(record(started=f"2026-11-20T10:{minute:02}:00Z"))
        store.add(record(started=f"2026-11-20T11:{minute:02}:00Z"))
    found = details.by_model(derive(some(), store, NOW))["qwen3"]["cells"]
    entry = found["base/cann-9.1.0/a2"]["e2e"]
    assert (len(entry["runs"]), entry["all_runs"]) == (details.RUNS, 118)
    assert entry["runs"][0][0] == "2026-11-20T11:58"


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "https://[", "//x"])
def test_addresses_that_run_code_are_no_links(url: str) -> None:
    # A record refuses such an address; one that was stored by another program may have it.
    stored = record().model_copy(update={"run_url": url})
    assert details.of_record(stored)["url"] is None


# -------------------------------------------------------------------------------------- the history


def test_history_has_the_last_verdict_of_each_day(support: Support) -> None:
    document = history.document(support)
    day = (NOW - history.EPOCH).days
    assert document["kinds"]["accuracy"][LOGPROBS] == (
        index.base36(day - 2, 3) + "f00" + index.base36(day - 1, 3) + "p00"
    )
    assert document["versions"] == ["plugin 0.1.0, vllm 0.32.0+empty, torch-npu 2.13.0"]
    assert not any(cell.startswith("nobody") for cell in document["kinds"]["e2e"])


# ------------------------------------------------------------------------------------- hostile data


def test_hostile_text_is_shown_and_cut(built: Path) -> None:
    found = cells_of(built, "llama")["base/cann-9.1.0/a2"]["e2e"]["record"]["error"]
    assert "</script><script>alert(1)</script>" in found["message"]
    assert not set("\x1b\u202e\x00") & set(found["message"] + found["log"])
    assert found["log"].startswith("(14,")
    assert "characters before this were cut" in found["log"]
    assert len(found["log"]) < 6_200


def test_hostile_titles_stay_text(support: Support, tmp_path: Path) -> None:
    models = dict(support.matrix.models)
    models["qwen3"] = models["qwen3"].model_copy(
        update={"title": HOSTILE, "description": HOSTILE, "represents": (HOSTILE,)}
    )
    changed = replace(support, matrix=replace(support.matrix, models=models))
    built = site.write(changed, tmp_path / "site", prose=False)
    for page in built.rglob("*.html"):
        assert "<script>alert(1)" not in page.read_text(), page
        assert "\x1b" not in page.read_text(), page
        assert "\u202e" not in page.read_text(), page
    assert data_of(built / "matrix.html")["models"]
    assert "<script>" not in (built / "badges" / "model-qwen3.svg").read_text()


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("plain", "plain"),
        ("two\nlines\tand", "two\nlines\tand"),
        ("\x1b[0m\x7f", "␛[0m␡"),
        ("a\u202eb\u200f", "a<U+202E>b<U+200F>"),
        ("lone \ud800", "lone <U+D800>"),
        ("中文 ✔", "中文 ✔"),
        ("a\u2028b", "a b"),
    ],
)
def test_controls_become_visible(given: str, shown: str) -> None:
    assert text.clean(given) == shown
    text.clean(given).encode()  # every page can be written


def test_values_are_bounded_in_every_direction() -> None:
    deep: Any = "end"
    for _ in range(50):
        deep = {"x": deep}
    assert len(json.dumps(text.value(deep, 10))) < 100
    assert text.value(list(range(20)), 10)[-1] == "… (10 more entries)"
    assert text.value("x" * 30, 10) == "x" * 10 + " … (20 more characters were cut)"


# ---------------------------------------------------------------------------------------- the pages


def test_nothing_is_loaded_from_other_hosts(built: Path) -> None:
    loads = re.compile(
        r"<(?:link|script|img|iframe|source)\b[^>]*(?:https?:)?//[^>]*>", re.IGNORECASE
    )
    for page in built.rglob("*.html"):
        assert not loads.findall(page.read_text()), page
    for sheet in built.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)[^;)]*(?:https?:)?//[^;)]*", sheet.read_text()), (
            sheet
        )
    for script in (built / "_static" / "matrix.js", built / "_static" / "site.js"):
        assert not re.findall(r"fetch\(|XMLHttpRequest|innerHTML|eval\(", script.read_text())


def test_links_between_pages_lead_somewhere(built: Path) -> None:
    missing = set()
    for page in (*built.glob("*.html"), *built.glob("models/*"), *built.glob("f*/*.html")):
        for link in re.findall(r'(?:href|src)="([^"#:]+)(?:#[^"]*)?"', page.read_text()):
            target = page.parent / html.unescape(link).split("?")[0]
            if not target.resolve().exists():
                missing.add((page.name, link))
    assert not missing


def test_squares_lead_to_their_cells(support: Support, built: Path) -> None:
    links = set(re.findall(r'matrix\.html#([^"]+)"', (built / "models" / "qwen3.html").read_text()))
    wanted = {c for c, s in support.statuses.items() if s.state != "unsupported"}
    assert links == {c for c in wanted if c.startswith("qwen3/") and "+" not in c}


def test_every_page_says_that_evidence_is_simulated(built: Path) -> None:
    for page in (built / "matrix.html", built / "models/qwen3.html", built / "features/base.html"):
        seen = page.read_text().split('id="am-strings"')[0]
        assert "Nothing here has run on a real NPU" in seen, page
    assert "Nothing here has run on a real NPU" in (built / "support.html").read_text()


def test_the_prose_lists_what_the_plugin_puts_in_vllms_place(built: Path) -> None:
    told = (built / "plugin.html").read_text()
    size = r"has ([\d,]+) lines of Python in \d+ modules, (\d+) registered overrides and (\d+) "
    lines, overrides, replaced = re.search(size, told).groups()
    assert int(lines.replace(",", "")) > 5000
    rows = re.findall(r"<tr class=\"row-\w+\"><td>.*?</tr>", told, re.DOTALL)
    assert len(rows) == int(overrides) + int(replaced)
    for target in ("fused_add_rms_norm", "torch.cuda.Stream"):
        assert any(target in re.sub(r"<[^>]*>", "", row) for row in rows), target


def test_front_has_the_counts(support: Support, built: Path) -> None:
    front = " ".join(re.sub(r"<[^>]*>", " ", (built / "index.html").read_text()).split())
    kinds = [support.numbers(kind) for kind in KINDS]
    for words, name in (("exist", "cells"), ("are supported", "supported"), ("✔ passed", "passed")):
        assert " ".join([words, *(str(counts[name]) for counts in kinds)]) in front


def test_hardware_evidence_changes_what_pages_say(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/records.sqlite")
    real = {**record().document()["versions"], "cannsim": None}
    store.add(record(evidence="hardware", versions=real))
    built = site.write(derive(some(), store, NOW), tmp_path / "site", prose=False)
    page = (built / "models/qwen3.html").read_text().split('id="am-strings"')[0]
    assert "Some results are from real NPUs" in page
    assert "Nothing here has run on a real NPU" not in page
    assert 'am-c am-passed am-hardware"' in (built / "models/qwen3.html").read_text()
    assert data_of(built / "matrix.html")["slices"]["a2/9.1.0"]["e2e"]["hardware"]


# ----------------------------------------------------------------------------- how to serve, badges


def test_tutorial_has_the_command_that_ran(support: Support, built: Path) -> None:
    page = html.unescape((built / "models" / "qwen3.html").read_text())
    assert "vllm serve Qwen/Qwen3-0.6B" in page
    assert "vllm serve 'a b' --seed=0" in page
    assert "pip install vllm-ascend==" in page


def test_families_say_cards_commands_and_what_ran(support: Support, built: Path) -> None:
    ran = []
    for name, family in support.matrix.families.items():
        page = html.unescape((built / "families" / f"{name}.html").read_text())
        assert "No real NPU has run them" in page
        assert f"vllm serve {family.checkpoints[0].repo}" in page
        assert "/v1/" in page
        ran += [name] if "vllm serve 'a b' --seed=0" in page else []
    assert ran == [n for n, f in support.matrix.families.items() if f.stand_in == "qwen3"]
    assert ran


def test_flags_are_those_of_vllm_serve() -> None:
    engine = {
        "enable_lora": True,
        "async_scheduling": False,
        "max_loras": 2,
        "speculative_config": {"a": "b c"},
    }
    assert serving.flags(engine) == (
        "--enable-lora --no-async-scheduling --max-loras 2 "
        """--speculative-config '{"a": "b c"}'"""
    )


def test_badges_tell_evidence_and_failures(support: Support) -> None:
    found = badges.badges(support)
    assert "cells passed (simulated)" in found["model-qwen3.svg"]
    assert "#a91d2b" in found["model-llama.svg"]
    assert ": never run" in found["model-mistral.svg"]
    assert set(found) == {
        "support.svg",
        *(f"model-{name}.svg" for name in support.matrix.models),
        *(f"feature-{name}.svg" for name in support.matrix.features),
    }


# ------------------------------------------------------------------------------------------ strings


def test_both_languages_say_everything() -> None:
    english, chinese = pages.strings()["en"], pages.strings()["zh"]
    assert set(english) == set(chinese)
    for key, words in english.items():
        assert set(re.findall(r"\{\w+\}", words)) == set(re.findall(r"\{\w+\}", chinese[key])), key


def test_scripts_ask_only_for_strings_that_exist(built: Path) -> None:
    known = set(pages.strings()["en"])
    scripts = "".join(path.read_text() for path in site.STATIC.glob("*.js"))
    asked = set(re.findall(r'\bt\("([\w/-]+)"[,)]', scripts))
    assert asked
    assert asked <= known
    for prefix in re.findall(r'\bt\("(\w+_)" \+', scripts):
        assert any(key.startswith(prefix) for key in known), prefix
    for page in built.rglob("*.html"):
        assert set(re.findall(r'data-t(?:-label)?="([^"]+)"', page.read_text())) <= known, page


def test_meanings_of_states_are_the_same_everywhere() -> None:
    english = pages.strings()["en"]
    for state, meaning in MEANINGS.items():
        assert english[f"meaning_{state}"] in meaning


# --------------------------------------------------------------------------------------- the folder


def test_other_folders_are_not_removed(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SiteError, match="something else than a site"):
        site.write(derive(some(), Store(f"sqlite:///{tmp_path}/none.sqlite"), NOW), tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_empty_store_shows_never_run(tmp_path: Path) -> None:
    out = tmp_path / "site"
    support = derive(some(), Store(f"sqlite:///{tmp_path}/none.sqlite"), NOW)
    for _ in range(2):  # a site replaces the one before
        site.write(support, out, prose=False)
    counts = json.loads((out / "matrix.json").read_text())["counts"]["e2e"]
    assert counts["never-run"] == counts["supported"] > 0
    assert cells_of(out, "qwen3")["base/cann-9.1.0/a2"] == {}
