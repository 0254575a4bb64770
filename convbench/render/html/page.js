// Downloads

function download(name, type, text) {
  const link = element("a", undefined, { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
const keys = facts.export;
const quoted = (value) => (value === null ? "" : /[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);
$("#csv").addEventListener("click", () => download("convbench-rows.csv", "text/csv",
  [keys, ...order.map((row) => keys.map((key) => row[key]))].map((line) => line.map(quoted).join(",")).join("\n") + "\n"));
$("#json").addEventListener("click", () => download("convbench-rows.json", "application/json",
  JSON.stringify(order.map((row) => Object.fromEntries(keys.map((key) => [key, row[key]]))), null, 1)));

// Start

fillHead();
fillSelect(tools("machine"), facts.machines.map((machine, index) => [index, `${machine.device}: ${machine.name}${machine.ceilings_of ? "" : " (no ceilings)"}`]));
$("#machine-choice").hidden = facts.machines.length < 2;
const roofed = facts.machines.findIndex((machine) => machine.ceilings_of);
if (roofed >= 0) tools("machine").value = roofed;
fillSelect(tools("baseline"), allSeries.map((name) => [name, name]));
$("#filters").addEventListener("input", filter);
$("#filters").addEventListener("submit", (event) => event.preventDefault());
$("#filters").addEventListener("reset", () => setTimeout(filter));
$("#back").addEventListener("click", () => { page -= 1; fillTable(); });
$("#next").addEventListener("click", () => { page += 1; fillTable(); });
$("#table tbody").addEventListener("click", (event) => pick(Number(event.target.closest("tr").dataset.i), false));
for (const name of ["machine", "effective", "baseline"]) tools(name).addEventListener("change", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
matchMedia("(max-width: 760px)").addEventListener("change", draw);
filter();
