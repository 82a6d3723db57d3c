// What all parts of the page share: elements, numbers, the state in the address, and paired differences.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const METHOD_COLOURS = 8;

function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function choice(label, options, value, onchange, id) {
  const select = el("select", { id, onchange: (event) => onchange(event.target.value) });
  for (const [key, text] of options) select.append(el("option", { value: key }, text));
  select.value = value;
  return el("label", {}, label, select);
}

function isNumber(value) { return typeof value === "number" && Number.isFinite(value); }

function signed(value, digits = 3) {
  if (!isNumber(value)) return "–";
  const text = Math.abs(value).toFixed(digits);
  return Number(text) === 0 ? text : (value < 0 ? "−" : "+") + text;
}

function ends(lo, hi) { return isNumber(lo) ? `[${signed(lo)}, ${signed(hi)}]` : "[no interval]"; }

function rate(lr) {
  if (!isNumber(lr)) return "–";
  const [mantissa, exponent] = lr.toExponential(2).split("e");
  return `${Number(mantissa)}e${Number(exponent)}`;
}

function duration(seconds) {
  if (!isNumber(seconds)) return "–";
  const [size, unit] = seconds < 120 ? [1, "s"] : seconds < 7200 ? [60, "min"] : [3600, "h"];
  return `${(seconds / size).toFixed(1)} ${unit}`;
}

function bytes(value) {
  if (!isNumber(value)) return "–";
  return value >= 2 ** 30 ? `${(value / 2 ** 30).toFixed(2)} GiB` : `${(value / 2 ** 20).toFixed(0)} MiB`;
}

const labels = [...new Set(data.cells.map((cell) => cell.label))];
function colourName(cell) { return `--c${labels.indexOf(cell.label) % METHOD_COLOURS}`; }
function swatch(cell) {
  const made = el("span", { class: "swatch", "aria-hidden": "true" });
  made.style.background = `var(${colourName(cell)})`;
  return made;
}
function css(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

const several = (name) => new Set(data.cells.map((cell) => cell[name])).size > 1;
function cellName(cell) {
  const parts = [several("run") ? cell.run : "", cell.text, several("base") ? cell.base : "", cell.name, isNumber(cell.lr) ? `lr ${rate(cell.lr)}` : ""];
  return [...parts, several("budget") ? cell.budget : "", several("seed") ? `seed ${cell.seed}` : ""].filter(Boolean).join(" · ");
}

// The state of the view, kept in the address so that it can be passed on: #base=..&doc=..&tok=..
const state = {};
const listeners = [];
function readAddress() {
  const hash = window.location.hash.slice(1);
  for (const key of Object.keys(state)) delete state[key];
  if (hash.includes("=")) for (const [key, value] of new URLSearchParams(hash)) state[key] = value;
}
function setState(changes) {
  for (const [key, value] of Object.entries(changes)) {
    if (value === null || value === undefined || value === "") delete state[key];
    else state[key] = String(value);
  }
  const hash = new URLSearchParams(state).toString();
  history.replaceState(null, "", hash ? `#${hash}` : window.location.pathname);
  for (const listen of listeners) listen(changes);
}

function cellOf(name) {
  const found = data.cells.findIndex((cell) => cell.cell === name);
  return found < 0 ? null : found;
}
function baseline() { return state.base ? cellOf(state.base) : null; }

// Sums over clusters: of each split the text on which a cell was scored.
const textOfCell = { test: {}, general: {} };
for (const text of data.sums) for (const cell of Object.keys(text.after)) textOfCell[text.split][cell] = text;

// The paired difference of two columns of sums over clusters, as the SQL view `differences` computes it.
function pairedDifference(first, second, tokens, t) {
  const n = tokens.length;
  let total = 0, weights = 0;
  for (let i = 0; i < n; i += 1) { total += first[i] - second[i]; weights += tokens[i]; }
  const estimate = total / weights;
  if (!isNumber(t)) return { estimate, lo: null, hi: null };
  let squares = 0;
  for (let i = 0; i < n; i += 1) squares += (first[i] - second[i] - estimate * tokens[i]) ** 2;
  const half = (t * Math.sqrt((n / (n - 1)) * squares)) / weights;
  return { estimate, lo: estimate - half, hi: estimate + half };
}

// The change of a cell on test or general text against the baseline; null where there is none.
const RESULT_COLUMNS = { test: ["delta_nll", "delta_lo", "delta_hi"], general: ["forgetting", "forgetting_lo", "forgetting_hi"] };
function change(i, split) {
  const minus = baseline();
  if (minus === null) {
    const [estimate, lo, hi] = RESULT_COLUMNS[split].map((name) => data.cells[i][name]);
    return isNumber(estimate) ? { estimate, lo, hi } : null;
  }
  const text = textOfCell[split][i];
  if (!text || text !== textOfCell[split][minus]) return null;
  return pairedDifference(text.after[i], text.after[minus], text.tokens, text.t);
}
function outcome(found) { return found && isNumber(found.lo) ? (found.hi < 0 ? "better" : found.lo > 0 ? "worse" : "") : ""; }
