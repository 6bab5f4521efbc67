"""The site in Chromium, from disk: filters, cells, history, differences, keys, colours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

import matrix
from reports import Store, derive, parse, site
from tests import browser
from tests.benchmarks.site import made_up
from tests.benchmarks.store import documents
from tests.unit.reports.conftest import record

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
HOSTILE = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"
CELL = "qwen3/base/cann-9.1.0/a2"
FAILED = "llama/base/cann-9.1.0/a2"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    try:
        with browser.chromium() as running:
            yield running
    except browser.Missing as missing:
        if browser.required():
            raise
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a site with a long history, a failure, stale and hostile cells."""
    folder = tmp_path_factory.mktemp("browser")
    store = Store(f"sqlite:///{folder}/records.sqlite")
    for day in range(8):
        metric = {"value": 10.0 + day, "unit": "tokens/s"}
        ends = {f"throughput_{end}": {**metric, "value": 10 + day + by} for end, by in BOUNDS}
        started = (NOW - timedelta(days=day, hours=1)).isoformat()
        verdict = "failed" if day == 3 else "passed"
        store.add(record(started=started, verdict=verdict, metrics={"throughput": metric, **ends}))
    error = {"class": "GateFailed", "message": HOSTILE, "log_tail": f"{HOSTILE}\n" * 500}
    store.add(record(FAILED, verdict="failed", error=error, started="2026-11-21T09:00:00Z"))
    store.add(record(FAILED, started="2026-11-10T09:00:00Z"))
    store.add(record("mistral/base/cann-9.1.0/a2", started="2026-09-01T09:00:00Z"))
    store.add(record("qwen3/async-scheduling+bfloat16/cann-9.1.0/a2"))
    real = matrix.load()
    pairs = {real.combinations.model, *real.combinations.models.values()}
    kept = {"smollm2-135m", "llama", "mistral", "whisper", *pairs}
    models = {name: model for name, model in real.models.items() if name in kept}
    models["llama"] = models["llama"].model_copy(update={"title": f"Llama {HOSTILE}"})
    shown = replace(real, models=models, families={"qwen3-dense": real.families["qwen3-dense"]})
    return site.write(derive(shown, store, NOW), folder / "site")


BOUNDS = (("low", -0.5), ("high", 0.5))


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """Return a page that fails the test on an error of a script, or a request to another host."""
    context = chromium.new_context(viewport={"width": 1500, "height": 950}, locale="en-US")
    made = context.new_page()
    troubles: list[str] = []
    made.on("pageerror", lambda error: troubles.append(str(error)))
    made.on("console", lambda said: troubles.append(said.text) if said.type == "error" else None)
    made.on("request", lambda asked: None if is_local(asked.url) else troubles.append(asked.url))
    yield made
    assert made.title() != "broken"
    context.close()
    assert not troubles


def is_local(url: str) -> bool:
    return url.startswith(("file:", "data:"))


def visit(page: Page, built: Path, name: str = "matrix.html", address: str = "") -> None:
    page.goto((built / name).as_uri() + address)


def cell(page: Page, name: str = CELL) -> Any:
    return page.locator(f'#am-grid td[data-cell="{name}"]')


def test_filters_leave_what_matches(page: Page, built: Path) -> None:
    visit(page, built)
    everything = page.locator("#am-grid tbody tr").count()
    page.fill("#am-models", "qwen3")
    shown = page.locator("#am-grid tbody tr")
    assert 0 < shown.count() < everything
    page.fill("#am-features", "logprobs")
    expect(page.locator("#am-grid thead th")).to_have_count(3)
    page.fill("#am-models", "no such model")
    expect(page.locator("#am-empty")).to_be_visible()
    page.click("#am-reset")
    expect(shown).to_have_count(everything)


def test_states_filter_and_are_kept_in_the_address(page: Page, built: Path) -> None:
    visit(page, built)
    page.click('[data-state="failed"]')
    expect(page.locator("#am-grid tbody tr")).to_have_count(1)
    assert "states=failed" in page.url
    page.reload()
    expect(page.locator("#am-grid tbody tr")).to_have_count(1)
    assert page.get_attribute('[data-state="failed"]', "aria-pressed") == "true"


def test_order_puts_most_failures_first(page: Page, built: Path) -> None:
    visit(page, built)
    page.select_option("#am-sort", "bad")
    expect(page.locator("#am-grid tbody th").first).to_contain_text("Llama")


def test_evidence_and_age_are_seen_without_opening(page: Page, built: Path) -> None:
    visit(page, built)
    expect(cell(page)).to_have_text("✔s")
    label = cell(page).get_attribute("aria-label")
    assert re.fullmatch(r"Qwen3 \(stand-in\), Generation: passed, simulated, 2026-11-21", label)
    stale = cell(page, "mistral/base/cann-9.1.0/a2").get_attribute("aria-label")
    assert "stale (passed), simulated, 2026-09-01" in stale
    expect(page.locator(".am-evidence")).to_contain_text("Nothing here has run on a real NPU")


def test_cell_opens_with_its_evidence(page: Page, built: Path) -> None:
    visit(page, built)
    cell(page).click()
    drawer = page.locator("#am-drawer")
    expect(drawer).to_contain_text("It did not run on a real NPU")
    for words in (CELL, "passed", "attention launches", "480", "10 tokens/s", "9.5 to 10.5"):
        expect(drawer).to_contain_text(words)
    assert page.url.endswith("#" + CELL)


def test_address_of_a_cell_opens_it(page: Page, built: Path) -> None:
    visit(page, built, address="#" + FAILED)
    drawer = page.locator("#am-drawer")
    expect(drawer.locator("h2")).to_contain_text("Llama <img src=x")
    expect(drawer.locator(".am-message")).to_contain_text("<script>document.title")
    expect(drawer.locator(".am-log")).to_contain_text("characters before this were cut")
    assert drawer.locator("img").count() == 0


def test_cell_that_is_not_there_is_told(page: Page, built: Path) -> None:
    visit(page, built, address="#nobody/base/cann-9.1.0/a2")
    expect(page.locator("#am-drawer")).to_contain_text("The matrix has no cell nobody/base")


def test_unsupported_cell_says_why(page: Page, built: Path) -> None:
    visit(page, built, address="#whisper/lora/cann-9.1.0/a2")
    expect(page.locator("#am-drawer .am-note")).not_to_be_empty()
    expect(page.locator("#am-drawer")).to_contain_text("Rule")


def test_history_is_drawn_and_listed(page: Page, built: Path) -> None:
    visit(page, built, address="#" + CELL)
    expect(page.locator(".am-strip rect")).to_have_count(8)
    words = page.get_attribute(".am-strip", "aria-label")
    assert words.split(": ")[1].split(", ") == ["passed"] * 4 + ["failed"] + ["passed"] * 3
    expect(page.locator(".am-line circle")).to_have_count(8)
    expect(page.locator(".am-line .am-bar")).to_have_count(8)
    expect(page.locator("#am-drawer tbody tr").first).to_contain_text("2026-11-21 11:00")


def test_differences_between_dates_and_versions(page: Page, built: Path) -> None:
    visit(page, built, address="#view=difference")
    page.fill("#am-diff-a", "2026-11-20")
    page.fill("#am-diff-b", "2026-11-21")
    row = page.locator("#am-diff-body tr", has_text=FAILED)
    expect(row).to_have_text(re.compile("no longer passes.*passed.*failed", re.DOTALL))
    expect(page.locator("#am-diff-body tr")).to_have_count(2)  # and the pair, which is new
    page.select_option("#am-diff-mode", "cann")
    expect(page.locator("#am-diff-body tr", has_text=CELL)).to_contain_text("passes anew")
    page.locator("#am-diff-body a", has_text=CELL).click()
    expect(page.locator("#am-drawer")).to_contain_text("480")
    page.keyboard.press("Escape")
    expect(page.locator("#am-diff-body a", has_text=CELL)).to_be_focused()


def test_pairs_of_features(page: Page, built: Path) -> None:
    visit(page, built)
    page.click("#am-tab-pairs")
    pair = page.locator('#am-pairs td[data-cell="qwen3/async-scheduling+bfloat16/cann-9.1.0/a2"]')
    expect(pair).to_have_text("✔s")
    pair.click()
    expect(page.locator("#am-drawer h2")).to_contain_text("+")
    expect(page.locator("#am-drawer")).to_contain_text("480")


def test_keyboard_alone_is_enough(page: Page, built: Path) -> None:
    visit(page, built)
    page.focus("#am-reset")
    focus = "document.activeElement"
    while not page.evaluate(f"{focus}.closest('#am-grid') !== null"):
        page.keyboard.press("Tab")
    start = page.evaluate(f"{focus}.dataset.cell")
    assert page.locator('#am-grid [tabindex="0"]').count() == 1
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    moved = page.evaluate(f"{focus}.dataset.cell")
    assert moved.split("/")[0] != start.split("/")[0]
    assert moved.split("/")[1] != start.split("/")[1]
    page.keyboard.press("Control+Home")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(f"{focus}.getAttribute('href')").startswith("models/")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(f"{focus}.dataset.cell") == start
    page.keyboard.press("Enter")
    expect(page.locator("#am-drawer")).to_be_visible()
    expect(page.locator("#am-drawer-title")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#am-drawer")).to_be_hidden()
    assert page.evaluate(f"{focus}.dataset.cell") == start
    outline = page.evaluate(f"getComputedStyle({focus}).outlineStyle")
    assert outline == "solid", "the focus is seen"


def test_language_switches_and_stays(page: Page, built: Path) -> None:
    visit(page, built)
    page.click("#am-language")
    expect(page.locator("h1")).to_have_text("支持矩阵")
    assert page.get_attribute("html", "lang") == "zh-Hans"
    assert "通过，" in cell(page).get_attribute("aria-label") or "通过, 仿真" in cell(
        page
    ).get_attribute("aria-label")
    visit(page, built, "models/qwen3.html")
    expect(page.locator("#serve")).to_have_text("如何部署")
    page.click("#am-language")
    expect(page.locator("#serve")).to_have_text("How to serve it")


def background(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def test_colours_follow_the_system_and_the_choice(page: Page, built: Path) -> None:
    visit(page, built)
    light = background(page)
    page.emulate_media(color_scheme="dark")
    dark = background(page)
    assert dark != light
    page.click("#am-theme")  # from auto to light
    assert background(page) == light
    page.click("#am-theme")
    page.emulate_media(color_scheme="light")
    assert background(page) == dark
    # Furo keeps its choice under the same name, so its pages are dark now, too.
    visit(page, built, "index.html")
    assert page.get_attribute("body", "data-theme") == "dark"
    assert background(page) == dark


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("matrix.html", ""),
        ("matrix.html", "#" + CELL),
        ("matrix.html", "#view=pairs"),
        ("matrix.html", "#view=difference"),
        ("models/qwen3.html", ""),
        ("features/base.html", ""),
        ("models/index.html", ""),
        ("families/qwen3-dense.html", ""),
        ("releases.html", ""),
    ],
)
def test_nothing_serious_for_accessibility(
    page: Page, built: Path, name: str, address: str, scheme: Any
) -> None:
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    visit(page, built, name, address)
    if address.count("/"):
        expect(page.locator("#am-drawer")).to_contain_text("480")
    found = [
        v for v in Axe().run(page, options=AXE).response["violations"] if v["impact"] in SERIOUS
    ]
    told = [(v["id"], v["nodes"][0]["html"][:200], v["nodes"][0]["failureSummary"]) for v in found]
    assert not told


SERIOUS = ("serious", "critical")
AXE = {"resultTypes": ["violations"], "preload": False}  # it would fetch the style sheets


def test_big_matrix_is_small_and_whole(page: Page, tmp_path: Path) -> None:
    """100 models, 40 features and 6 CANN versions; the benchmark says how quick it is."""
    made = made_up(100, 40, 6, 1)
    store = Store(f"sqlite:///{tmp_path}/records.sqlite")
    cells = matrix.expand(made)
    some = documents(cells[::10], len(cells) // 10)
    assert sum(added.new for added in store.add_all(map(parse, some))) == 2_400
    built = site.write(derive(made, store, datetime.now(UTC)), tmp_path / "site", prose=False)
    assert (built / "matrix.html").stat().st_size < 2_000_000
    visit(page, built)
    expect(page.locator("#am-grid tbody td")).to_have_count(4_000)
    assert page.evaluate("performance.getEntriesByName('am-interactive').length") == 1
