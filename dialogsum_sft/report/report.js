"use strict";
const root = document.documentElement;
try {
  const theme = localStorage.getItem("theme");
  if (theme) root.dataset.theme = theme;
} catch { /* without storage the system's theme applies */ }

addEventListener("DOMContentLoaded", () => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const dialogues = data.dialogues;
  const [search, sort, measure, filter, turn] = ["search", "sort", "measure", "filter", "turn"].map($);
  const [list, article, status, place, help] = ["list", "article", "status", "place", "help"].map($);

  // All text of users goes through `append`, which makes text nodes of strings, never markup.
  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };
  const points = (value, signed) =>
    (signed && value >= 0.05 ? "+" : "") + value.toFixed(1).replace(/^-0\.0$/, "0.0").replace("-", "\u2212");
  const mark = (system) => document.querySelector(`#marks [data-system="${system}"]`).cloneNode(true);

  // Indices of the dialogues in the list, in order; the position of the open one; how many are in the list.
  let order = [];
  let at = 0;
  let listed = 0;
  let reversed = false;
  let haystacks = null;
  const fold = (text) => text.normalize("NFKC").toLowerCase();
  const haystack = (row) =>
    fold([row.id, row.topic, ...row.turns.flat(), ...row.references,
          ...row.outputs.map((output) => output.text.map(([piece]) => piece).join(""))].join("\n"));
  const score = (index, system) => dialogues[index].outputs[system].scores[measure.value];
  const support = (index, system) => dialogues[index].outputs[system].likelihood[1];
  const nats = (value) => (value === null ? "\u2013" : value.toFixed(2).replace("-", "\u2212"));
  const key = (index) => {
    const [kind, system] = sort.value.split(" ");
    if (kind === "score") return score(index, system);
    if (kind === "gain") return score(index, system) - score(index, 0);
    if (kind === "support") return support(index, system) ?? Number.MAX_VALUE; // summaries without it come last
    if (kind === "length") return dialogues[index].turns.length;
    return index;
  };

  function refresh() {
    const current = order[at];
    const words = fold(search.value).split(/\s+/).filter(Boolean);
    if (words.length) haystacks ??= dialogues.map(haystack);
    const matches = (row, index) =>
      (!filter.value || row.outputs.some((output) => output.findings.includes(filter.value))) &&
      words.every((word) => haystacks[index].includes(word));
    order = [...dialogues.keys()].filter((index) => matches(dialogues[index], index));
    const keys = dialogues.map((_, index) => key(index));
    order.sort((a, b) => (reversed ? keys[b] - keys[a] : keys[a] - keys[b]));
    at = Math.max(0, order.indexOf(current));
    const all = dialogues.length;
    status.textContent = order.length === all ? `${all} dialogues` : `${order.length} of ${all} dialogues`;
    list.replaceChildren();
    list.scrollTop = 0;
    listed = 0;
    more();
    show();
  }

  // The list holds what is visible and some more; it grows while it is scrolled or stepped through.
  function more(upto = 0) {
    while (listed < order.length && (listed <= upto || list.scrollHeight < list.scrollTop + 3 * list.clientHeight)) {
      list.append(...order.slice(listed, listed + 30).map((index, i) => entry(index, listed + i)));
      listed += 30;
    }
  }

  function entry(index, position) {
    const row = dialogues[index];
    const values = make("span", { className: "values" });
    const [kind, system] = sort.value.split(" ");
    if (kind === "gain") values.append(points(key(index), true));
    else if (kind === "score") values.append(mark(system), points(key(index)));
    else if (kind === "support") values.append(mark(system), nats(support(index, system)));
    else row.outputs.slice(0, 3).forEach((_, i) => values.append(mark(i), points(score(index, i))));
    const name = make("span", { className: "name", dir: "auto" }, row.id);
    const topic = make("span", { className: "topic", dir: "auto" }, row.topic);
    const button = make("button", { type: "button" }, name, topic, values);
    button.dataset.position = position;
    return make("li", {}, button);
  }

  function show() {
    list.querySelector("[aria-current]")?.removeAttribute("aria-current");
    $("previous").disabled = at <= 0;
    $("next").disabled = at >= order.length - 1;
    place.textContent = order.length ? `${at + 1} of ${order.length}` : "none";
    if (!order.length) {
      article.replaceChildren(make("p", { className: "quiet" }, "No dialogue is like this."));
      return;
    }
    more(at + 5);
    list.children[at].firstChild.setAttribute("aria-current", "true");
    article.replaceChildren(...page(dialogues[order[at]]));
    highlight();
  }

  function page(row) {
    const title = make("h3", { dir: "auto" }, row.id);
    if (row.topic) title.append(make("span", { className: "topic" }, row.topic));
    const turns = row.turns.map(([speaker, text]) =>
      make("div", { className: speaker ? "turn" : "turn alone" },
           ...(speaker ? [make("dt", { dir: "auto" }, speaker)] : []), make("dd", { dir: "auto" }, text)));
    const dropped = Math.max(...row.outputs.map((output) => output.dropped));
    const references = row.references.map((text) => make("li", { dir: "auto" }, text));
    return [
      title,
      make("dl", { className: "turns" }, ...turns),
      ...(dropped ? [make("p", { className: "quiet" },
        `${dropped} of its turns, from the middle, did not fit and were not shown to the model.`)] : []),
      ...row.outputs.flatMap((output, system) => output.windows > 1 ? [make("p", { className: "quiet" },
        `It is longer than a prompt: ${data.systems[system]} was given it in ${output.windows} windows, whose ` +
        `summaries have seen ${Math.floor(100 * output.seen)}% of its turns.`)] : []),
      make("h4", {}, references.length > 1 ? "References" : "Reference"),
      make("ol", { className: references.length > 1 ? "references" : "references one" }, ...references),
      ...row.outputs.map((output, system) => summary(row, output, system)),
    ];
  }

  function summary(row, output, system) {
    const text = make("p", { className: "prediction", dir: "auto" });
    for (const [piece, kind] of output.text) {
      text.append(kind ? make("mark", { className: kind, title: data.findings[kind] }, piece) : piece);
    }
    if (output.findings.includes("empty")) text.append(make("span", { className: "quiet" }, "(empty)"));
    else if (output.findings.includes("unfinished")) text.append(make("span", { title: "cut off" }, " \u2026"));
    const scores = make("dl", { className: "scores" });
    data.types.forEach((type, i) => {
      const gain = system ? output.scores[i] - row.outputs[0].scores[i] : null;
      const value = make("dd", {}, points(output.scores[i]));
      if (gain !== null) value.append(make("small", { title: `against ${data.systems[0]}` }, ` ${points(gain, true)}`));
      scores.append(make("div", {}, make("dt", {}, type), value));
    });
    scores.append(make("div", {}, make("dt", {}, "Words"), make("dd", {}, String(output.words))));
    if (output.likelihood[0] !== null) {
      ["Likelihood", "Gain"].forEach((name, i) =>
        scores.append(make("div", {}, make("dt", {}, name), make("dd", {}, nats(output.likelihood[i])))));
    }
    const faults = output.findings.map((name) => make("li", { className: name }, data.findings[name]));
    return make("section", { className: `summary s${system % 6}` },
      make("h4", {}, mark(system), make("span", { dir: "auto" }, data.systems[system])),
      text, scores, ...(faults.length ? [make("ul", { className: "findings" }, ...faults)] : []));
  }

  function highlight() {
    if (!globalThis.Highlight) return;
    const ranges = [];
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const walker = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); words.length && node; node = walker.nextNode()) {
      const text = node.data.toLowerCase();
      if (text.length !== node.length) continue; // lower-casing can change the length, in Turkish for example
      for (const word of words) {
        for (let i = text.indexOf(word); i >= 0; i = text.indexOf(word, i + word.length)) {
          const range = new Range();
          range.setStart(node, i);
          range.setEnd(node, i + word.length);
          ranges.push(range);
        }
      }
    }
    CSS.highlights.set("search", new Highlight(...ranges));
  }

  function go(position, focus = false) {
    if (position < 0 || position >= order.length) return;
    at = position;
    show();
    const button = list.children[at].firstChild;
    if (focus) button.focus({ preventScroll: true });
    // Scroll the list, not the page.
    const above = button.offsetTop - list.scrollTop;
    if (above < 0) list.scrollTop += above;
    else if (above + button.offsetHeight > list.clientHeight) list.scrollTop = button.offsetTop + button.offsetHeight - list.clientHeight;
    const card = article.parentElement;
    const top = card.getBoundingClientRect().top;
    if (top < 0 || top > innerHeight * 0.7) card.scrollIntoView({ behavior: "instant" });
    try { history.replaceState(null, "", `#id=${encodeURIComponent(dialogues[order[at]].id)}`); } catch { /* browsers limit the rate */ }
  }

  for (const control of [sort, measure, filter]) control.addEventListener("change", refresh);
  search.addEventListener("input", refresh);
  turn.addEventListener("click", () => {
    reversed = !reversed;
    turn.setAttribute("aria-pressed", reversed);
    refresh();
  });
  list.addEventListener("scroll", () => more());
  list.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) go(Number(button.dataset.position), true);
  });
  $("previous").addEventListener("click", () => go(at - 1));
  $("next").addEventListener("click", () => go(at + 1));
  $("keys").addEventListener("click", () => help.showModal());
  $("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* the choice is not stored then */ }
  });

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    const inList = list.contains(event.target);
    if (event.target === search && event.key === "Escape") {
      search.value = "";
      search.blur();
      refresh();
    } else if (event.target === search && (event.key === "ArrowDown" || event.key === "Enter")) {
      event.preventDefault();
      go(at, true);
    } else if (event.target.closest?.("input, select, .scroll")) {
      return;
    } else if (event.key === "/") {
      event.preventDefault();
      search.focus();
      search.select();
    } else if (event.key === "?") {
      help.showModal();
    } else {
      const steps = { j: 1, k: -1, ArrowRight: 1, ArrowLeft: -1, ...(inList && { ArrowDown: 1, ArrowUp: -1 }) };
      if (!(event.key in steps)) return;
      event.preventDefault();
      go(at + steps[event.key], inList);
    }
  });

  for (const node of document.querySelectorAll("[data-script]")) node.hidden = false;
  refresh();
  const id = location.hash.startsWith("#id=") && decodeURIComponent(location.hash.slice(4));
  const position = id ? order.findIndex((index) => dialogues[index].id === id) : -1;
  if (position >= 0) {
    go(position);
    $("dialogues").scrollIntoView();
  }
});
