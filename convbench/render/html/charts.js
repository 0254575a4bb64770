// Charts: specifications for Vega-Lite, made anew when filters or colours change

const MOST_BARS = 30, NEAR = 20; // rows with phases; pixels
const OTHER = "other";
// The shapes of `convbench plot`; a row has no bound where its own run has no ceilings for it.
const SHAPES = { "compute-bound": "circle", "bandwidth-bound": "square", "latency-bound": "triangle-up", "bound not known": "diamond" };
// Okabe and Ito's palette, which colour-blind readers can tell apart, lighter on dark ground; the last is for what has none.
const light = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#b8a400", "#7f7f7f"];
const dark = ["#56b4e9", "#e69f00", "#2bd9a0", "#e59ac4", "#f0784a", "#3d8fd1", "#f0e442", "#a0a0a0"];

const views = {};
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const isDark = () => matchMedia("(prefers-color-scheme: dark)").matches;
const isNarrow = () => matchMedia("(max-width: 760px)").matches;

function config() {
  const text = color("text"), muted = color("muted");
  return {
    background: null, font: "system-ui, sans-serif", view: { stroke: null },
    axis: { labelColor: text, titleColor: text, gridColor: color("line"), gridOpacity: 0.6, domainColor: muted, tickColor: muted,
      labelFontSize: 12, titleFontSize: 12, titleFontWeight: 500 },
    legend: { labelColor: text, titleColor: muted, orient: "top", direction: "horizontal", labelLimit: 320, labelFontSize: 12,
      titleFontSize: 12, titleFontWeight: 500, symbolStrokeWidth: 2, symbolBaseFillColor: muted, symbolBaseStrokeColor: muted },
  };
}

function tip(_handler, event, _item, value) {
  const box = $("#tip"), row = value ? rows[value.i] : undefined;
  box.hidden = !row;
  if (!row) return;
  const more = value.tip ?? [];
  box.replaceChildren(element("b", label(row, varying)), element("div", row.name), pairs([
    ...more, ["time", shown(row.time_s, "time") + (row.marks ?? "")], ["effective", `${shown(row.effective_flop_per_s, "rate")} Gflop/s`],
    ["executed", `${shown(row.executed_flop_per_s, "rate")} Gflop/s`], ["flop/B", shown(intensity(row), "ratio")],
    ...(row.attained === null ? [] : [["attained", `${shown(row.attained, "share")}, ${row.bound}${row.flag ? `, ${row.flag}` : ""}`], ["to win", shown(row.to_win_s, "time")]]),
    ...(row.hint ? [["why", row.hint]] : []),
  ]));
  const { width, height } = box.getBoundingClientRect();
  box.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 8))}px`;
  box.style.top = `${event.clientY + 16 + height > innerHeight ? event.clientY - height - 12 : event.clientY + 16}px`;
}

async function chart(name, spec) {
  const box = $(`#${name}-chart`);
  views[name]?.finalize();
  delete views[name];
  box.hidden = !spec;
  $(`#${name}-absent`).hidden = Boolean(spec);
  if (!spec) return;
  const { view } = await vegaEmbed(box, { width: "container", autosize: { type: "fit-x", contains: "padding" }, ...spec }, {
    ast: true, config: config(), tooltip: tip, downloadFileName: `convbench-${name}`,
    actions: { export: true, source: false, compiled: false, editor: false },
  });
  views[name] = view;
  view.addEventListener("click", (event, item) => {
    const i = item?.datum?.i ?? nearest(view, event);
    if (i !== undefined) pick(i, true);
  });
}

// A finger hits beside a point: the nearest one within some pixels counts.
function nearest(view, event) {
  if (view !== views.roofline) return undefined;
  const [left, top] = view.origin(), box = $("#roofline-chart .marks").getBoundingClientRect();
  const x = event.clientX - box.left - left, y = event.clientY - box.top - top;
  let best = { far: NEAR };
  for (const { i, x: px, y: py } of view.data("points")) {
    const far = Math.hypot(view.scale("x")(px) - x, view.scale("y")(py) - y);
    if (far < best.far) best = { far, i };
  }
  return best.i;
}

function logDomain(values) {
  return [10 ** (Math.log10(Math.min(...values)) - 0.15), 10 ** (Math.log10(Math.max(...values)) + 0.15)];
}

// What a colour stands for. No two things share one: where there are more than colours, those of least weight are "other".
function few(weighed) {
  const weights = new Map();
  for (const [name, weight] of weighed) weights.set(name, (weights.get(name) ?? 0) + weight);
  const names = [...weights.keys()];
  if (names.length <= light.length) return names;
  const most = names.toSorted((a, b) => weights.get(b) - weights.get(a)).slice(0, light.length - 1);
  return [...names.filter((name) => most.includes(name)), OTHER];
}
const called = allSeries.length > light.length ? short : series; // runs of many suites: hover says which
const hues = few(rows.map((row) => [called(row), 1]));
const hue = (row) => (hues.includes(called(row)) ? called(row) : OTHER);
const sense = (phase) => phase.split(" ")[0]; // "transform x" and "transform w" lie side by side, and have one colour
const senses = few(Object.values(facts.phases).flat().map(([phase, seconds]) => [sense(phase), seconds]));
function colors(names, present) { // a name keeps its colour whatever is filtered
  const palette = isDark() ? dark : light, domain = names.filter((name) => present.has(name));
  return { domain, range: domain.map((name) => palette[name === OTHER ? palette.length - 1 : names.indexOf(name)]) };
}
function legend(chart, names) { // as many columns as there is room for
  const longest = Math.max(...names.map((name) => name.length));
  return { columns: Math.max(1, Math.floor(($(`#${chart}-chart`).clientWidth - 100) / (7 * longest + 32))) };
}
const spread = (values) => values.reduce(([least, most], value) => [Math.min(least, value), Math.max(most, value)], [Infinity, -Infinity]);

// The name of each slope, below it: as far left as no mark, slope or other name is in its way.
function slopeNames(levels, most, marks, { left, right, low, high, lines }) {
  const letters = (count) => (right / left) ** (6.5 * count / Math.max(200, $("#roofline-chart").clientWidth - 70));
  const found = [];
  for (const [level, width] of levels.toSorted(([, a], [, b]) => b - a)) {
    const text = `${show.level(level)} ${scaled(width, COUNTS)}B/s`, start = Math.max(left, low * lines(1.4) / width) * 1.02;
    const last = Math.min(most / width, right / letters(text.length)), step = lines(0.5);
    const box = (x, y) => ({ x, y, text, align: "left", right: x * letters(text.length + 1), bottom: y / lines(1.2) });
    const crowded = ({ x, y, right: end, bottom }) => marks.filter(([mx, my]) => mx > x / letters(1) && mx < end * letters(1) && my < y * lines(0.4) && my > bottom / lines(0.4)).length
      + found.filter((other) => other.x < end && x < other.right && other.bottom < y && bottom < other.y).length
      + levels.filter(([, other]) => other < width && x * other < y && end * other > bottom).length;
    const boxes = [];
    for (let x = start; x <= Math.max(start, last); x *= step) boxes.push(box(x, Math.min(x * width, high)));
    const counts = boxes.map(crowded), least = Math.min(...counts);
    found.push(boxes[counts.indexOf(least)]);
  }
  return found;
}

function roofline() {
  const index = Number(tools("machine").value || -1), machine = facts.machines[index];
  const here = rows.filter((row) => row.machine === index && rate(row) && intensity(row));
  if (!machine?.ceilings_of || !here.length) {
    return absent("roofline", machine?.ceilings_of
      ? "No row with a time, flops and bytes was measured on this machine, so there is no roofline."
      : "No ceilings were measured on this machine, so there is no roofline: `convbench machine --measure` measures them, then run again.");
  }
  const modes = Object.entries(machine.compute).filter(([mode]) => here.some((row) => row.math_mode === mode));
  const peaks = modes.length ? modes : Object.entries(machine.compute), levels = Object.entries(machine.bandwidth);
  const most = Math.max(...peaks.map(([, value]) => value)), ridges = levels.flatMap(([, width]) => peaks.map(([, peak]) => peak / width));
  const [left, right] = logDomain([...spread(here.map(intensity)), ...spread(ridges)].filter(Number.isFinite));
  const rates = here.flatMap((row) => [rate(row), row.effective_flop_per_s ?? rate(row)]);
  const [low, high] = logDomain([...spread(rates), most].filter(Number.isFinite));
  const height = isNarrow() ? 380 : 500, lines = (count) => (high / low) ** (15 * count / height); // of text, as a ratio
  const roofs = [], names = [];
  for (const [level, width] of levels) {
    const start = Math.max(left, low / width);
    roofs.push({ roof: level, x: start, y: start * width }, { roof: level, x: most / width, y: most });
  }
  const widest = Math.max(...levels.map(([, width]) => width));
  for (const [mode, peak] of peaks) {
    roofs.push({ roof: mode, x: levels.length ? peak / widest : left, y: peak }, { roof: mode, x: right, y: peak });
    names.push({ x: right, y: peak, align: "right", text: `${mode} ${scaled(peak, COUNTS)}flop/s` });
  }
  const marks = here.flatMap((row) => [rate(row), row.effective_flop_per_s].map((y) => [intensity(row), y]));
  names.push(...slopeNames(levels, most, marks, { left, right, low, high, lines }));
  const bound = (row) => (row.bound ? `${row.bound}-bound` : "bound not known"), bounds = new Set(here.map(bound));
  const points = chosen.filter((row) => row.machine === index && rate(row) && intensity(row))
    .map((row) => ({ i: row.i, x: intensity(row), y: rate(row), hue: hue(row), bound: bound(row) }));
  const hollow = tools("effective").checked ? points.map((point) => ({ ...point, y: rows[point.i].effective_flop_per_s })) : [];
  const axis = (title, format) => ({ title, format, labelOverlap: true });
  const scale = (domain) => ({ type: "log", domain, nice: false });
  const x = { field: "x", type: "quantitative", scale: scale([left, right]), axis: axis("flops executed per byte moved, flop/B", "~g") };
  const y = { field: "y", type: "quantitative", scale: scale([low, high]), axis: axis("flop/s", "~s") };
  const size = points.length > 1000 ? 25 : 60;
  const mark = { type: "point", strokeWidth: 1.5, clip: true, cursor: "pointer", tooltip: { content: "data" } };
  const encoding = {
    x, y, color: { field: "hue", type: "nominal", title: null, scale: colors(hues, new Set(here.map(hue))), legend: legend("roofline", hues) },
    shape: { field: "bound", type: "nominal", title: null, legend: { orient: "bottom", ...legend("roofline", Object.keys(SHAPES)) },
      scale: { domain: Object.keys(SHAPES).filter((name) => bounds.has(name)), range: Object.keys(SHAPES).filter((name) => bounds.has(name)).map((name) => SHAPES[name]) } },
    opacity: { condition: { test: "picked < 0 || datum.i === picked", value: 0.9 }, value: 0.3 },
    size: { condition: { test: "datum.i === picked", value: 220 }, value: size },
  };
  return {
    height,
    params: [{ name: "picked", value: picked }],
    layer: [
      { data: { values: roofs }, mark: { type: "line", color: color("muted"), strokeWidth: 1.5, clip: true, tooltip: null },
        encoding: { x, y, detail: { field: "roof" } } },
      { data: { values: names.filter(({ align }) => align === "left") }, mark: { type: "text", align: "left", baseline: "top", dx: 6, dy: 3, color: color("muted"), fontSize: 11, tooltip: null },
        encoding: { x, y, text: { field: "text" } } },
      { data: { values: names.filter(({ align }) => align === "right") }, mark: { type: "text", align: "right", baseline: "bottom", dy: -4, color: color("muted"), fontSize: 11, tooltip: null },
        encoding: { x, y, text: { field: "text" } } },
      { data: { name: "points", values: points },
        params: [{ name: "zoom", bind: "scales", select: { type: "interval", zoom: "wheel![event.shiftKey]",
          translate: "[pointerdown[event.shiftKey], window:pointerup] > window:pointermove!" } }],
        mark: { ...mark, filled: true },
        encoding },
      { data: { values: hollow }, mark: { ...mark, filled: false }, encoding },
    ],
  };
}

// An axis whose labels have so many lines, around their tick.
const inLines = (between, count) => ({ labelLimit: isNarrow() ? 170 : 420, labelOffset: -7 * (count - 1), labelExpr: `split(datum.label, '${between}')` });

function phases() {
  const total = (row) => facts.phases[row.i].reduce((sum, [, seconds]) => sum + seconds, 0);
  const measured = chosen.filter((row) => facts.phases[row.i] && row.time_s !== null)
    .sort((a, b) => total(b) - total(a)).slice(0, MOST_BARS);
  if (!measured.length) {
    return absent("phases", Object.keys(facts.phases).length ? "No row that the filters leave has phases."
      : "No phases were measured: `convbench run --phases` measures them.");
  }
  const [scale, unit] = TIMES.find(([least]) => total(measured[0]) >= least) ?? TIMES.at(-1);
  const labels = barLabels(measured), lines = labels.get(measured[0]).split("\n").length, shownAs = (phase) => (senses.includes(sense(phase)) ? sense(phase) : OTHER);
  const bars = measured.flatMap((row) => facts.phases[row.i].map(([phase, seconds], place) => ({
    i: row.i, row: labels.get(row), phase: shownAs(phase), place, time: seconds / scale, tip: [["phase", phase], ["takes", show.time(seconds)]],
  })));
  return {
    data: { values: bars }, height: (8 + 14 * lines) * labels.size,
    mark: { type: "bar", tooltip: { content: "data" }, cursor: "pointer", stroke: color("face"), strokeWidth: 1 },
    encoding: {
      y: { field: "row", type: "nominal", sort: [...labels.values()], title: null, axis: inLines("\\n", lines) },
      x: { field: "time", type: "quantitative", title: `time, ${unit}` },
      color: { field: "phase", type: "nominal", title: null, scale: colors(senses, new Set(bars.map((bar) => bar.phase))), legend: legend("phases", senses) },
      order: { field: "place" },
    },
  };
}

// An axis tells bars apart by their text. Layers are cut, runs have their short names, and the algorithm is whole; on
// narrow screens each has a line.
function barLabels(of) {
  const labels = new Map(), count = new Map(), keys = telling(of), [most, between] = isNarrow() ? [28, "\n"] : [60, " "];
  for (const row of of) {
    const about = ["", row.pass, ...keys.filter((key) => key !== "run").map((key) => words(row, key))].join(" ");
    const by = keys.includes("run") ? `${briefs.get(row.run)}${between}${short(row)}` : short(row);
    const room = most - about.length - (isNarrow() ? 0 : by.length + 1);
    const text = `${cut(row.problem, Math.max(8, room))}${about}${between}${by}`, same = (count.get(text) ?? 0) + 1;
    count.set(text, same);
    labels.set(row, same > 1 ? `${text} (${same})` : text);
  }
  return labels;
}

function speedups() {
  const base = tools("baseline").value, times = new Map();
  for (const row of chosen) if (row.time_s !== null && series(row) === base) times.set(row.case, row.time_s);
  const ticks = chosen.filter((row) => row.time_s && times.get(row.case) && series(row) !== base)
    .map((row) => ({ i: row.i, series: series(row), hue: hue(row), ratio: times.get(row.case) / row.time_s }));
  if (!ticks.length) {
    return absent("speedups", "There is nothing to compare: two algorithms, or two runs, with times for the same case are needed"
      + (chosen.length < rows.length ? " among the rows that the filters leave." : "."));
  }
  const faster = (count, all) => `${isNarrow() ? "" : "faster in "}${count} of ${all}`;
  const means = Object.entries(Object.groupBy(ticks, (tick) => tick.series)).map(([name, of]) => {
    const mean = Math.exp(of.reduce((sum, tick) => sum + Math.log(tick.ratio), 0) / of.length);
    return { series: name, ratio: mean, one: 1, text: `${show.times(mean)}, ${faster(of.filter((tick) => tick.ratio > 1).length, of.length)}` };
  });
  const domain = logDomain(spread([1, ...ticks.map((tick) => tick.ratio)]));
  const beside = domain[0] * domain[1] > 1 ? { align: "left", dx: 6 } : { align: "right", dx: -6 }; // the line, where there is more room
  for (const tick of ticks) tick.tip = [["speed-up", show.times(tick.ratio)]];
  const y = { field: "series", type: "nominal", title: null, sort: allSeries, axis: isNarrow() && varying.includes("run") ? inLines(" · ", 2) : inLines("\\n", 1) };
  const x = { field: "ratio", type: "quantitative", scale: { type: "log", domain, nice: false }, title: isNarrow() ? "times as fast" : `times as fast as ${base}`, axis: { format: "~r", labelOverlap: true } };
  return {
    height: 56 * means.length,
    layer: [
      { data: { values: [{ one: 1 }] }, mark: { type: "rule", color: color("muted"), strokeWidth: 1.5, tooltip: null }, encoding: { x: { ...x, field: "one" } } },
      { data: { values: ticks }, mark: { type: "tick", thickness: 2, size: 22, opacity: 0.55, cursor: "pointer", tooltip: { content: "data" } },
        encoding: { x, y, color: { field: "hue", type: "nominal", legend: null, scale: colors(hues, new Set(hues)) } } },
      { data: { values: means }, mark: { type: "point", shape: "diamond", filled: true, size: 110, opacity: 1, color: color("text"), tooltip: null }, encoding: { x, y } },
      { data: { values: means }, mark: { type: "text", ...beside, dy: -19, fontSize: 12, color: color("text"), tooltip: null }, encoding: { x: { ...x, field: "one" }, y, text: { field: "text" } } },
    ],
  };
}

const draw = () => Promise.all([chart("roofline", roofline()), chart("phases", phases()), chart("speedups", speedups())]);
