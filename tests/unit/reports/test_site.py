"""The site says where evidence comes from, opens from disk, and shows records as they are."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

import matrix
from reports import SiteError, Store, derive, site
from tests.unit.reports.conftest import CELL, NOW, record

HOSTILE = "`````\n``````````\n</pre><script>alert(1)</script> *x* {raw} | $y$"

SCORE = {
    "hellaswag/score": {"value": 0.37, "unit": "share"},
    "hellaswag/low": {"value": 0.282, "unit": "share"},
    "hellaswag/high": {"value": 0.468, "unit": "share"},
    "hellaswag/items": {"value": 100, "unit": "items"},
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build once, with a record that passed and one whose log tries to break out."""
    folder = tmp_path_factory.mktemp("site")
    store = Store(f"sqlite:///{folder}/records.sqlite")
    store.add(record())
    error = {"class": "GateFailed", "message": HOSTILE, "log_tail": HOSTILE}
    store.add(record("llama/base/cann-9.1.0/a2", verdict="failed", error=error))
    store.add(record("qwen3/logprobs/cann-9.1.0/a2"))
    for day, verdict in (("19", "failed"), ("20", "passed")):
        store.add(
            record(
                "qwen3/logprobs/cann-9.1.0/a2",
                kind="accuracy",
                verdict=verdict,
                started=f"2026-11-{day}T10:00:00Z",
                metrics=SCORE,
                run_url="https://ci.example/runs/7",
            )
        )
    store.add(record("qwen3/logprobs/cann-9.1.0/a2", kind="perf", verdict="inconclusive"))
    return site.build(f"sqlite:///{folder}/records.sqlite", folder / "site", NOW)


def test_every_supported_cell_has_a_page(built: Path) -> None:
    for cell in matrix.expand(matrix.load()):
        page = built / "cells" / f"{cell.id}.html"
        assert page.is_file() == (cell.unsupported is None), cell.id


def test_links_of_the_tables_lead_to_pages(built: Path) -> None:
    text = (built / "support.html").read_text()
    links = re.findall(r'<td[^>]*><a href="([^"]*)"', text)
    assert len(links) == sum(c.unsupported is None for c in matrix.expand(matrix.load()))
    assert all((built / link).is_file() for link in links)
    for name, page in (("features", "features.html"), ("models", "models.html")):
        anchors = re.findall(rf'href="{page}#([^"]*)"', text)
        assert anchors, name
        target = (built / page).read_text()
        assert all(f'id="{anchor}"' in target for anchor in anchors)


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


def test_links_between_pages_are_relative(built: Path) -> None:
    page = (built / "cells" / f"{CELL}.html").read_text()
    assert not re.findall(r'href="/[^"]*"', page)
    assert 'href="../../../../support.html"' in page
    assert f"nox -s e2e -- '{CELL}'" in html.unescape(re.sub(r"<[^>]*>", "", page))


def test_evidence_is_labelled(built: Path) -> None:
    assert "Nothing here has run on a real NPU" in (built / "support.html").read_text()
    page = (built / "cells" / f"{CELL}.html").read_text()
    assert 'class="am-badge am-simulated"' in page
    assert "It did not run on a real NPU" in page


def test_record_is_shown(built: Path) -> None:
    page = (built / "cells" / f"{CELL}.html").read_text()
    for text in ("attention launches", "480", "0.32.0+empty", "128 tokens", "engine start 3.0 s"):
        assert text in page, text


def test_hostile_log_stays_text(built: Path) -> None:
    page = (built / "cells" / "llama/base/cann-9.1.0/a2.html").read_text()
    assert "<script>alert(1)" not in page
    # Once in the message and once in the log: neither ends the block and becomes markup.
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt; *x* {raw} | $y$") == 2
    assert "<summary>Versions</summary>" in page, "the page goes on after the log"


def text_of(page: Path) -> str:
    """Return what a reader sees, with white space as it is read."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page.read_text())).split())


def test_page_shows_every_kind_with_what_it_measured(built: Path) -> None:
    text = text_of(built / "cells/qwen3/logprobs/cann-9.1.0/a2.html")
    assert "End to end ✔ passed simulated 2026-11-21 10:00 equal tokens 128 tokens" in text
    assert (
        "Accuracy ✔ passed simulated 2026-11-20 10:00 hellaswag 37.0 % (28.2 % to 46.8 %)" in text
    )
    assert "Performance ≈ inconclusive simulated 2026-11-21 10:00" in text


def test_page_says_what_never_ran(built: Path) -> None:
    text = text_of(built / f"cells/{CELL}.html")
    assert "Accuracy ○ never run" in text
    assert "Performance ○ never run" in text
    unasked = text_of(built / "cells/llama/logprobs/cann-9.1.0/a2.html")
    assert "no suite of matrix/accuracy.yaml asks this cell" in unasked


def test_history_has_every_run_newest_first(built: Path) -> None:
    page = (built / "cells/qwen3/logprobs/cann-9.1.0/a2.html").read_text()
    history = page.split("<h2>History")[1]
    rows = re.findall(r"<tr id=.*?</tr>", history, re.DOTALL)
    found = [re.findall(r"2026-11-\d\d|accuracy|performance|end to end", row) for row in rows]
    assert [row[0] for row in found] == sorted((row[0] for row in found), reverse=True)
    assert len(rows) == 4
    assert {kind for row in found for kind in row[1:]} == {"accuracy", "performance", "end to end"}
    assert rows[-1].count("https://ci.example/runs/7") == 1
    assert 'aria-label="accuracy, oldest first: failed, passed"' in history
    assert history.count("<rect ") == 4


def test_table_shows_every_kind_and_leads_to_its_section(built: Path) -> None:
    text = (built / "support.html").read_text()
    links = re.findall(r'class="am-mark am-([^"]*)" href="([^"]*)#([^"]*)"', text)
    cell = "cells/qwen3/logprobs/cann-9.1.0/a2.html"
    assert ("passed", cell, "accuracy") in links
    assert ("inconclusive", cell, "performance") in links
    assert ("never-run", f"cells/{CELL}.html", "accuracy") in links
    for _, page, anchor in links:
        if page == cell:
            assert f'id="{anchor}"' in (built / page).read_text()


def test_data_stands_beside_the_page(built: Path) -> None:
    assert (built / "support.json").is_file()


def test_empty_store_shows_never_run(tmp_path: Path) -> None:
    support = derive(matrix.load(), Store(f"sqlite:///{tmp_path}/none.sqlite"), NOW)
    pages = site.pages(support)
    assert "never run" in pages["support.md"]
    assert "There is no record of this cell yet" in pages[f"cells/{CELL}.md"]
    assert "passed: " not in pages["support.md"]


def test_other_folders_are_not_removed(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SiteError, match="something else than a site"):
        site.build(f"sqlite:///{tmp_path}/none.sqlite", tmp_path)
    assert (tmp_path / "thesis.txt").exists()
