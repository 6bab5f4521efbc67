// The matrix page: a grid of models by features that is filtered, sorted and opened cell by cell.
(function () {
  "use strict";

  const { t, make, draw, load } = window.am;
  const data = JSON.parse(document.getElementById("am-data").textContent);
  const $ = (id) => document.getElementById(id);
  const VERDICTS = ["passed", "failed", "error", "inconclusive"];
  const RAN = [...VERDICTS, "expected-failure"];
  const STATES = [...RAN, "stale", "never-run", "unsupported", "n/a"];
  const STATE_OF = Object.fromEntries(Object.entries(data.letters).map(([s, l]) => [l, s]));
  const SYMBOLS = { ...data.symbols, "n/a": "–" };
  const DAY = 86400000;

  // ------------------------------------------------------------------------------------ statuses

  /** What a letter of the data says: the state, and of a stale cell the verdict that it had. */
  function meaning(letter) {
    if (STATE_OF[letter]) return { state: STATE_OF[letter], verdict: null };
    return { state: "stale", verdict: STATE_OF[letter.toLowerCase()] };
  }

  const slices = new Map();

  /** The statuses of one hardware, CANN version and kind of runs, model by model. */
  function slice(hardware, cann, kind) {
    const name = `${hardware}/${cann}/${kind}`;
    if (slices.has(name)) return slices.get(name);
    const { states, ages, hardware: real } = data.slices[`${hardware}/${cann}`][kind];
    const onHardware = new Set(real || []);
    let next = 0;
    const found = Array.from(states, (letter, place) => {
      const status = { ...meaning(letter), age: null, evidence: null };
      if (status.verdict || RAN.includes(status.state)) {
        status.age = parseInt(ages.slice(next, next + 2), 36);
        status.evidence = onHardware.has(place) ? "hardware" : "simulated";
        next += 2;
      }
      return status;
    });
    slices.set(name, found);
    return found;
  }

  function cellId(model, feature, cann, hardware) {
    return `${data.models[model].name}/${data.features[feature].name}/cann-${cann}/${hardware}`;
  }

  const dateOf = (age) =>
    new Date(Date.parse(data.generated) - age * DAY).toISOString().slice(0, 10);

  function stateWords(status) {
    const words = t("state_" + status.state);
    return status.verdict ? `${words} (${t("state_" + status.verdict)})` : words;
  }

  function inWords(status) {
    const parts = [stateWords(status)];
    if (status.evidence) parts.push(t("evidence_" + status.evidence), dateOf(status.age));
    return parts.join(", ");
  }

  const css = (state) => state.replace("/", "");

  // -------------------------------------------------------------------------------------- choices

  const DEFAULTS = {
    view: "grid", hw: data.hardware[0].name,
    cann: (data.cann.find((one) => one.status === "current") || data.cann[0]).version, kind: data.kinds[0],
    models: "", features: "", states: "", evidence: "", form: "", task: "", sort: "order", all: "",
  };
  const choice = { ...DEFAULTS };

  /** The address holds the choices, so that a view can be passed on; a cell's id opens the cell. */
  function readAddress() {
    const hash = decodeURIComponent(location.hash.slice(1));
    if (hash.includes("/")) {
      const cell = findCell(hash);
      if (cell) Object.assign(choice, { hw: cell.hardware, cann: cell.cann });
      if (hash.split("/")[1].includes("+")) choice.view = "pairs";
      return hash;
    }
    for (const [key, value] of new URLSearchParams(hash)) {
      if (key in DEFAULTS) choice[key] = value;
    }
    if (!data.slices[`${choice.hw}/${choice.cann}`]) {
      Object.assign(choice, { hw: DEFAULTS.hw, cann: DEFAULTS.cann });
    }
    if (!data.kinds.includes(choice.kind)) choice.kind = DEFAULTS.kind;
    return null;
  }

  function writeAddress() {
    const changed = Object.entries(choice).filter(([key, value]) => value !== DEFAULTS[key]);
    const hash = new URLSearchParams(changed).toString();
    history.replaceState(null, "", hash ? "#" + hash : location.pathname + location.search);
  }

  function findCell(id) {
    const [model, feature, cann, hardware] = id.split("/");
    const m = data.models.findIndex((one) => one.name === model);
    const f = data.features.findIndex((one) => one.name === feature);
    const version = (cann || "").replace(/^cann-/, "");
    if (m < 0 || f < 0 || !data.slices[`${hardware}/${version}`]) return null;
    return { m, f, cann: version, hardware };
  }

  // ----------------------------------------------------------------------------------- the grid

  const fits = (query, ...texts) => {
    const text = texts.join(" ").toLowerCase();
    return query.toLowerCase().split(/\s+/).every((word) => text.includes(word));
  };
  const outside = (status) => status.state === "unsupported" || status.state === "n/a";

  function wanted(status) {
    const states = choice.states ? choice.states.split(" ") : [];
    return (!states.length || states.includes(status.state)) &&
      (!choice.evidence || status.evidence === choice.evidence);
  }

  /** The models and features that the filters leave, and the order of the models. */
  function visible() {
    const known = slice(choice.hw, choice.cann, choice.kind);
    const width = data.features.length;
    const filtering = choice.states || choice.evidence;
    const show = (status) => (filtering ? wanted(status) : choice.all || !outside(status));
    let features = data.features.map((_, f) => f).filter((f) =>
      fits(choice.features, data.features[f].name, data.features[f].title));
    let models = data.models.map((_, m) => m).filter((m) => {
      const model = data.models[m];
      return fits(choice.models, model.name, model.title, model.family, model.task) &&
        (!choice.task || model.task === choice.task) &&
        (!choice.form || model.stand_in === (choice.form === "stand-in"));
    });
    models = models.filter((m) => features.some((f) => show(known[m * width + f])));
    features = features.filter((f) => models.some((m) => show(known[m * width + f])));
    return { models: sorted(models, known, features), features, known };
  }

  function tally(m, known, features) {
    const found = features.map((f) => known[m * data.features.length + f]);
    const supported = found.filter((one) => !outside(one));
    const ages = found.map((one) => one.age).filter((age) => age !== null);
    return {
      supported: supported.length,
      passed: supported.filter((one) => one.state === "passed").length,
      bad: supported.filter((one) => one.state === "failed" || one.state === "error").length,
      age: ages.length ? Math.min(...ages) : Infinity,
    };
  }

  function sorted(models, known, features) {
    const tallies = new Map(models.map((m) => [m, tally(m, known, features)]));
    const share = (m) => tallies.get(m).passed / (tallies.get(m).supported || 1);
    const by = {
      order: (a, b) => a - b,
      name: (a, b) => data.models[a].title.localeCompare(data.models[b].title),
      passed: (a, b) => share(b) - share(a) || tallies.get(b).passed - tallies.get(a).passed,
      bad: (a, b) => tallies.get(b).bad - tallies.get(a).bad,
      newest: (a, b) => tallies.get(a).age - tallies.get(b).age,
    }[choice.sort] || ((a, b) => a - b);
    return models.sort((a, b) => by(a, b) || a - b);
  }

  /** A cell of a grid: its symbol, a letter for its evidence, and all of it in words. */
  function square(one, id, name, bright = true) {
    const cell = document.createElement("td");
    cell.className = `am-c am-${css(one.state)}` + (one.evidence ? ` am-${one.evidence}` : "") +
      (one.verdict ? ` am-was-${one.verdict}` : "") + (bright ? "" : " am-dim");
    cell.setAttribute("role", "gridcell");
    cell.tabIndex = -1;
    cell.dataset.cell = id;
    cell.setAttribute("aria-label", `${name}: ${inWords(one)}`);
    cell.textContent = SYMBOLS[one.state];
    if (one.evidence) {
      const mark = document.createElement("sub");
      mark.textContent = one.evidence === "hardware" ? "H" : "s";
      cell.append(mark);
    }
    return cell;
  }

  function renderGrid() {
    const { models, features, known } = visible();
    const width = data.features.length;
    const head = make("tr", { role: "row" },
      make("th.am-corner", { scope: "col", role: "columnheader", tabindex: -1 },
        t("model"), make("small", {}, t("passed_of"))),
      features.map((f) => make("th", { scope: "col", role: "columnheader" },
        make("a", { href: `features/${data.features[f].name}.html`, tabindex: -1 },
          data.features[f].title))));
    const rows = models.map((m) => {
      const model = data.models[m];
      const sums = tally(m, known, features);
      const name = make("th", { scope: "row", role: "rowheader" },
        make("a", { href: `models/${model.name}.html`, tabindex: -1 }, model.title),
        make("span.am-sum", {}, `${sums.passed}/${sums.supported}`));
      return make("tr", { role: "row" }, name, features.map((f) => {
        const one = known[m * width + f];
        const id = cellId(m, f, choice.cann, choice.hw);
        return square(one, id, `${model.title}, ${data.features[f].title}`, wanted(one));
      }));
    });
    const table = $("am-grid");
    table.replaceChildren(make("thead", {}, head), make("tbody", {}, rows));
    table.setAttribute("aria-rowcount", models.length + 1);
    table.setAttribute("aria-colcount", features.length + 1);
    table.setAttribute("aria-label", `${hardwareTitle(choice.hw)}, CANN ${choice.cann}, ` +
      t("kind_" + choice.kind));
    $("am-empty").hidden = models.length > 0;
    $("am-shown").textContent = t("shown", {
      models: models.length, of_models: data.models.length,
      features: features.length, of_features: width,
    });
    const first = table.querySelector("tbody td");
    if (first) first.tabIndex = 0;
  }

  const hardwareTitle = (name) => {
    const found = data.hardware.find((one) => one.name === name);
    return found ? `${found.title} (${found.soc})` : name;
  };

  // One cell of the grid is in the order of Tab; arrows go from cell to cell, headers included.
  function focusable(cell) {
    return cell && (cell.querySelector("a") || cell);
  }

  function moveTo(row, column) {
    const target = focusable(row?.children[column]);
    if (!target) return;
    for (const one of row.closest("table").querySelectorAll('[tabindex="0"]')) one.tabIndex = -1;
    target.tabIndex = 0;
    target.focus();
    target.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  function onGridKey(event) {
    const cell = event.target.closest("td, th");
    if (!cell) return;
    const rows = [...event.currentTarget.rows];
    const row = rows.indexOf(cell.parentElement);
    const column = cell.cellIndex;
    const last = cell.parentElement.children.length - 1;
    const steps = {
      ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1],
      ArrowUp: [row - 1, column], ArrowDown: [row + 1, column],
      Home: [event.ctrlKey ? 0 : row, 0], End: [event.ctrlKey ? rows.length - 1 : row, last],
      PageUp: [Math.max(row - 10, 1), column],
      PageDown: [Math.min(row + 10, rows.length - 1), column],
    };
    if (event.key in steps) {
      event.preventDefault();
      const [r, c] = steps[event.key];
      if (r >= 0 && r < rows.length && c >= 0 && c <= last) moveTo(rows[r], c);
    } else if ((event.key === "Enter" || event.key === " ") && cell.dataset.cell) {
      event.preventDefault();
      openFrom(cell);
    }
  }

  /** Say below the grid what the cell under the pointer or the focus is. */
  function tell(cell) {
    if (!cell?.dataset.cell) return;
    const [name, words] = cell.getAttribute("aria-label").split(/: (?=[^:]*$)/);
    for (const line of document.querySelectorAll(".am-readout")) {
      line.replaceChildren(make("strong", {}, name), `: ${words}`);
    }
  }

  // ------------------------------------------------------------------------- the drawer of a cell

  let opener = null;

  function openFrom(cell) {
    opener = cell;
    open(cell.dataset.cell, choice.kind);
  }

  async function open(id, kind) {
    const drawer = $("am-drawer");
    const [model] = id.split("/");
    drawer.dataset.cell = id;
    history.replaceState(null, "", "#" + id);
    $("am-drawer-body").replaceChildren(make("p", {}, t("loading")));
    $("am-drawer-title").textContent = titleOf(id);
    if (!drawer.open) drawer.showModal();
    $("am-drawer-title").focus();
    const known = findCell(id) || data.models.some((one) => one.name === model);
    if (!known) return fill(make("p.am-note", {}, t("unknown_cell", { cell: id })));
    try {
      const file = await load(`cells/${model}`);
      if (drawer.dataset.cell === id) fill(...describe(id, file, kind));
    } catch {
      fill(make("p.am-note", {}, t("not_loaded")));
    }
  }

  function titleOf(id) {
    const [model, feature] = id.split("/");
    const title = (list, name) => list.find((one) => one.name === name)?.title ?? name;
    const features = (feature || "").split("+").map((name) => title(data.features, name));
    return `${title(data.models, model)}: ${features.join(" + ")}`;
  }

  const fill = (...parts) => $("am-drawer-body").replaceChildren(...parts);

  function describe(id, file, kind) {
    const [model, feature, cann, hardware] = id.split("/");
    const found = file.cells[id.slice(model.length + 1)];
    const head = [
      make("p.am-id", {}, make("code", {}, id)),
      make("p", {}, `${hardwareTitle(hardware)}, CANN ${(cann || "").replace(/^cann-/, "")} · `,
        make("a", { href: `models/${model}.html` }, t("page_of_model")), " · ",
        feature.split("+").map((name, at) => [at ? " · " : "",
          make("a", { href: `features/${name}.html` }, name)]).flat(),
        " · ", make("a", { href: `cells/${model}.json` }, "JSON")),
    ];
    if (found === undefined) {
      return [...head, make("p.am-note", {}, t("unknown_cell", { cell: id }))];
    }
    if (typeof found === "number") {
      const why = file.reasons[found];
      return [...head, make("p", {}, label("unsupported")), make("p.am-note", {}, why.reason),
        make("p", {}, t("rule"), " ", make("code", {}, why.rule), " ",
          why.issue ? make("a", { href: why.issue, rel: "noreferrer" }, why.issue) : "")];
    }
    const order = [kind, ...data.kinds.filter((one) => one !== kind)];
    const simulated = order.some((one) => found[one]?.record?.evidence === "simulated");
    const warning = simulated ? make("p.am-warning", {}, t("simulated_note")) : "";
    return [...head, warning, ...order.map((one) => section(id, one, found[one], one === kind))];
  }

  function label(state, verdict) {
    const words = verdict && verdict !== state ? `${t("state_" + state)} (${t("state_" + verdict)})`
      : t("state_" + state);
    return make(`span.am-state.am-${css(state)}`, {}, `${SYMBOLS[state]} ${words}`);
  }

  const badge = (evidence) => make(`span.am-badge.am-${evidence}`, {}, t("evidence_" + evidence));

  function section(id, kind, found, first) {
    const state = found?.state ?? "never-run";
    const record = found?.record;
    const parts = [];
    if (found?.reason && !record) parts.push(make("p.am-note", {}, found.reason));
    if (record) parts.push(...aboutRecord(found, record));
    else if (!found?.runs) parts.push(make("p.am-note", {}, t("no_record")));
    if (found?.runs) parts.push(...past(found));
    parts.push(make("h4", {}, t("run_it")),
      make("pre", {}, make("code", {}, commandOf(id, kind))));
    return make("details.am-kind-of-run", { open: first || (record && state !== "passed") },
      make("summary", {}, make("span.am-kind-name", {}, t("kind_" + kind)), label(state, record?.verdict),
        record ? badge(record.evidence) : "",
        record ? make("time", {}, record.started.slice(0, 10)) : ""), ...parts);
  }

  const commandOf = (id, kind) =>
    `nox -s ${kind} -- ${kind === "perf" ? "--base HEAD~1 " : ""}'${id}'`;

  function aboutRecord(found, record) {
    const parts = [];
    if (found.reason && found.reason !== record.error?.message) parts.push(make("p.am-note", {}, found.reason));
    if (record.error) {
      parts.push(make("p.am-message", {}, make("strong", {}, record.error.class), ": ",
        record.error.message));
      if (record.error.log) {
        parts.push(make("details", { open: true }, make("summary", {}, t("end_of_log")),
          make("pre.am-log", { tabindex: 0 }, record.error.log)));
      }
    }
    parts.push(facts([
      [t("date"), record.started.replace("T", " ").replace("+00:00", " UTC")],
      [t("evidence"), badge(record.evidence)],
      [t("ran_on"), `${record.cards} × ${record.chip}, ${record.runner}`],
      [t("duration"), duration(record)],
      [t("versions"), Object.entries(record.versions).filter(([, v]) => v !== false)
        .map(([k, v]) => (v === true ? t("dirty") : `${k.replace("_", "-")} ${v}`)).join(", ")],
      record.url && [t("run"), make("a", { href: record.url, rel: "noreferrer" }, record.url)],
      record.logs.length && [t("log"), record.logs.join(", ")],
      [t("record"), make("code", {}, record.id)],
    ]));
    if (record.metrics.length) {
      parts.push(make("h4", {}, t("metrics")), facts(record.metrics.map(([name, text, interval]) =>
        [name, make("span", {}, make("strong", {}, text),
          interval ? make("span.am-interval", {}, ` (${interval})`) : "")])));
    }
    if (Object.keys(record.proof).length) {
      parts.push(make("h4", {}, t("proof")), facts(Object.entries(record.proof).map(([k, v]) =>
        [k.replaceAll("_", " "), typeof v === "object" && v !== null
          ? make("pre", { tabindex: 0 }, JSON.stringify(v, null, 1)) : String(v ?? "–")])));
    }
    if (record.samples) {
      parts.push(make("details", {}, make("summary", {},
        t("samples", { shown: record.samples.length, all: record.all_samples })),
      make("pre", { tabindex: 0 }, record.samples.map((one) => JSON.stringify(one)).join("\n"))));
    }
    return parts;
  }

  function facts(rows) {
    return make("dl.am-facts", {}, rows.filter(Boolean).map(([name, value]) =>
      make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  }

  function duration(record) {
    const timings = Object.entries(record.timings).map(([k, v]) => `${k.replaceAll("_", " ")} ${v} s`);
    return `${record.seconds} s` + (timings.length ? ` (${timings.join(", ")})` : "");
  }

  // ------------------------------------------------------------------------------------- history

  function past(found) {
    const runs = found.runs.map(([started, verdict, evidence, commit, seconds, url, id, point]) =>
      ({ started, verdict, evidence, commit, seconds, url, id, point }));
    return [
      make("h4", {}, t("history")),
      make("p.am-caption", {}, t("history_note", { shown: runs.length, all: found.all_runs })),
      strip(runs), ...[line(runs)].filter(Boolean),
      make("div.am-wide", { tabindex: 0, role: "region", "aria-label": t("history") },
        make("table.am-plain", {}, make("thead", {}, make("tr", {},
          ["started", "verdict", "evidence", "commit", "duration", "measured"].map((key) =>
            make("th", { scope: "col" }, t(key))))),
        make("tbody", {}, runs.map((run) => make("tr", {},
          make("td", {}, run.started.replace("T", " ")),
          make("td", {}, label(run.verdict)),
          make("td", {}, t("evidence_" + run.evidence)),
          make("td", {}, run.url
            ? make("a", { href: run.url, rel: "noreferrer" }, run.commit || t("run"))
            : make("code", {}, run.commit || "–")),
          make("td", {}, `${run.seconds} s`),
          make("td", {}, run.point ? `${run.point[0]} ${run.point[4]}` : "–")))))),
    ];
  }

  /** A box a run, the newest at the right, with its symbol, so that colour is not all that tells. */
  function strip(runs) {
    const shown = runs.slice(0, 30).reverse();
    const words = shown.map((run) => t("state_" + run.verdict)).join(", ");
    return draw("svg", { class: "am-strip", role: "img", height: 22, width: shown.length * 17 + 1,
      "aria-label": t("strip", { verdicts: words }) },
    shown.map((run, at) => {
      const title = draw("title");
      title.textContent = `${run.started.replace("T", " ")}: ${t("state_" + run.verdict)}, ` +
        t("evidence_" + run.evidence);
      const symbol = draw("text", { x: at * 17 + 8.5, y: 15.5 });
      symbol.textContent = SYMBOLS[run.verdict];
      return draw("g", { class: `am-${run.verdict} am-${run.evidence}` }, title,
        draw("rect", { x: at * 17 + 1, y: 1, width: 15, height: 20, rx: 3 }), symbol);
    }));
  }

  /** The main metric over time with its intervals; drawn from two values of one metric on. */
  function line(runs) {
    const name = runs.find((run) => run.point)?.point[0];
    const shown = runs.filter((run) => run.point && run.point[0] === name).reverse();
    if (shown.length < 2) return null;
    const width = 420, height = 110, left = 62, right = 10, top = 10, bottom = 22;
    const ends = shown.flatMap(({ point }) => [point[1], point[2] ?? point[1], point[3] ?? point[1]]);
    let low = Math.min(...ends), high = Math.max(...ends);
    if (low === high) [low, high] = [low - (Math.abs(low) || 1) * 0.05, high + (Math.abs(high) || 1) * 0.05];
    const times = shown.map((run) => Date.parse(run.started + "Z"));
    const span = times[times.length - 1] - times[0] || 1;
    const x = (at) => left + ((times[at] - times[0]) / span) * (width - left - right);
    const y = (value) => top + ((high - value) / (high - low)) * (height - top - bottom);
    const text = (words, attributes) => {
      const made = draw("text", attributes);
      made.textContent = words;
      return made;
    };
    const short = (value) => Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3)
      ? value.toExponential(1) : Number(value.toPrecision(3)).toString();
    const title = draw("title");
    title.textContent = `${name}: ${shown.map((run) => run.point[4]).join(", ")}`;
    return draw("svg", { class: "am-line", role: "img", viewBox: `0 0 ${width} ${height}`,
      "aria-label": title.textContent }, title,
    [high, low].map((value) => draw("line", { class: "am-axis", x1: left, x2: width - right,
      y1: y(value), y2: y(value) })),
    text(short(high), { x: left - 6, y: y(high) + 4, "text-anchor": "end" }),
    text(short(low), { x: left - 6, y: y(low) + 4, "text-anchor": "end" }),
    text(shown[0].started.slice(0, 10), { x: left, y: height - 6 }),
    text(shown[shown.length - 1].started.slice(0, 10), { x: width - right, y: height - 6, "text-anchor": "end" }),
    text(name, { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }),
    draw("polyline", { points: shown.map((run, at) => `${x(at)},${y(run.point[1])}`).join(" ") }),
    shown.flatMap((run, at) => [
      ...(run.point[2] !== null && run.point[3] !== null
        ? [draw("line", { class: "am-bar", x1: x(at), x2: x(at), y1: y(run.point[2]), y2: y(run.point[3]) })]
        : []),
      draw("circle", { class: `am-${run.verdict}`, cx: x(at), cy: y(run.point[1]), r: 3.5 }),
    ]));
  }

  function closeDrawer() {
    writeAddress();
    const target = opener?.isConnected ? opener
      : document.querySelector(`table[role="grid"] td[data-cell="${CSS.escape($("am-drawer").dataset.cell)}"]`);
    opener = null;
    if (target?.matches("td.am-c")) moveTo(target.parentElement, target.cellIndex);
    else target?.focus();
  }

  // ------------------------------------------------------------------------------------ controls

  function options(select, entries) {
    select.replaceChildren(...entries.map(([value, words]) => make("option", { value }, words)));
  }

  function renderControls() {
    options($("am-hw"), data.hardware.map((one) => [one.name, `${one.title} (${one.soc})`]));
    options($("am-cann"), data.cann.map((one) => [one.version,
      `CANN ${one.version}` + (one.status === "current" ? "" : ` (${t("cann_" + one.status)})`)]));
    options($("am-kind"), data.kinds.map((kind) => [kind, t("kind_" + kind)]));
    options($("am-evidence"), [["", t("any_evidence")], ...["simulated", "hardware"].map((one) =>
      [one, t("evidence_" + one)])]);
    options($("am-form"), [["", t("any_form")], ["real", t("form_real")], ["stand-in", t("form_stand_in")]]);
    const tasks = [...new Set(data.models.map((one) => one.task))];
    options($("am-task"), [["", t("any_task")], ...tasks.map((task) => [task, t("task_" + task)])]);
    options($("am-sort"), ["order", "name", "passed", "bad", "newest"].map((one) => [one, t("sort_" + one)]));
    for (const key of ["hw", "cann", "kind", "evidence", "form", "task", "sort"]) {
      $("am-" + key).value = choice[key];
    }
    $("am-models").value = choice.models;
    $("am-features").value = choice.features;
    $("am-all").checked = Boolean(choice.all);
    renderChips();
  }

  /** A chip per state with the number of cells in this view; pressed chips filter. */
  function renderChips() {
    const known = slice(choice.hw, choice.cann, choice.kind);
    const chosen = choice.states ? choice.states.split(" ") : [];
    $("am-chips").replaceChildren(...STATES.map((state) => {
      const count = known.filter((one) => one.state === state).length;
      return make(`button.am-chip.am-${css(state)}`, {
        type: "button", "aria-pressed": String(chosen.includes(state)), "data-state": state,
        disabled: count === 0 && !chosen.includes(state), title: t("meaning_" + state),
      }, make("span.am-glyph", { "aria-hidden": "true" }, SYMBOLS[state]),
      ` ${t("state_" + state)} `, make("strong", {}, String(count)));
    }));
  }

  // What renders each view; other scripts add theirs before the page is ready.
  const views = { grid: () => { renderChips(); renderGrid(); } };

  function render() {
    if (!views[choice.view]) choice.view = "grid";
    for (const view of Object.keys(views)) $("am-view-" + view).hidden = choice.view !== view;
    for (const tab of document.querySelectorAll("[data-view]")) {
      tab.setAttribute("aria-selected", String(tab.dataset.view === choice.view));
      tab.tabIndex = tab.dataset.view === choice.view ? 0 : -1;
    }
    views[choice.view]();
  }

  function change(key, value) {
    choice[key] = value;
    writeAddress();
    render();
  }

  function listen() {
    for (const key of ["hw", "cann", "kind", "evidence", "form", "task", "sort"]) {
      $("am-" + key).addEventListener("change", (event) => change(key, event.target.value));
    }
    for (const key of ["models", "features"]) {
      $("am-" + key).addEventListener("input", (event) => change(key, event.target.value.trim()));
    }
    $("am-all").addEventListener("change", (event) => change("all", event.target.checked ? "1" : ""));
    $("am-reset").addEventListener("click", () => {
      const { hw, cann, kind, view } = choice;
      Object.assign(choice, DEFAULTS, { hw, cann, kind, view });
      writeAddress();
      renderControls();
      render();
    });
    $("am-chips").addEventListener("click", (event) => {
      const state = event.target.closest("[data-state]")?.dataset.state;
      if (!state) return;
      const chosen = new Set(choice.states ? choice.states.split(" ") : []);
      if (!chosen.delete(state)) chosen.add(state);
      change("states", [...chosen].join(" "));
      $("am-chips").querySelector(`[data-state="${state}"]`).focus();
    });
    for (const grid of document.querySelectorAll('table[role="grid"]')) {
      grid.addEventListener("click", (event) => {
        const cell = event.target.closest("td[data-cell]");
        if (cell) openFrom(cell);
      });
      grid.addEventListener("keydown", onGridKey);
      grid.addEventListener("focusin", (event) => tell(event.target.closest("td")));
      grid.addEventListener("mouseover", (event) => tell(event.target.closest("td")));
    }
    const tabs = document.querySelector(".am-tabs");
    tabs.addEventListener("click", (event) => {
      const view = event.target.closest("[data-view]")?.dataset.view;
      if (view) change("view", view);
    });
    tabs.addEventListener("keydown", (event) => {
      const all = [...tabs.children];
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = all[(all.indexOf(event.target) + step + all.length) % all.length];
      change("view", next.dataset.view);
      next.focus();
    });
    $("am-drawer").addEventListener("close", closeDrawer);
    $("am-drawer").addEventListener("click", (event) => {
      if (event.target === $("am-drawer")) $("am-drawer").close();  // the backdrop
    });
    $("am-close").addEventListener("click", () => $("am-drawer").close());
    window.addEventListener("hashchange", arrive);
  }

  /** Show what the address asks for: a cell, or a view. */
  function arrive() {
    const cell = readAddress();
    renderControls();
    render();
    if (cell) open(cell, choice.kind);
  }

  window.am.matrix = { data, choice, change, views, slice, meaning, cellId, label, badge, square, fits,
    openFrom, outside, hardwareTitle, VERDICTS };

  document.addEventListener("DOMContentLoaded", () => {
    listen();
    window.am.onLanguage(() => { renderControls(); render(); });
    arrive();
    performance.mark("am-interactive");
  });
})();
