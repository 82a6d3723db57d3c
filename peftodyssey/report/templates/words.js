// The words that got worse and better under one cell, on the text adapted to or on general text.
if (byId("words-lists")) {
  const FIRST = 12, LONGEST = 60;
  const shortened = (text) => (text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text);
  const cells = Object.keys(data.words).map(Number);
  const expanded = new Set();
  const split = () => (state.words === "general" ? "general" : "test");
  const chosen = () => { const found = cellOf(state.wordcell); return cells.includes(found) ? found : cells[0]; };
  const ORDERS = { sum: (word) => Math.abs(word[4]), mean: (word) => Math.abs(word[9]), clear: (word) => (isNumber(word[10]) ? Math.min(Math.abs(word[10]), Math.abs(word[11])) * (word[10] * word[11] > 0 ? 1 : -1) : -Infinity) };

  function whitespace(text) {
    return text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll("\r", "␍").replace(/[\u0000-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)));
  }

  function entry(word, direction, cell) {
    const [name, occurrences, documents, , sum, rise, fall, , , mean, lo, hi, index, document_, position, left, hit, right] = word;
    const mark = el("mark", {}, shortened(whitespace(hit)));
    mark.style.background = `rgba(var(--${direction}-rgb), .35)`;
    const text = data.texts.find((one) => one.index === index && one.documents.some((d) => d.n === document_) && one.after[cell]);
    const link = text && el("a", { href: "#reader", onclick: (event) => { event.preventDefault(); document.dispatchEvent(new CustomEvent("opentoken", { detail: { index, doc: document_, tok: position, cell } })); } }, " read on");
    const mixed = Math.min(rise, -fall) > 0.1 * Math.abs(sum) ? `rose ${signed(rise, 1)}, fell ${signed(fall, 1)}; ` : "";
    return el("li", {},
      el("span", { class: "word" }, shortened(whitespace(name).trim()) || "(space)", el("span", { class: "badge" }, `${occurrences}×`)),
      el("span", { class: "numbers" }, el("span", { class: direction }, `${signed(sum, 1)} nats`)),
      el("span", { class: "example numbers", style: null }, `${mixed}${signed(mean, 2)} a token ${isNumber(lo) ? `[${signed(lo, 2)}, ${signed(hi, 2)}]` : "[in too few places for an interval]"}, in ${documents} document${documents === 1 ? "" : "s"}`),
      el("span", { class: "example" }, "…", whitespace(left.slice(-3 * LONGEST)), mark, whitespace(right.slice(0, 3 * LONGEST)), "…", link || ""));
  }

  function list(direction, words, cell) {
    const order = ORDERS[state.wordorder] || ORDERS.sum;
    const sorted = [...words].sort((a, b) => order(b) - order(a));
    const shown = expanded.has(direction) ? sorted : sorted.slice(0, FIRST);
    const clear = words.filter((word) => isNumber(word[10]) && word[10] * word[11] > 0).length;
    const more = sorted.length > shown.length && el("button", { type: "button", class: "plain", onclick: () => { expanded.add(direction); draw(); } }, `all ${sorted.length}`);
    const title = direction === "worse" ? "Got worse" : "Got better";
    const says = words.length ? `${clear} of the ${words.length} listed are clear of 0.` : "No word.";
    return el("div", { "data-direction": direction }, el("h3", {}, title), el("p", { class: "quiet" }, says), el("ol", {}, ...shown.map((word) => entry(word, direction, cell))), more || "");
  }

  function draw() {
    const cell = chosen();
    const lists = (data.words[cell] || {})[split()] || { worse: [], better: [] };
    byId("words-lists").replaceChildren(list("worse", lists.worse, cell), list("better", lists.better, cell));
  }

  function controls() {
    byId("words-controls").replaceChildren(
      choice("Cell ", cells.map((i) => [data.cells[i].cell, cellName(data.cells[i])]), data.cells[chosen()].cell, (value) => setState({ wordcell: value }), "word-cell"),
      choice("Text ", [["test", "the text adapted to"], ["general", "general text"]], split(), (value) => setState({ words: value }), "word-split"),
      choice("Order ", [["sum", "by sum"], ["mean", "by mean of a token"], ["clear", "clearest first"]], state.wordorder || "sum", (value) => setState({ wordorder: value }), "word-order"));
  }
  listeners.push((changes) => { if (["wordcell", "words", "wordorder"].some((key) => key in changes)) draw(); });
  document.addEventListener("restored", () => { controls(); draw(); });
}
