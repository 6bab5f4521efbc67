// The view of differences: the cells whose state is another at two dates, versions or CANN versions.
(function () {
  "use strict";

  const { t, make, load } = window.am;
  const { data, choice, views, slice, cellId, label, fits, openFrom } = window.am.matrix;
  const $ = (id) => document.getElementById(id);
  const MOST = 500;  // rows that are shown
  const DAY = 86400000;
  let past = null;

  /** The runs of a cell, oldest first, out of six characters each. */
  function runsOf(text) {
    const runs = [];
    for (let at = 0; at < text.length; at += 6) {
      const letter = text[at + 3];
      runs.push({
        day: parseInt(text.slice(at, at + 3), 36),
        verdict: Object.keys(past.letters).find((one) => past.letters[one] === letter.toLowerCase()),
        hardware: letter !== letter.toLowerCase(),
        version: parseInt(text.slice(at + 4, at + 6), 36),
      });
    }
    return runs;
  }

  /** The newest of some runs as a status; runs on a real NPU speak first, however old. */
  function newest(runs, day) {
    const best = runs.filter((run) => run.hardware).at(-1) || runs.at(-1);
    if (!best) return { state: "never-run", verdict: null };
    const stale = day !== undefined && day - best.day > data.max_age_days;
    return stale ? { state: "stale", verdict: best.verdict } : { state: best.verdict, verdict: null };
  }

  function byDates(before, after) {
    const day = (text) => Math.floor((Date.parse(text) - Date.parse(past.epoch)) / DAY);
    const [from, to] = [day(before), day(after)];
    return fromHistory((runs) => [from, to].map((end) => newest(runs.filter((run) => run.day <= end), end)));
  }

  function byVersions(before, after) {
    return fromHistory((runs) => [before, after].map((version) =>
      newest(runs.filter((run) => run.version === Number(version)))));
  }

  function fromHistory(states) {
    return Object.entries(past.kinds[choice.kind]).map(([cell, text]) => {
      const [before, after] = states(runsOf(text));
      return { cell, before, after };
    });
  }

  function byCann(before, after) {
    const found = [];
    for (const { name: hardware } of data.hardware) {
      const [one, other] = [before, after].map((cann) => slice(hardware, cann, choice.kind));
      one.forEach((status, place) => {
        const m = Math.floor(place / data.features.length), f = place % data.features.length;
        found.push({ cell: cellId(m, f, after, hardware), before: status, after: other[place] });
      });
    }
    return found;
  }

  const rank = ({ before, after }) => {
    if (before.state === "passed") return 0;
    return after.state === "passed" ? 1 : 2;
  };

  function compare() {
    const mode = $("am-diff-mode").value;
    const [before, after] = [endOf("a"), endOf("b")];
    if (!before || !after) return;
    const all = { dates: byDates, versions: byVersions, cann: byCann }[mode](before, after);
    const changed = all
      .filter((one) => one.before.state !== one.after.state || one.before.verdict !== one.after.verdict)
      .filter((one) => fits($("am-diff-find").value.trim(), one.cell))
      .sort((a, b) => rank(a) - rank(b) || a.cell.localeCompare(b.cell));
    const count = (wanted) => changed.filter((one) => rank(one) === wanted).length;
    $("am-diff-summary").textContent = t("difference_counts",
      { all: changed.length, worse: count(0), better: count(1), other: count(2) }) +
      (changed.length > MOST ? " " + t("difference_cut", { most: MOST }) : "");
    $("am-diff-body").replaceChildren(...changed.slice(0, MOST).map((one) => make("tr", {},
      make("td", {}, t(["worse", "better", "other"][rank(one)])),
      make("td", {}, make("a", { href: "#" + one.cell, "data-cell": one.cell,
        onclick: (event) => { event.preventDefault(); openFrom(event.currentTarget); } }, one.cell)),
      make("td", {}, label(one.before.state, one.before.verdict)),
      make("td", {}, label(one.after.state, one.after.verdict)))));
    $("am-diff-table").hidden = changed.length === 0;
  }

  const endOf = (end) => $(`am-diff-${end}`)?.value;

  /** The two things that are compared: dates, versions of the records, or CANN versions. */
  function renderEnds() {
    const mode = $("am-diff-mode").value;
    const today = data.generated.slice(0, 10);
    const weekAgo = new Date(Date.parse(today) - 7 * DAY).toISOString().slice(0, 10);
    const input = {
      dates: (end) => make("input", { type: "date", id: `am-diff-${end}`, max: today,
        value: end === "a" ? weekAgo : today }),
      versions: (end) => make("select", { id: `am-diff-${end}` }, past.versions.map((name, at) =>
        make("option", { value: at, selected: at === (end === "a" ? Math.min(1, past.versions.length - 1) : 0) }, name))),
      cann: (end) => make("select", { id: `am-diff-${end}` }, data.cann.map(({ version }, at) =>
        make("option", { value: version, selected: at === (end === "a" ? Math.min(1, data.cann.length - 1) : 0) }, version))),
    }[mode];
    $("am-diff-ends").replaceChildren(...["a", "b"].map((end) =>
      make("label", {}, make("span", {}, t(end === "a" ? "before" : "after")), input(end))));
    for (const end of ["a", "b"]) $(`am-diff-${end}`).addEventListener("change", compare);
  }

  async function render() {
    const chosen = $("am-diff-mode").value || "dates";
    $("am-diff-mode").replaceChildren(...["dates", "cann", "versions"].map((mode) =>
      make("option", { value: mode, selected: mode === chosen }, t("difference_" + mode))));
    $("am-diff-kind").replaceChildren(...data.kinds.map((kind) =>
      make("option", { value: kind, selected: kind === choice.kind }, t("kind_" + kind))));
    try {
      past = past || await load("history");
    } catch {
      $("am-diff-summary").textContent = t("not_loaded");
      return;
    }
    renderEnds();
    compare();
  }

  views.difference = render;
  document.addEventListener("DOMContentLoaded", () => {
    $("am-diff-mode").addEventListener("change", () => { renderEnds(); compare(); });
    $("am-diff-kind").addEventListener("change", (event) => { choice.kind = event.target.value; compare(); });
    $("am-diff-find").addEventListener("input", compare);
  });
})();
