// The table of cells: sorted, filtered, against the chosen baseline, with a plot of the same rows.
{
  const time = (cell) => (isNumber(cell.seconds) ? cell.seconds / (cell.multi_lora_size || 1) : null);
  const COLUMNS = [
    ["run", "run", (i) => data.cells[i].run, several("run")],
    ["text", "text", (i) => data.cells[i].text, true],
    ["base", "base", (i) => data.cells[i].base, several("base")],
    ["method", "method", (i) => data.cells[i].name, true],
    ["lr", "rate", (i) => data.cells[i].lr, true],
    ["budget", "budget", (i) => data.cells[i].tokens, several("budget")],
    ["seed", "seed", (i) => data.cells[i].seed, several("seed")],
    ["change", "change on test", (i) => (change(i, "test") || {}).estimate, true],
    ["forgetting", "forgetting", (i) => (change(i, "general") || {}).estimate, true],
    ["before", "before", (i) => data.cells[i].nll_before, true],
    ["after", "after", (i) => data.cells[i].nll_after, true],
    ["time", "time", (i) => time(data.cells[i]), true],
    ["memory", "memory", (i) => data.cells[i].peak_memory_bytes, true],
    ["status", "status", (i) => data.cells[i].status, data.cells.some((cell) => cell.status !== "done")],
  ].filter((column) => column[3]);
  const NUMBERS = new Set(["lr", "budget", "seed", "change", "forgetting", "before", "after", "time", "memory"]);
  const AXES = {
    change: ["change on the text adapted to", (i) => (change(i, "test") || {}).estimate],
    forgetting: ["change on general text", (i) => (change(i, "general") || {}).estimate],
    lr: ["learning rate", (i) => data.cells[i].lr],
    after: ["NLL after", (i) => data.cells[i].nll_after],
    time: ["training time, s", (i) => time(data.cells[i])],
    memory: ["peak memory, MiB", (i) => (isNumber(data.cells[i].peak_memory_bytes) ? data.cells[i].peak_memory_bytes / 2 ** 20 : null)],
    params: ["trainable parameters", (i) => data.cells[i].trainable_params],
    tokens: ["tokens trained on", (i) => data.cells[i].tokens],
    seed: ["seed", (i) => data.cells[i].seed],
  };
  const LOG_AXES = new Set(["lr", "params", "tokens"]);

  function visible() {
    const words = (state.filter || "").toLowerCase().split(/\s+/).filter(Boolean);
    const onlySelected = state.rates !== "all";
    const rows = [...data.cells.keys()].filter((i) => {
      const cell = data.cells[i];
      if (onlySelected && cell.status === "done" && !cell.selected && i !== baseline()) return false;
      const text = `${cellName(cell)} ${cell.label} ${cell.status} ${cell.reason || ""}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    const [name, direction] = (state.sort || "").split(":");
    const column = COLUMNS.find((one) => one[0] === name);
    if (!column) return rows;
    const sign = direction === "down" ? -1 : 1;
    const empty = (value) => value === null || value === undefined;
    return rows.sort((a, b) => {
      const [x, y] = [column[2](a), column[2](b)];
      if (empty(x) || empty(y)) return Number(empty(x)) - Number(empty(y)) || a - b;
      return sign * (typeof x === "number" ? x - y : String(x).localeCompare(String(y))) || a - b;
    });
  }

  function header() {
    const [name, direction] = (state.sort || "").split(":");
    const row = el("tr", {});
    for (const [key, text] of COLUMNS) {
      const sorted = key === name ? (direction === "down" ? "descending" : "ascending") : "none";
      const next = key === name && direction === "up" ? "down" : key === name ? "" : "up";
      const sort = el("button", { type: "button", "data-key": key, onclick: () => setState({ sort: next && `${key}:${next}` }) }, text);
      row.append(el("th", { scope: "col", class: NUMBERS.has(key) ? "n" : null, "aria-sort": sorted }, sort));
    }
    return row;
  }

  function spark(found, limit) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    made.setAttribute("class", "spark");
    made.setAttribute("viewBox", "-52 -8 104 16");
    made.setAttribute("aria-hidden", "true");
    const add = (tag, attributes) => {
      const part = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(attributes)) part.setAttribute(name, value);
      made.append(part);
    };
    const x = (value) => Math.max(-51, Math.min(51, (50 * value) / limit));
    add("line", { class: "zero", x1: 0, x2: 0, y1: -8, y2: 8 });
    if (isNumber(found.lo)) add("line", { x1: x(found.lo), x2: x(found.hi), y1: 0, y2: 0 });
    add("circle", { cx: x(found.estimate), cy: 0, r: 3 });
    return made;
  }

  function differenceCell(i, split, limit) {
    const found = change(i, split);
    if (i === baseline()) return el("td", { class: "n quiet" }, "baseline");
    if (!found) return el("td", { class: "n quiet" }, baseline() === null ? "–" : "other text");
    const interval = el("span", { class: "ends" }, ` ${ends(found.lo, found.hi)}`);
    return el("td", { class: `n ${outcome(found)}`, "data-split": split }, signed(found.estimate), interval, spark(found, limit));
  }

  function tableRow(i, limits) {
    const cell = data.cells[i];
    const contents = {
      method: () => el("td", {}, swatch(cell), cell.name, cell.selected && state.rates === "all" ? el("span", { class: "badge" }, "selected") : null),
      lr: () => el("td", { class: "n", title: cell.lr_edge ? "the edge of its grid, so a better rate may lie outside" : null }, rate(cell.lr) + (cell.selected && cell.lr_edge ? " *" : "")),
      budget: () => el("td", { class: "n" }, cell.budget || ""),
      change: () => differenceCell(i, "test", limits.test),
      forgetting: () => differenceCell(i, "general", limits.general),
      before: () => el("td", { class: "n" }, isNumber(cell.nll_before) ? cell.nll_before.toFixed(3) : "–"),
      after: () => el("td", { class: "n" }, isNumber(cell.nll_after) ? cell.nll_after.toFixed(3) : "–"),
      time: () => el("td", { class: "n" }, duration(time(cell))),
      memory: () => el("td", { class: "n" }, bytes(cell.peak_memory_bytes)),
      status: () => el("td", { class: "text" }, cell.status + (cell.status === "failed" && cell.reason ? `: ${cell.reason}` : "")),
    };
    const row = el("tr", { "data-cell": cell.cell, class: `${cell.selected ? "chosen" : ""} ${i === baseline() ? "is-baseline" : ""}` });
    for (const [key, , value] of COLUMNS) {
      row.append(contents[key] ? contents[key]() : el("td", { class: NUMBERS.has(key) ? "n" : null }, String(value(i) ?? "–")));
    }
    return row;
  }

  function limitOf(rows, split) {
    const values = rows.map((i) => change(i, split)).filter(Boolean);
    return Math.max(1e-6, ...values.map((one) => Math.max(Math.abs(one.estimate), Math.abs(one.lo || 0), Math.abs(one.hi || 0))));
  }

  function draw() {
    const rows = visible();
    byId("grid").tHead.replaceChildren(header());
    const limits = { test: limitOf(rows, "test"), general: limitOf(rows, "general") };
    byId("grid").tBodies[0].replaceChildren(...rows.map((i) => tableRow(i, limits)));
    const minus = baseline();
    const against = minus === null ? "the unquantised base of each cell" : cellName(data.cells[minus]);
    const edges = rows.some((i) => data.cells[i].selected && data.cells[i].lr_edge) ? " * the edge of the grid of rates." : "";
    byId("grid-says").textContent = `${rows.length} of ${data.cells.length} cells; changes against ${against}, nats per token; negative is better.${edges}`;
    plot(rows);
  }

  function plot(rows) {
    const [x, y] = [state.x || "change", state.y || "forgetting"].map((name) => (AXES[name] ? name : "change"));
    const values = rows
      .map((i) => ({ cell: cellName(data.cells[i]), method: data.cells[i].name, x: AXES[x][1](i), y: AXES[y][1](i), selected: Boolean(data.cells[i].selected) }))
      .filter((value) => isNumber(value.x) && isNumber(value.y));
    const place = byId("plot");
    if (!values.length) { place.replaceChildren(el("p", { class: "quiet" }, "No cell above has both of these numbers.")); return; }
    const spec = structuredClone(data.plot);
    spec.datasets = { cells: values };
    const names = [...new Set(data.cells.map((cell) => cell.name))];
    const colours = names.map((name) => css(colourName(data.cells.find((cell) => cell.name === name))));
    const encoding = spec.layer[spec.layer.length - 1].encoding;
    for (const [axis, name] of [["x", x], ["y", y]]) {
      encoding[axis].title = AXES[name][0];
      encoding[axis].scale = LOG_AXES.has(name) ? { type: "log", padding: 12 } : { zero: false, padding: 12 };
    }
    encoding.color.scale = { domain: names, range: colours };
    const [ink, quiet, line] = ["--ink", "--quiet", "--line"].map(css);
    spec.config = { ...spec.config, background: "transparent", axis: { ...spec.config.axis, labelColor: ink, titleColor: quiet, gridColor: line, domainColor: line, tickColor: line }, legend: { ...spec.config.legend, labelColor: ink, titleColor: quiet } };
    spec.width = Math.max(220, Math.min(520, place.clientWidth - 90));
    if (place.clientWidth < 560) spec.config.legend.orient = "bottom";
    vegaEmbed(place, spec, { ast: true, actions: false, renderer: "svg", defaultStyle: false, tooltip: { disableDefaultStyle: true } });
  }

  const cellOptions = () => [["", "the base of each cell"], ...[...data.cells.keys()].filter((i) => textOfCell.test[i]).map((i) => [data.cells[i].cell, cellName(data.cells[i])])];
  byId("grid-controls").append(
    choice("Baseline ", cellOptions(), state.base || "", (value) => setState({ base: value }), "baseline"),
    el("label", {}, "Filter ", el("input", { type: "search", id: "filter", value: state.filter || "", placeholder: "lora 3e-4 ...", oninput: (event) => setState({ filter: event.target.value }) })),
    choice("Rates ", [["", "selected on validation"], ["all", "all"]], state.rates || "", (value) => setState({ rates: value }), "rates"),
  );
  const axes = Object.entries(AXES).map(([key, [text]]) => [key, text]);
  byId("plot-controls").append(
    choice("Across ", axes, state.x || "change", (value) => setState({ x: value }), "axis-x"),
    choice("Up ", axes, state.y || "forgetting", (value) => setState({ y: value }), "axis-y"),
  );
  const MINE = ["base", "filter", "rates", "sort", "x", "y"];
  listeners.push((changes) => { if (Object.keys(changes).some((key) => MINE.includes(key))) draw(); });
  document.addEventListener("restored", () => {
    for (const [id, value] of [["baseline", state.base || ""], ["filter", state.filter || ""], ["rates", state.rates || ""], ["axis-x", state.x || "change"], ["axis-y", state.y || "forgetting"]]) byId(id).value = value;
    draw();
  });
  document.addEventListener("themechange", draw);
  window.addEventListener("resize", () => { clearTimeout(plot.later); plot.later = setTimeout(draw, 200); });
}
