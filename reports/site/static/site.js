// What every page of our own shares: colours, language, and data that is loaded when it is wanted.
(function () {
  "use strict";

  const root = document.currentScript.dataset.root || "";
  const strings = JSON.parse(document.getElementById("am-strings").textContent);
  const languages = Object.keys(strings);
  const themes = ["auto", "light", "dark"];
  const listeners = [];

  // Storage is refused to pages from disk by some browsers; the page then forgets, and works.
  function remembered(key) {
    try { return localStorage.getItem(key); } catch { return null; }
  }
  function remember(key, value) {
    try { localStorage.setItem(key, value); } catch { /* see above */ }
  }

  function preferred() {
    const asked = new URLSearchParams(location.search).get("lang") || remembered("am-lang");
    const found = asked || (navigator.language || "en").slice(0, 2);
    return languages.includes(found) ? found : "en";
  }

  let language = preferred();

  function t(key, values) {
    const text = strings[language][key] ?? strings.en[key] ?? key;
    return values ? text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "") : text;
  }

  function translate(within) {
    for (const one of within.querySelectorAll("[data-t]")) one.textContent = t(one.dataset.t);
    for (const one of within.querySelectorAll("[data-t-label]")) {
      one.setAttribute("aria-label", t(one.dataset.tLabel));
    }
    for (const one of within.querySelectorAll("[data-t-placeholder]")) {
      one.setAttribute("placeholder", t(one.dataset.tPlaceholder));
    }
  }

  function setLanguage(chosen) {
    language = chosen;
    remember("am-lang", chosen);
    document.documentElement.lang = chosen === "zh" ? "zh-Hans" : chosen;
    translate(document);
    for (const listener of listeners) listener();
  }

  // Furo keeps its choice under the same name and on the same attribute, so both agree.
  function setTheme(theme) {
    document.body.dataset.theme = theme;
    remember("theme", theme);
    const button = document.getElementById("am-theme");
    button.dataset.theme = theme;
    button.setAttribute("aria-label", t("theme_" + theme));
    button.title = t("theme_" + theme);
  }

  const waiting = new Map();
  const loaded = new Map();
  window.amLoaded = (name, data) => {
    loaded.set(name, data);
    waiting.get(name)?.resolve(data);
  };

  // Pages from disk may not fetch, but may load a script that hands over its data.
  function load(name) {
    if (loaded.has(name)) return Promise.resolve(loaded.get(name));
    if (waiting.has(name)) return waiting.get(name).promise;
    const entry = {};
    entry.promise = new Promise((resolve, reject) => {
      entry.resolve = resolve;
      const script = document.createElement("script");
      script.src = root + name.split("/").map(encodeURIComponent).join("/") + ".js";
      script.onerror = () => { waiting.delete(name); reject(new Error(script.src)); };
      document.head.append(script);
    });
    waiting.set(name, entry);
    return entry.promise;
  }

  // Texts of records reach the page only as text nodes and attribute values, never as markup.
  function make(tag, attributes, ...children) {
    const [name, ...classes] = tag.split(".");
    const made = document.createElement(name);
    if (classes.length) made.className = classes.join(" ");
    for (const [key, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else made.setAttribute(key, value === true ? "" : value);
    }
    made.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return made;
  }

  function draw(tag, attributes, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    made.append(...children.flat());
    return made;
  }

  window.am = { t, translate, load, make, draw, root, onLanguage: (f) => listeners.push(f) };

  document.addEventListener("DOMContentLoaded", () => {
    document.getElementById("am-language").addEventListener("click", () => {
      setLanguage(languages[(languages.indexOf(language) + 1) % languages.length]);
      setTheme(document.body.dataset.theme);
    });
    document.getElementById("am-theme").addEventListener("click", () => {
      setTheme(themes[(themes.indexOf(document.body.dataset.theme) + 1) % themes.length]);
    });
    setLanguage(language);
    setTheme(themes.includes(document.body.dataset.theme) ? document.body.dataset.theme : "auto");
  });
})();
