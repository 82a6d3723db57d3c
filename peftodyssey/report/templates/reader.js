// Documents with every token shaded by its change, for up to four cells side by side.
if (byId("panes")) {
  const MISSING = 65535, FULL_NATS = 3, LARGE_NATS = 1, MAX_PANES = 4;
  const decoded = new Map();
  function numbers(text) {
    if (!decoded.has(text)) decoded.set(text, new Uint16Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer));
    return decoded.get(text);
  }
  for (const text of data.texts) {
    let offset = 0;
    for (const one of text.documents) { one.offset = offset; offset += one.pieces.length; }
  }
  const textKey = (text) => `${text.index}@${text.run}`;
  const current = {};

  // The column that a change is taken from, and that it leads to; both in thousandths of a nat.
  function columns(cell) {
    const after = current.text.after[cell];
    const minus = baseline();
    const other = minus !== null && current.text.after[minus];
    const before = other ? other.slice(1) : current.text.before[after[0]];
    return { after: numbers(after[1]), rankAfter: numbers(after[2]), before: numbers(before[0]), rankBefore: numbers(before[1]) };
  }
  function delta(column, row) {
    const [before, after] = [column.before[row], column.after[row]];
    return before === MISSING || after === MISSING ? null : (after - before) / 1000;
  }
  function sums(cell, token) {
    const column = columns(cell);
    return current.text.documents.map((one) => {
      let total = 0, count = 0;
      one.pieces.forEach((piece, i) => {
        if (token && piece.trim().toLowerCase() !== token) return;
        const value = delta(column, one.offset + i);
        if (value !== null) { total += value; count += 1; }
      });
      return { one, total, count, mean: count ? total / count : 0 };
    });
  }
  const ORDERS = {
    worst: ["largest rise a token", (a, b) => b.mean - a.mean], best: ["largest fall a token", (a, b) => a.mean - b.mean],
    sum: ["largest sum, either sign", (a, b) => Math.abs(b.total) - Math.abs(a.total)], number: ["number", (a, b) => a.one.n - b.one.n],
  };

  function resolve() {
    const cells = (state.cells || "").split(",").map(cellOf).filter((i) => i !== null);
    const wanted = data.texts.find((text) => textKey(text) === state.text) || data.texts.find((text) => text.index === state.text) || data.texts.find((text) => text.split === "test" && cells.some((i) => text.after[i])) || data.texts[0];
    current.text = wanted;
    const there = Object.keys(wanted.after).map(Number);
    current.cells = cells.filter((i) => wanted.after[i]).slice(0, MAX_PANES);
    if (!current.cells.length) {
      const first = [];
      for (const i of there) if (!first.some((j) => data.cells[j].label === data.cells[i].label && data.cells[j].base === data.cells[i].base)) first.push(i);
      current.cells = first.slice(0, 2);
    }
    const token = (state.find || "").trim().toLowerCase();
    const order = (ORDERS[state.order] || ORDERS.worst)[1];
    const found = sums(current.cells[0], token).filter((one) => one.count > 0 || !token);
    current.ranked = found.sort((a, b) => order(a, b) || a.one.n - b.one.n);
    const asked = wanted.documents.find((one) => String(one.n) === state.doc);
    current.document = asked || (current.ranked[0] || { one: wanted.documents[0] }).one;
  }

  function piece(text, starts) {
    const parts = [];
    let plain = "";
    const flush = () => { if (plain) parts.push(plain); plain = ""; };
    for (const character of text) {
      if (character === " ") { flush(); parts.push(el("span", { class: "ws" }, "·")); }
      else if (character === "\n") { flush(); parts.push(el("span", { class: "ws" }, "⏎"), "\n"); }
      else if (character === "\t") { flush(); parts.push(el("span", { class: "ws" }, "⇥"), "\t"); }
      else if (character < " " || character === "\u007f") { flush(); parts.push(el("span", { class: "ws" }, String.fromCharCode(character === "\u007f" ? 0x2421 : 0x2400 + character.charCodeAt(0)))); }
      else plain += character;
    }
    flush();
    return parts.length ? parts : [el("span", { class: "ws" }, starts ? "" : "◦")];
  }

  function pane(cell) {
    const { one, mean } = sums(cell, "").find((entry) => entry.one === current.document);
    const column = columns(cell);
    const token = (state.find || "").trim().toLowerCase();
    const body = el("div", { class: "tokens", tabindex: "0", role: "region", "aria-label": `Document ${one.id} under ${cellName(data.cells[cell])}`, dir: "auto" });
    const made = one.pieces.map((text, i) => {
      const value = delta(column, one.offset + i);
      const span = el("span", { "data-i": i, class: value === null ? "unscored" : null }, ...piece(text));
      if (value !== null && Math.abs(value) > 0.02) {
        const strength = 0.75 * Math.min(1, Math.abs(value) / FULL_NATS) ** 0.8;
        span.style.backgroundColor = `rgba(var(--${value > 0 ? "worse" : "better"}-rgb),${strength.toFixed(3)})`;
      }
      if (token && text.trim().toLowerCase() === token) span.classList.add("found");
      return /^\s/.test(text) ? [el("wbr"), span] : [span];
    });
    body.append(...made.flat());
    if (one.left_out) body.append(el("p", { class: "quiet" }, `… and ${one.left_out.toLocaleString("en")} more tokens`));
    const details = [several("text") ? data.cells[cell].text : "", several("base") ? data.cells[cell].base : "", `lr ${rate(data.cells[cell].lr)}`, `seed ${data.cells[cell].seed}`].filter(Boolean);
    return el("div", { class: "pane", "data-cell": data.cells[cell].cell }, el("h3", {}, swatch(data.cells[cell]), data.cells[cell].name, el("small", {}, `${details.join(" · ")} · ${signed(mean)} a token here`)), body);
  }

  function list() {
    const find = (state.find || "").trim();
    byId("documents").replaceChildren(...current.ranked.map(({ one, total, mean, count }) => el("li", {}, el("button", { type: "button", "aria-current": one === current.document ? "true" : null, title: one.id, onclick: () => setState({ doc: one.n, tok: null, text: textKey(current.text) }) },
      el("span", {}, one.id), el("span", { class: mean > 0 ? "worse" : "better" }, find ? `${signed(total, 1)} on ${count}` : state.order === "sum" ? signed(total, 1) : signed(mean))))));
  }

  function info(i, source) {
    for (const old of byId("panes").querySelectorAll(".at")) old.classList.remove("at");
    const place = byId("info");
    const one = current.document;
    if (i === null || i < 0 || i >= one.pieces.length) { place.replaceChildren(el("span", { class: "quiet" }, "Point at a token, or walk with the keys.")); return; }
    for (const span of byId("panes").querySelectorAll(`span[data-i="${i}"]`)) {
      span.classList.add("at");
      if (source === "key") span.scrollIntoView({ block: "nearest" });
    }
    const kind = current.text.classes[one.classes.charCodeAt(i) - 97].replaceAll("_", " ");
    const table = el("table", {}, el("tbody", {}, el("tr", {}, ...["", baseline() === null ? "before" : "baseline", "after", "change", "rank"].map((text) => el("th", { scope: "col" }, text)))));
    const nats = (value) => (value === MISSING ? "not scored" : (value / 1000).toFixed(3));
    const rank = (value) => (value === MISSING ? "–" : value === MISSING - 1 ? "≥ 65,534" : value.toLocaleString("en"));
    for (const cell of current.cells) {
      const column = columns(cell), row = one.offset + i, value = delta(column, row);
      table.tBodies[0].append(el("tr", {}, el("td", {}, swatch(data.cells[cell]), data.cells[cell].name), el("td", {}, nats(column.before[row])), el("td", {}, nats(column.after[row])), el("td", { class: value > 0 ? "worse" : "better" }, value === null ? "–" : signed(value)), el("td", {}, `${rank(column.rankBefore[row])} → ${rank(column.rankAfter[row])}`)));
    }
    place.replaceChildren(el("div", {}, el("span", { class: "token" }, ...piece(one.pieces[i].slice(0, 60))), ` token ${one.first + i}, ${kind}`), table);
  }

  function rule() {
    const { text } = current;
    const which = text.all ? `All ${text.documents.length} documents scored.` : `${text.documents.length} documents: those whose loss rose most and fell most per token, in turn, by the mean over the selected cells.`;
    const against = baseline() === null ? "the unquantised base" : current.text.after[baseline()] ? cellName(data.cells[baseline()]) : "the unquantised base, for the baseline has no tokens of this text here";
    byId("reader-rule").textContent = `${text.name} (${text.split === "test" ? "the text adapted to" : "general text"}). ${which} Changes against ${against}.`;
  }

  function controls() {
    const options = Object.keys(current.text.after).map((i) => [data.cells[i].cell, cellName(data.cells[i])]);
    const pickers = current.cells.map((cell, place) => choice(place ? "" : "Cells ", [...options, ...(current.cells.length > 1 ? [["", "(none)"]] : [])], data.cells[cell].cell, (value) => {
      const names = current.cells.map((i) => data.cells[i].cell);
      names[place] = value;
      setState({ cells: names.filter(Boolean).join(","), text: textKey(current.text) });
    }));
    pickers.forEach((picker, place) => { picker.firstElementChild.setAttribute("aria-label", `Cell ${place + 1}`); });
    const unused = options.find(([name]) => !current.cells.some((i) => data.cells[i].cell === name));
    const add = current.cells.length < MAX_PANES && unused && el("button", { type: "button", id: "add-cell", onclick: () => setState({ cells: [...current.cells.map((i) => data.cells[i].cell), unused[0]].join(","), text: textKey(current.text) }) }, "+ cell");
    byId("reader-controls").replaceChildren(
      choice("Text ", data.texts.map((text) => [textKey(text), `${text.name} (${text.split === "test" ? "adapted to" : "general"})${several("run") ? ` · ${text.run}` : ""}`]), textKey(current.text), (value) => setState({ text: value, doc: null, tok: null, cells: null }), "reader-text"), ...pickers, add || "");
    if (!byId("find")) {
      byId("documents-controls").append(choice("", Object.entries(ORDERS).map(([key, [text]]) => [key, text]), state.order || "worst", (value) => setState({ order: value, doc: null, tok: null }), "order"),
        el("input", { type: "search", id: "find", placeholder: "by one token", "aria-label": "Rank documents by one token", oninput: (event) => setState({ find: event.target.value, doc: null, tok: null }) }));
      byId("order").setAttribute("aria-label", "Order of the documents");
    }
    byId("find").value = state.find || "";
    byId("order").value = state.order || "worst";
  }

  function draw() {
    resolve();
    controls();
    rule();
    list();
    byId("panes").replaceChildren(...current.cells.map(pane));
    info(state.tok === undefined ? null : Number(state.tok) - current.document.first, "key");
  }

  function walk(step, large) {
    const column = columns(current.cells[0]), one = current.document;
    let i = state.tok === undefined ? (step > 0 ? -1 : one.pieces.length) : Number(state.tok) - one.first;
    for (i += step; i >= 0 && i < one.pieces.length; i += step) {
      const value = delta(column, one.offset + i);
      if (!large || (value !== null && Math.abs(value) >= LARGE_NATS)) { setState({ text: textKey(current.text), doc: one.n, tok: one.first + i }); return; }
    }
  }
  function turn(step) {
    const at = current.ranked.findIndex(({ one }) => one === current.document) + step;
    if (current.ranked[at]) setState({ text: textKey(current.text), doc: current.ranked[at].one.n, tok: null });
  }
  const KEYS = { n: () => walk(1, true), p: () => walk(-1, true), j: () => turn(1), k: () => turn(-1), ArrowRight: () => walk(1, false), ArrowLeft: () => walk(-1, false) };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
    const arrow = event.key.startsWith("Arrow");
    if (!KEYS[event.key] || (arrow && !event.target.closest("#panes"))) return;
    const box = byId("reader").getBoundingClientRect();
    if (box.top > window.innerHeight || box.bottom < 0) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  const at = (event) => { const span = event.target.closest("span[data-i]"); return span ? Number(span.dataset.i) : null; };
  byId("panes").addEventListener("mouseover", (event) => { if (at(event) !== null) info(at(event), "hover"); });
  byId("panes").addEventListener("click", (event) => { if (at(event) !== null) setState({ text: textKey(current.text), doc: current.document.n, tok: current.document.first + at(event), cells: current.cells.map((i) => data.cells[i].cell).join(",") }); });
  document.addEventListener("opentoken", (event) => {
    const { index, doc, tok, cell } = event.detail;
    setState({ text: index, doc, tok, cells: data.cells[cell].cell, find: null });
    byId("reader").scrollIntoView();
  });
  const REDRAW = ["text", "cells", "doc", "order", "find", "base"];
  listeners.push((changes) => {
    const keys = Object.keys(changes);
    const moved = keys.includes("tok") && changes.tok !== null && String(changes.doc) === String(current.document.n) && !keys.includes("find") && !keys.includes("cells");
    if (moved) info(Number(changes.tok) - current.document.first, "key");
    else if (keys.some((key) => REDRAW.includes(key))) draw();
  });
  document.addEventListener("restored", draw);
}
