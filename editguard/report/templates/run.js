"use strict";
(function () {
  const PAGE = 50;
  const LONG = 200;
  const at = (id) => document.getElementById(id);
  const data = JSON.parse(at("data").textContent);
  const column = Object.fromEntries(data.columns.map((name, place) => [name, place]));
  const text = (place) => (place < 0 ? null : data.texts[place]);
  const of = (row, name) => row[column[name]];
  const told = (row, name) => text(of(row, name));
  const haystacks = new Array(data.rows.length);
  let chosen = [];
  let first = 0;

  function haystack(number) {
    if (haystacks[number] === undefined) {
      const row = data.rows[number];
      const texts = ["prompt", "before", "after", "accepted", "test", "kind"].map((name) => told(row, name) || "");
      haystacks[number] = [...texts, ...of(row, "expected").map(text)].join("\n").toLowerCase();
    }
    return haystacks[number];
  }

  const clipped = (whole) => (whole !== null && whole.length > LONG ? `${whole.slice(0, LONG)}…` : whole);

  function element(name, content, attributes) {
    const made = document.createElement(name);
    if (content !== undefined && content !== null) made.textContent = content;
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    return made;
  }

  function options(select, name, read, order) {
    const values = [...new Set(data.rows.map((row) => read(row, name)))].sort(order);
    select.append(element("option", "all", { value: "" }));
    for (const value of values) select.append(element("option", value, { value: value }));
  }

  function choose() {
    const words = at("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const state = at("by-state").value;
    const wanted = [
      [at("by-method").value, (row) => told(row, "method")],
      [at("by-property").value, (row) => told(row, "property")],
      [at("by-outcome").value, (row) => told(row, "outcome")],
      [at("by-edits").value, (row) => String(of(row, "edits"))],
    ].filter(([value]) => value !== "");
    chosen = [];
    data.rows.forEach((row, number) => {
      if (state !== "all" && !of(row, state)) return;
      if (!wanted.every(([value, read]) => read(row) === value)) return;
      if (words.length && !words.every((word) => haystack(number).includes(word))) return;
      chosen.push(number);
    });
    first = 0;
    show();
  }

  function show() {
    const numbers = chosen.slice(first, first + PAGE);
    at("rows").replaceChildren(...numbers.map(rowOf));
    const all = data.rows.length.toLocaleString("en");
    at("count").textContent = chosen.length
      ? `${chosen.length.toLocaleString("en")} of ${all} cases`
      : `None of ${all} cases` + (at("by-state").value === "all" ? "" : `; choose “all” under “Show” to see others`);
    at("place").textContent = chosen.length ? `${first + 1} to ${first + numbers.length} of ${chosen.length}` : "";
    at("previous").disabled = first === 0;
    at("next").disabled = first + PAGE >= chosen.length;
  }

  function rowOf(number) {
    const row = data.rows[number];
    const made = element("tr");
    const cell = (label, content, name) => {
      const own = element("td", content, { "data-label": label });
      if (name) own.className = name;
      made.append(own);
      return own;
    };
    const button = element("button", clipped(told(row, "prompt")) || "(no prompt)", { type: "button", "aria-expanded": "false" });
    button.addEventListener("click", () => toggle(button, made, number));
    const prompt = cell("prompt");
    prompt.append(button);
    if (of(row, "must_hold")) prompt.append(element("strong", "must hold", { class: "tag" }));
    cell("wanted", clipped(text(of(row, "expected").concat([-1])[0])) || "");
    cell("before", clipped(told(row, "before")) ?? "–");
    cell("after", clipped(told(row, "after")));
    const value = of(row, "value");
    const graded = value !== null && value !== 0 && value !== 1 ? ` ${value}` : "";
    cell("outcome", told(row, "outcome") + graded + (of(row, "lost") ? ", lost" : ""), of(row, "failing") ? "failing" : "");
    cell("property", told(row, "property"));
    cell("method", told(row, "method"));
    cell("edits", String(of(row, "edits")), "number");
    return made;
  }

  function toggle(button, row, number) {
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!open));
    if (open) {
      row.nextSibling.remove();
      button.removeAttribute("aria-controls");
      return;
    }
    const more = element("tr", null, { class: "more", id: `more-${number}` });
    const cell = element("td", null, { colspan: "8" });
    cell.append(details(data.rows[number]));
    more.append(cell);
    row.after(more);
    button.setAttribute("aria-controls", more.id);
  }

  function details(row) {
    const list = element("dl");
    const add = (name, content) => {
      list.append(element("dt", name));
      const own = element("dd");
      own.append(...[content].flat());
      list.append(own);
    };
    add("Prompt", told(row, "prompt"));
    add("Wanted", of(row, "expected").map(text).join("\nor ") || "–");
    add("Answer without edits", told(row, "before") ?? "not asked");
    add("Answer now", told(row, "after") || "(empty)");
    if (of(row, "lost")) add("In the accepted run", told(row, "accepted") || "(no answer kept)");
    const value = of(row, "value");
    add("Outcome", `${told(row, "outcome")}, value ${value === null ? "none" : value}`);
    const flags = [of(row, "lost") && "lost against the baseline", of(row, "must_hold") && "must hold"].filter(Boolean);
    if (flags.length) add("Baseline", flags.join(", "));
    add("Probability of the wanted tokens", tokens(of(row, "tokens")));
    if (of(row, "tokens_before").length) add("The same without edits", tokens(of(row, "tokens_before")));
    add("Kind of probe", `${told(row, "property")}, ${told(row, "kind")}`);
    add("Edited by", `${told(row, "method")}, ${told(row, "mode")}, ${of(row, "edits")} in force`);
    add("Test", told(row, "test"));
    if (told(row, "edit")) add("Edit", told(row, "edit"));
    return list;
  }

  function tokens(pairs) {
    if (!pairs.length) return "not computed for this case";
    return pairs.flatMap(([place, chance]) => {
      const own = element("span", null, { class: "token" });
      own.append(element("code", text(place)), ` ${chance.toPrecision(3)}`);
      return [own, " "];
    });
  }

  function turn(by) {
    first = Math.max(0, first + by);
    show();
    at("count").scrollIntoView({ block: "nearest" });
  }

  options(at("by-method"), "method", told);
  options(at("by-property"), "property", told);
  options(at("by-outcome"), "outcome", told);
  options(at("by-edits"), "edits", (row, name) => String(of(row, name)), (one, other) => one - other);
  if (!data.rows.some((row) => of(row, "failing"))) at("by-state").value = "all";
  at("filters").addEventListener("input", choose);
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  at("previous").addEventListener("click", () => turn(-PAGE));
  at("next").addEventListener("click", () => turn(PAGE));
  window.addEventListener("beforeprint", () => {
    for (const each of document.querySelectorAll("details")) each.open = true;
  });
  at("browser").hidden = false;
  choose();
})();
