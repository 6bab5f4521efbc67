// The view of two features at once: a triangle of features by features.
(function () {
  "use strict";

  const { t, make } = window.am;
  const { data, choice, change, views, meaning, square, fits, hardwareTitle, outside } = window.am.matrix;
  const $ = (id) => document.getElementById(id);
  const kindPlace = () => data.kinds.indexOf(choice.kind);

  /** Where pairs are claimed at all, as "a2/9.1.0". */
  const places = [...new Set(data.pairs.map(([, , , hardware, cann]) => `${hardware}/${cann}`))];

  function status([, , , , , letters, age, real]) {
    const found = { ...meaning(letters[kindPlace()]), age: null, evidence: null };
    const ran = found.verdict || data.letters[found.state] && "pfeix".includes(letters[kindPlace()]);
    if (ran) Object.assign(found, { age, evidence: real ? "hardware" : "simulated" });
    return found;
  }

  function shownPlace() {
    const wanted = `${choice.hw}/${choice.cann}`;
    return places.includes(wanted) ? wanted : places[0];
  }

  function render() {
    const place = shownPlace();
    const here = data.pairs.filter(([, , , hardware, cann]) => `${hardware}/${cann}` === place);
    const known = new Map(here.map((pair) => [`${pair[0]}+${pair[1]}`, pair]));
    const named = (f) => fits(choice.features, data.features[f].name, data.features[f].title);
    const used = new Set(here.filter((pair) => choice.all || !outside(status(pair)))
      .flatMap(([one, other]) => [one, other]));
    const all = data.features.map((_, f) => f).filter((f) => used.has(f));
    const rows = all.filter(named);
    $("am-pairs-place").replaceChildren(...places.map((name) => {
      const [hardware, cann] = name.split("/");
      return make("option", { value: name, selected: name === place },
        `${hardwareTitle(hardware)}, CANN ${cann}`);
    }));
    $("am-pairs-features").value = choice.features;
    const cell = (row, column) => {
      if (row === column) return make("td.am-c.am-self", { role: "gridcell", tabindex: -1,
        "aria-label": t("same_feature") }, "·");
      const [one, other] = [row, column].map((f) => data.features[f].name).sort();
      const pair = known.get([row, column].sort((a, b) => a - b).join("+"));
      if (!pair) return make("td.am-c.am-na", { role: "gridcell", tabindex: -1,
        "aria-label": t("no_pair") }, "");
      const [hardware, cann] = place.split("/");
      const id = `${data.models[pair[2]].name}/${one}+${other}/cann-${cann}/${hardware}`;
      return square(status(pair), id, `${data.features[row].title} + ${data.features[column].title}`);
    };
    // A triangle where every feature is a row; with a filter, whole rows.
    const whole = rows.length < all.length;
    const header = make("tr", { role: "row" },
      make("th.am-corner", { scope: "col", role: "columnheader", tabindex: -1 }, t("feature")),
      all.map((f) => make("th", { scope: "col", role: "columnheader" },
        make("a", { href: `features/${data.features[f].name}.html`, tabindex: -1 }, data.features[f].title))));
    $("am-pairs").replaceChildren(make("thead", {}, header), make("tbody", {}, rows.map((row) =>
      make("tr", { role: "row" }, make("th", { scope: "row", role: "rowheader" },
        make("a", { href: `features/${data.features[row].name}.html`, tabindex: -1 }, data.features[row].title)),
      all.filter((column) => whole || all.indexOf(column) <= all.indexOf(row))
        .map((column) => cell(row, column))))));
    const first = $("am-pairs").querySelector("tbody td");
    if (first) first.tabIndex = 0;
    const states = here.map(status);
    const supported = states.filter((one) => !outside(one));
    $("am-pairs-shown").textContent = t("pairs_shown", { all: here.length, supported: supported.length,
      passed: supported.filter((one) => one.state === "passed").length });
  }

  views.pairs = render;
  document.addEventListener("DOMContentLoaded", () => {
    $("am-pairs-place").addEventListener("change", (event) => {
      const [hardware, cann] = event.target.value.split("/");
      Object.assign(choice, { hw: hardware });
      change("cann", cann);
    });
    $("am-pairs-features").addEventListener("input", (event) => change("features", event.target.value.trim()));
  });
})();
