// The page of `convbench report`: rows.js, charts.js and page.js, one after another, as one module. Whatever comes from
// files is data: it is set as text, never as markup, and the charts look it up by index. Values are SI; they are formatted
// here as convbench/units.py does.

const $ = (selector, inside = document) => inside.querySelector(selector);
const facts = JSON.parse($("#facts").textContent);
const rows = unpacked(facts.rows);
const PAGE = 100; // rows of the table at a time

function unpacked({ count, columns }) {
  const all = Array.from({ length: count }, (_, i) => ({ i }));
  for (const [key, column] of Object.entries(columns)) {
    const value = Array.isArray(column) ? (i) => column[i] : (i) => column.of[column.at[i]];
    for (const row of all) row[key] = value(row.i);
  }
  return all;
}

// Text

function significant(value, digits = 3) {
  if (value === 0) return "0";
  const exponent = Number(value.toExponential(digits - 1).split("e")[1]);
  return value.toFixed(Math.min(100, Math.max(0, digits - 1 - exponent)));
}
function scaled(value, units) {
  const rounded = Math.abs(Number(value.toPrecision(3)));
  const [scale, unit] = units.find(([least]) => rounded >= least) ?? units.at(-1);
  return `${significant(value / scale)} ${unit}`;
}
const TIMES = [[1, "s"], [1e-3, "ms"], [1e-6, "µs"], [1e-9, "ns"]];
const ENERGIES = [[1, "J"], [1e-3, "mJ"], [1e-6, "µJ"], [1e-9, "nJ"]];
// Memory is in powers of 2¹⁰, traffic and counts in powers of 10³, as in convbench/units.py.
const SIZES = [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"], [1, "B"]];
const COUNTS = [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]];
const show = {
  text: (value) => String(value),
  time: (value) => (value === 0 ? "0 s" : scaled(value, TIMES)),
  rate: (value) => significant(value / 1e9),
  ratio: (value) => significant(value),
  times: (value) => `${value.toFixed(2)}×`,
  share: (value) => `${significant(100 * value, 2)}%`,
  error: (value) => value.toExponential(1),
  size: (value) => scaled(value, SIZES),
  count: (value) => scaled(value, COUNTS),
  energy: (value) => (value === 0 ? "0 J" : scaled(value, ENERGIES)),
  power: (value) => `${significant(value)} W`,
  heat: (value) => `${significant(value)} °C`,
  clock: (value) => `${scaled(value, COUNTS)}Hz`,
  traffic: (value) => `${scaled(value, COUNTS)}B`,
  level: (value) => value.toUpperCase(),
};
function interval(row) { // its ends, as far from the median as they are
  if (row.half_width === null) return "–";
  const [low, high] = [row.interval_low_s, row.interval_high_s].map((end) => significant(100 * Math.abs(end / row.time_s - 1), 2));
  return low === high ? `±${low}%` : `−${low} +${high}%`;
}
const shown = (value, kind) => (value === null || value === undefined ? "–" : show[kind](value));
const fact = (row, key, kind) => (kind === "interval" ? interval(row) : shown(row[key], kind));

function cut(text, most) { // in its middle: names differ at their ends
  const half = Math.max(1, (most - 1) / 2);
  return text.length <= most ? text : `${text.slice(0, Math.ceil(half))}…${text.slice(text.length - Math.floor(half))}`;
}
function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
function pairs(entries) {
  const list = element("dl");
  for (const [name, text] of entries) list.append(element("dt", name), element("dd", text));
  return list;
}

// Rows

const CHOICES = ["run", "suite", "dtype", "layout", "epilogue", "batch", "cache", "threads"];
const differing = (of) => CHOICES.filter((key) => new Set(of.map((row) => row[key])).size > 1);
const varying = differing(rows);
// As RowKey.name of convbench/result.py: the device is named unless it is the only or the first one of its kind.
const short = (row) => `${row.backend}:${row.algorithm}${/:0*[1-9][0-9]*$/.test(row.device) ? `@${row.device}` : ""}`;
const briefs = new Map(facts.briefs); // runs are long, and matter least: they are cut
const series = (row) => (varying.includes("run") ? `${briefs.get(row.run)} · ${short(row)}` : short(row));
// The choices that rows need to be told apart, beside layer, pass and algorithm; and their run.
function telling(of) {
  const apart = (keys) => new Set(of.map((row) => `${label(row, keys)} ${short(row)}`)).size;
  return CHOICES.slice(1).toReversed().reduce((keys, key) => {
    const others = keys.filter((other) => other !== key);
    return apart(others) === apart(keys) ? others : keys;
  }, differing(of));
}
const words = (row, key) => ({ batch: `batch ${row.batch}`, run: briefs.get(row.run) })[key] ?? row[key];
const label = (row, keys) => [row.problem, row.pass, ...keys.map((key) => words(row, key))].join(" ");
const rate = (row) => row.executed_flop_per_s ?? row.effective_flop_per_s;
const intensity = (row) => row.arithmetic_intensity ?? row.nominal_intensity;
const allSeries = [...new Set(rows.map(series))];

const COLUMNS = [ // key, header, kind, what it says; shown where rows differ, or have a value
  ["run", "run", "text", "which result file"], ["suite", "suite", "text", "network, or other collection of layers"],
  ["problem", "layer", "text", "name in the suite"], ["pass", "pass", "text", "fprop, dgrad or wgrad"],
  ["dtype", "dtype", "text", "of what is stored, and how it is multiplied"], ["layout", "layout", "text", "of tensors"],
  ["epilogue", "epilogue", "text", "what is done to the output at once"], ["batch", "batch", "text", "images"],
  ["cache", "cache", "text", "warm, or swept before each sample"], ["threads", "threads", "text", "CPU threads"],
  ["name", "algorithm", "text", "backend, algorithm asked for, and what it took"],
  ["time_s", "time", "time", "median over rounds"], ["half_width", "interval", "interval", "where its 95 % interval begins and ends"],
  ["times_fastest", "× best", "ratio", "time over the fastest of the case in its run"],
  ["effective_flop_per_s", "Gflop/s eff.", "rate", "flops of the definition over time"],
  ["executed_flop_per_s", "exec.", "rate", "flops executed over time"],
  ["arithmetic_intensity", "flop/B", "ratio", "flops executed per byte moved"],
  ["attained", "attained", "share", "floor over time"], ["bound", "bound", "text", "the nearest ceiling"],
  ["flag", "flag", "text", "why not to take the bound at its word"], ["hint", "hint", "text", "what may explain the time"],
  ["to_win_s", "to win", "time", "time above the floor"],
  ["rms_error", "error", "error", "root mean square, against double precision"],
  ["status", "status", "text", "what came of the row"],
];
const columns = COLUMNS.filter(([key]) => (CHOICES.includes(key) ? varying.includes(key) : rows.some((row) => row[key] !== (key === "status" ? "ok" : null))));
const DETAILS = [
  ...(varying.includes("run") ? [["run", "run", "text"]] : []), ["shape", "shape", "text"], ...COLUMNS.slice(4, 10), ["device", "device", "text"], ["status", "status", "text"],
  ["reason", "reason", "text"], ["time_s", "time", "time"], ["half_width", "interval", "interval"], ["remarks", "remarks", "text"],
  ["rounds", "rounds", "text"], ["samples", "samples", "text"], ["disturbed_samples", "of them disturbed", "text"],
  ["times_fastest", "× best", "ratio"], ["effective_flop_per_s", "Gflop/s effective", "rate"],
  ["executed_flop_per_s", "Gflop/s executed", "rate"], ["arithmetic_intensity", "flop/B", "ratio"],
  ["nominal_flops", "flops by definition", "count"], ["executed_flops", "flops executed", "count"],
  ["traffic_bytes", "bytes moved", "traffic"], ["floor_s", "floor", "time"], ["attained", "attained", "share"],
  ["to_win_s", "to win", "time"], ["bound", "bound", "text"], ["level", "memory level", "level"], ["flag", "flag", "text"],
  ["hint", "hint", "text"], ["rms_error", "error, RMS", "error"], ["max_error", "error, largest", "error"],
  ["workspace_bytes", "workspace", "size"], ["notes", "plan's notes", "text"], ["plan_s", "planning", "time"],
  ["build_s", "building, within planning", "time"], ["first_call_s", "first call", "time"],
  ["energy_j", "energy of a run", "energy"], ["power_w", "power", "power"], ["temperature_c", "temperature", "heat"],
  ["sm_clock_hz", "clock", "clock"], ["memory_clock_hz", "memory's clock", "clock"],
];

const filters = $("#filters").elements, tools = (name) => $(`[name="${name}"]`);
let chosen = rows, order = rows, sorting = { key: null, down: false }, page = 0, picked = -1;

function fillSelect(select, values, all) {
  if (all) select.append(element("option", "all", { value: "" }));
  for (const [value, text] of values) select.append(element("option", text, { value }));
  if (select.form) select.closest("label").hidden = values.length < 2;
}
const FILTERED = { run: (row) => row.run, pass: (row) => row.pass, backend: (row) => row.backend, name: short, dtype: (row) => row.dtype };
for (const [name, of] of Object.entries(FILTERED)) {
  const values = [...new Set(rows.map(of))];
  fillSelect(filters[name], values.map((value) => [value, value]), true);
}

function filter() {
  const part = filters.problem.value.trim().toLowerCase();
  const wanted = Object.entries(FILTERED).filter(([name]) => filters[name].value !== "");
  chosen = rows.filter((row) => wanted.every(([name, of]) => String(of(row)) === filters[name].value)
    && `${row.suite}/${row.problem}`.toLowerCase().includes(part));
  filters.count.value = `${chosen.length} of ${rows.length} rows`;
  page = 0;
  sort();
  draw();
}

function sort() {
  const { key, down } = sorting, sign = down ? -1 : 1;
  const compared = (a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true }));
  order = key === null ? chosen : [...chosen].sort((a, b) => {
    const [x, y] = [a[key], b[key]];
    if (x === null || y === null) return (x === null) - (y === null) || a.i - b.i; // absent ones last, either way
    return sign * compared(x, y) || a.i - b.i;
  });
  fillTable();
}

// What a section says where it has nothing to show; `commands` are set as code.
function absent(section, why) {
  const text = rows.length && !chosen.length ? "The filters leave no row." : why;
  $(`#${section}-absent`).replaceChildren(...text.split("`").map((part, place) => (place % 2 ? element("code", part) : part)));
  return null;
}

function fillHead() {
  for (const [key, header, kind, what] of columns) {
    const cell = element("th", undefined, { scope: "col", title: what, ...(kind === "text" ? {} : { class: "right" }) });
    const button = element("button", header, { type: "button" });
    button.addEventListener("click", () => {
      sorting = { key, down: sorting.key === key && !sorting.down };
      for (const other of $("#table thead tr").cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", sorting.down ? "descending" : "ascending");
      page = 0;
      sort();
    });
    cell.append(button);
    $("#table thead tr").append(cell);
  }
}

function fillTable() {
  const pages = Math.max(1, Math.ceil(order.length / PAGE)), first = page * PAGE;
  const lines = order.slice(first, first + PAGE).map((row) => {
    const line = element("tr", undefined, { "data-i": row.i, "aria-selected": row.i === picked });
    if (row.times_fastest === 1) line.className = "best";
    for (const [key, , kind] of columns) {
      const cell = element("td", undefined, kind !== "text" ? { class: "right" } : key === "run" ? { title: row.run } : {});
      const text = key === "time_s" ? (row.time_s === null ? row.status : shown(row.time_s, kind) + (row.marks ?? ""))
        : key === "run" ? briefs.get(row.run) : fact(row, key, kind);
      if (key === "problem") cell.append(element("button", text, { type: "button" }));
      else cell.textContent = text;
      line.append(cell);
    }
    return line;
  });
  $("#table tbody").replaceChildren(...lines);
  $("#rows .scroll").hidden = !order.length;
  $("#rows-absent").hidden = order.length > 0;
  absent("rows", "There are no rows.");
  $("#pages").hidden = pages < 2;
  $("#page").value = `${first + 1}–${Math.min(first + PAGE, order.length)} of ${order.length}`;
  $("#back").disabled = page === 0;
  $("#next").disabled = page === pages - 1;
}

function pick(i, scroll) {
  picked = i;
  const row = rows[i], known = DETAILS.filter(([key]) => row[key] !== null && row[key] !== undefined);
  for (const card of document.querySelectorAll(".detail")) { // beside the chart and below the table: one is in sight
    card.hidden = false;
    card.replaceChildren(element("h3", `${row.problem} ${row.pass}`), element("p", row.name, { class: "lead" }),
      pairs([...known.map(([key, name, kind]) => [name, fact(row, key, kind)]),
        ...(facts.phases[i] ?? []).map(([phase, seconds]) => [`phase ${phase}`, show.time(seconds)])]));
  }
  const place = order.indexOf(row);
  if (scroll && place >= 0) page = Math.floor(place / PAGE);
  fillTable();
  const line = $(`#table tr[data-i="${i}"]`);
  const box = $("#rows .scroll"); // the page stays where it is
  if (scroll && line) box.scrollTop = line.offsetTop - (box.clientHeight - line.offsetHeight) / 2;
  views.roofline?.signal("picked", i).run();
}
