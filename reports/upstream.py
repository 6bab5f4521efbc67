"""Renders the tables that vllm-ascend publishes, in their own shape, from evidence here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from matrix.combining import combine
from matrix.released import Claim, Claims
from matrix.schema import Feature, UpstreamFeature, UpstreamRow, UpstreamTable
from reports.statuses import Status, statuses
from reports.support import DISCLAIMER, Support

PASSED, SHOWN, UNTESTED, UNSUPPORTED, NOT_APPLICABLE = "✅", "🔵", "🟡", "❌", "–"

LEGEND = (
    f"{PASSED} passed on a real NPU with these weights; {SHOWN} the architecture and the feature "
    f"passed on stand-ins, {{evidence}}; {UNTESTED} nothing has passed, or not lately; "
    f"{UNSUPPORTED} not supported, see the note; {NOT_APPLICABLE} does not arise."
)


def render(support: Support) -> str:
    """Return models, features, pairs of features and releases as Markdown."""
    release = support.matrix.release
    on_hardware = "on NPUs" if support.on_hardware else "simulated"
    head = (
        f"Derived on {support.now:%Y-%m-%d} for vllm-ascend {release.plugin}, vLLM {release.vllm}, "
        f"CANN {release.stable_cann}, torch-npu {release.torch_npu}. "
        + LEGEND.format(evidence=on_hardware)
    )
    tables = [_models(support, table) for table in support.matrix.upstream.tables]
    parts = [
        "# Supported Models",
        head,
        *([] if support.on_hardware else [DISCLAIMER]),
        *tables,
        "# Supported Features",
        features(support),
        "# Feature Matrix",
        triangle(support),
        "# Release compatibility",
        releases(support),
    ]
    return "\n\n".join(parts) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; a row with more or fewer cells than the header is an error."""
    lines = [header, ["---"] * len(header), *rows]
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    if any(len(line) != len(header) for line in escaped):
        raise ValueError(f"a row has not the {len(header)} cells of the header")
    return "\n".join("| " + " | ".join(line) + " |" for line in escaped)


def _models(support: Support, given: UpstreamTable) -> str:
    claims = Claims(support.matrix)
    notes: list[str] = []
    columns = [
        (c.label, support.matrix.features[c.feature]) for c in support.matrix.upstream.columns
    ]
    header = ["Model", "Support", "Note", "Supported Hardware", *(label for label, _ in columns)]
    rows = [_row(support, claims, given, row, [f for _, f in columns], notes) for row in given.rows]
    listed = [f"{number}. {note}" for number, note in enumerate(notes, start=1)]
    body = table([*header, "max-model-len", "Newest run"], rows)
    return "\n\n".join([f"## {given.title}", body, *(["\n".join(listed)] if listed else [])])


def _row(
    support: Support,
    claims: Claims,
    given: UpstreamTable,
    row: UpstreamRow,
    features: Sequence[Feature],
    notes: list[str],
) -> list[str]:
    names = [n for n in claims.models if any(fnmatchcase(n, p) for p in row.models)]
    cann = support.matrix.cann[support.matrix.release.stable_cann]

    def of(feature: Feature | None) -> list[Claim]:
        return [
            claims.of(model, feature or _first(support, model.task), cann, claims.ranges[hardware])
            for model in (claims.models[name] for name in names)
            for hardware in given.hardware
        ]

    base = of(None)
    reasons = {c.cell.unsupported.reason for c in base if c.cell.unsupported}
    context = max(claims.released[name].context for name in names)
    dates = [s.record.started for c in base for s in _evidence(support, c) if s.record]
    return [
        row.label,
        _symbol(support, base),
        "".join(_note(reason, notes) for reason in sorted(reasons)),
        ", ".join(claims.ranges[hardware].title for hardware in given.hardware),
        *(_symbol(support, of(feature)) for feature in features),
        str(context),
        f"{max(dates):%Y-%m-%d}" if dates else "never",
    ]


def _first(support: Support, task: str) -> Feature:
    return next(f for f in support.matrix.features.values() if task in f.applies_to)


def _note(reason: str, notes: list[str]) -> str:
    """Return the marker of a note, which is listed below the table under the same number."""
    if reason not in notes:
        notes.append(reason)
    return f"[{notes.index(reason) + 1}]"


def _evidence(support: Support, claim: Claim) -> list[Status]:
    return [support.statuses[s.cell] for s in claim.shown_by if s.cell in support.statuses]


def _symbol(support: Support, claims: Sequence[Claim]) -> str:
    """Return one symbol for several claims: the weakest, so that it holds for each of them."""
    order = (UNSUPPORTED, UNTESTED, SHOWN, PASSED, NOT_APPLICABLE)
    return min((_of_claim(support, claim) for claim in claims), key=order.index)


def _of_claim(support: Support, claim: Claim) -> str:
    rule = claim.cell.unsupported
    if rule is not None:
        return NOT_APPLICABLE if rule.effect == "not-applicable" else UNSUPPORTED
    own = [r for r in support.history.get(claim.cell.id, ()) if r.evidence == "hardware"]
    if own and own[0].verdict == "passed":
        return PASSED
    shown = "".join(s.shows for s in claim.shown_by)
    whole = "architecture" in shown and "feature" in shown
    evidence = _evidence(support, claim)
    return SHOWN if whole and all(s.state == "passed" for s in evidence) else UNTESTED


def features(support: Support) -> str:
    """Return the table of features: what of the cells of each passed."""
    rows = [_feature(support, row) for row in support.matrix.upstream.features]
    return table(["Feature", "Status", "Next Step"], rows)


def _feature(support: Support, row: UpstreamFeature) -> list[str]:
    found = [
        status
        for id_, status in support.statuses.items()
        if id_.split("/")[1] in row.features
        and any(fnmatchcase(id_.split("/")[0], pattern) for pattern in row.models)
        and status.applicable
    ]
    supported = [s for s in found if s.state != "unsupported"]
    passed = sum(s.state == "passed" for s in supported)
    if not supported:
        return [row.label, "🟡 Planned", found[0].reason if found else "No cell"]
    word = "🟢 Functional" if passed == len(supported) else "🔵 Experimental"
    if not passed:
        word = "🟡 Not shown"
    return [row.label, word, f"{passed} of {len(supported)} supported cells passed"]


def triangle(support: Support) -> str:
    """Return features by features: what passed with both on."""
    pairs = support.matrix.upstream.pairs
    cells = [
        cell
        for cell in combine(support.matrix)
        if cell.cann.version == support.matrix.release.stable_cann
    ]
    records = [r for cell in cells for r in support.history.get(cell.id, ())]
    known = statuses(cells, records, support.now, support.policy)
    by_pair: dict[str, list[Status]] = {}
    for cell in cells:
        by_pair.setdefault(cell.feature.name, []).append(known[cell.id])
    rows = []
    for number, row in enumerate(pairs):
        marks = [
            _pair(by_pair.get("+".join(sorted((row.feature, other.feature))), []))
            for other in pairs[:number]
        ]
        rows.append([row.label, *marks, *["·"] * (len(pairs) - number)])
    legend = "✅ passed with both on; ❌ not together, or not yet; 🟠 some passed; ❔ no evidence"
    return f"{legend}.\n\n" + table(["Feature", *(p.label for p in pairs)], rows)


def _pair(found: Sequence[Status]) -> str:
    supported = [status for status in found if status.state != "unsupported"]
    passed = sum(status.state == "passed" for status in supported)
    if not supported:
        return "❌" if found else "❔"
    return "✅" if passed == len(supported) else "🟠" if passed else "❔"


def releases(support: Support) -> str:
    """Return every release as one row, with a dash where a version is not needed."""
    header = ["vLLM Ascend", "vLLM", "Python", "Stable CANN", "PyTorch/torch_npu"]
    rows = [
        [
            f"v{r.plugin}" if r.publisher == "upstream" else f"{r.plugin} (this project)",
            f"v{r.vllm}",
            r.python,
            r.stable_cann,
            f"{r.torch} / {r.torch_npu}",
            r.triton_ascend or "N/A",
            r.mooncake or "N/A",
        ]
        for r in support.matrix.releases.values()
    ]
    return table([*header, "Triton Ascend", "Mooncake"], rows)
