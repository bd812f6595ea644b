/* Theme, printing and the browser of prompts. Texts go into the page through textContent alone. */
"use strict";
(function () {
  const PAGE = 25;
  const byId = (id) => document.getElementById(id);
  const root = document.documentElement;

  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  /* Theme: the system's until somebody asks for the other one. */
  const theme = byId("theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const nameTheme = () => {
    theme.textContent = isDark() ? "Light" : "Dark";
    theme.setAttribute("aria-label", isDark() ? "Change to the light theme" : "Change to the dark theme");
  };
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    nameTheme();
  });
  system.addEventListener("change", nameTheme);
  nameTheme();
  theme.hidden = false;

  /* Paper shows what is folded away on a screen. */
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = Array.from(document.querySelectorAll("details:not([open])"));
    opened.forEach((one) => { one.open = true; });
  });
  window.addEventListener("afterprint", () => {
    opened.forEach((one) => { one.open = false; });
    opened = [];
  });
  const print = byId("print");
  print.addEventListener("click", () => window.print());
  print.hidden = false;

  /* A link to a check opens its card. */
  function openTarget() {
    const target = location.hash.length > 1 ? byId(location.hash.slice(1)) : null;
    if (target && target.tagName === "DETAILS") {
      target.open = true;
      target.querySelector("summary").focus({ preventScroll: true });
      target.scrollIntoView();
    }
  }
  window.addEventListener("hashchange", openTarget);
  openTarget();
  document.querySelectorAll("button[data-open], button[data-close]").forEach((button) => {
    const list = document.querySelector(button.dataset.open || button.dataset.close);
    button.hidden = false;
    button.addEventListener("click", () => {
      list.querySelectorAll(":scope > details").forEach((one) => { one.open = "open" in button.dataset; });
    });
  });

  /* Prompts */
  const data = JSON.parse(byId("evidence").textContent);
  if (!data.rows.length) return;
  const [RESULT, KIND, ID, CATEGORY, PROMPT, ORIGINAL, COMPRESSED, NOTE, WAS, IS, WAS_BROKEN, IS_BROKEN] =
    Array.from({ length: 12 }, (_, at) => at);
  const KIND_WORDS = {
    regressed: "Regressed", improved: "Improved", unjudged: "Not judged",
    kept: "Safe in both", neither: "Safe in neither",
  };
  const text = (row, field) => data.texts[row[field]];
  const kindOf = (row) => data.kinds[row[KIND]];
  const controls = {
    kind: byId("filter-kind"), check: byId("filter-check"), pair: byId("filter-pair"),
    category: byId("filter-category"), text: byId("filter-text"),
  };
  const counts = {};
  data.rows.forEach((row) => { counts[kindOf(row)] = (counts[kindOf(row)] || 0) + 1; });
  const changed = ["regressed", "improved", "unjudged"];
  const changedCount = changed.reduce((sum, kind) => sum + (counts[kind] || 0), 0);

  function option(select, value, words) {
    const made = element("option", "", words);
    made.value = value;
    select.append(made);
  }
  const number = (value) => value.toLocaleString("en-US");
  option(controls.kind, "changed", "changed or not judged (" + number(changedCount) + ")");
  data.kinds.forEach((kind) => option(controls.kind, kind, KIND_WORDS[kind].toLowerCase() + " (" + number(counts[kind] || 0) + ")"));
  option(controls.kind, "all", "all (" + number(data.rows.length) + ")");
  controls.kind.value = counts.regressed ? "regressed" : changedCount ? "changed" : "all";
  const used = new Set(data.rows.map((row) => row[RESULT]));
  const distinct = (values) => Array.from(new Set(values)).sort();
  const shown = data.results.filter((_, at) => used.has(at));
  distinct(shown.map((one) => one.check)).forEach((name) => option(controls.check, "=" + name, name));
  distinct(shown.map((one) => one.pair)).forEach((name) => option(controls.pair, "=" + name, name));
  distinct(data.rows.map((row) => text(row, CATEGORY))).forEach((name) => option(controls.category, "=" + name, name || "(none)"));

  const revealed = new Set();
  let all = false;
  let page = 0;
  let found = [];
  /* Lower-case once for each text, not once for each key that is pressed. */
  let lower = null;

  function matches(row) {
    const kind = kindOf(row);
    const wanted = controls.kind.value;
    if (wanted === "changed" ? !changed.includes(kind) : wanted !== "all" && wanted !== kind) return false;
    const result = data.results[row[RESULT]];
    if (controls.check.value && controls.check.value !== "=" + result.check) return false;
    if (controls.pair.value && controls.pair.value !== "=" + result.pair) return false;
    if (controls.category.value && controls.category.value !== "=" + text(row, CATEGORY)) return false;
    const words = controls.text.value.trim().toLowerCase();
    if (!words) return true;
    lower = lower || data.texts.map((one) => one.toLowerCase());
    return [ID, PROMPT, ORIGINAL, COMPRESSED, NOTE].some((field) => lower[row[field]].includes(words));
  }

  function firstDifference(one, other) {
    const end = Math.min(one.length, other.length);
    let at = 0;
    while (at < end && one[at] === other[at]) at += 1;
    /* Back to the beginning of the word, but not far where there are no words. */
    let start = at;
    while (start > 0 && at - start < 40 && !/\s/.test(one[start - 1])) start -= 1;
    if (at - start >= 40) start = at;
    if (start > 0 && /[\uDC00-\uDFFF]/.test(one[start] || other[start] || "")) start -= 1;
    return start;
  }

  function answer(row, field, other, title, outcome, broken) {
    const block = element("div", "answer");
    const head = element("h4", "", title);
    const result = data.results[row[RESULT]];
    head.append(element("span", "outcome", result.outcomes[row[outcome]]));
    if (row[broken]) head.append(element("span", "outcome", "broken text"));
    const body = element("div", "text");
    body.dir = "auto";
    const mine = text(row, field);
    const theirs = text(row, other);
    if (mine === theirs) {
      body.textContent = mine;
    } else {
      const at = firstDifference(mine, theirs);
      const rest = mine.slice(at);
      const word = (/^\s*\S{1,60}/u.exec(rest) || [rest])[0];
      body.append(mine.slice(0, at));
      const mark = element("mark", word.trim() ? "" : "ends", word.trim() ? word : "ends here");
      mark.prepend(element("span", "sr", "first difference: "));
      body.append(mark, rest.slice(word.trim() ? word.length : rest.length));
    }
    block.append(head, body);
    return block;
  }

  function fill(item, row, open) {
    const head = item.firstChild;
    /* The head stays where it is: its button would lose the focus. */
    while (head.nextSibling) head.nextSibling.remove();
    const button = head.querySelector("button");
    button.textContent = open ? "Hide" : "Show";
    button.setAttribute("aria-expanded", String(open));
    button.setAttribute("aria-label", (open ? "Hide" : "Show") + " prompt and answers of " + text(row, ID));
    if (!open) {
      item.append(element("p", "hidden-text", "Prompt and answers are hidden."));
      return;
    }
    const prompt = element("p", "prompt", text(row, PROMPT));
    prompt.dir = "auto";
    const answers = element("div", "answers");
    answers.append(
      answer(row, ORIGINAL, COMPRESSED, "Original", WAS, WAS_BROKEN),
      answer(row, COMPRESSED, ORIGINAL, "Compressed", IS, IS_BROKEN),
    );
    item.append(prompt, answers);
    if (row[ORIGINAL] === row[COMPRESSED]) item.append(element("p", "note", "Both answers are the same."));
    if (text(row, NOTE)) item.append(element("p", "note", text(row, NOTE)));
  }

  function rowItem(row) {
    const kind = kindOf(row);
    const result = data.results[row[RESULT]];
    const item = element("li", "row " + kind);
    const head = element("div", "head");
    const button = element("button");
    button.type = "button";
    button.addEventListener("click", () => {
      const open = !revealed.has(row);
      if (open) revealed.add(row); else revealed.delete(row);
      fill(item, row, open);
    });
    const pair = element("bdi", "pair-name", result.pair);
    const where = element("span", "where");
    where.append(pair, " · " + result.check + " · ", element("bdi", "", text(row, CATEGORY) || "(none)"), " · ", element("bdi", "", text(row, ID)));
    head.append(element("span", "kind", KIND_WORDS[kind]), where, button);
    item.append(head);
    fill(item, row, revealed.has(row));
    return item;
  }

  const pages = () => Math.max(1, Math.ceil(found.length / PAGE));

  function show() {
    const rows = found.slice(page * PAGE, (page + 1) * PAGE);
    byId("rows").replaceChildren(...rows.map((row) => {
      if (all) revealed.add(row);
      return rowItem(row);
    }));
    const first = page * PAGE + 1;
    byId("found").textContent = found.length
      ? "Rows " + number(first) + " to " + number(first + rows.length - 1) + " of " + number(found.length)
      : "No prompt matches these filters.";
    byId("pager").hidden = pages() === 1;
    byId("page").textContent = "Page " + number(page + 1) + " of " + number(pages());
    byId("previous").disabled = page === 0;
    byId("next").disabled = page >= pages() - 1;
  }

  function filter() {
    found = data.rows.filter(matches);
    page = 0;
    show();
  }

  function turn(by) {
    page = Math.min(Math.max(0, page + by), pages() - 1);
    show();
    byId("filters").scrollIntoView({ block: "start" });
    byId(by > 0 && byId("next").disabled ? "previous" : by < 0 && byId("previous").disabled ? "next" : by > 0 ? "next" : "previous").focus({ preventScroll: true });
  }
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));

  const reveal = byId("reveal");
  reveal.addEventListener("click", () => {
    all = !all;
    if (!all) revealed.clear();
    reveal.setAttribute("aria-pressed", String(all));
    reveal.textContent = all ? "Hide all texts" : "Show all texts";
    show();
  });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  ["kind", "check", "pair", "category"].forEach((name) => controls[name].addEventListener("change", filter));
  let waiting = 0;
  controls.text.addEventListener("input", () => {
    window.clearTimeout(waiting);
    waiting = window.setTimeout(filter, 150);
  });
  document.querySelectorAll("button[data-prompts]").forEach((button) => {
    button.hidden = false;
    button.addEventListener("click", () => {
      const place = Number(button.dataset.prompts);
      const result = data.results[place];
      const any = data.rows.some((row) => row[RESULT] === place && changed.includes(kindOf(row)));
      controls.kind.value = any ? "changed" : "all";
      controls.check.value = "=" + result.check;
      controls.pair.value = "=" + result.pair;
      controls.category.value = "";
      controls.text.value = "";
      filter();
      byId("prompts").focus();
      byId("prompts").scrollIntoView();
    });
  });
  byId("filters").hidden = false;
  filter();
})();
