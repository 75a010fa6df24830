"use strict";
const $ = (id) => document.getElementById(id);
const svgns = "http://www.w3.org/2000/svg";

/** An element of a drawing. */
function mark(name, attributes, text) {
  const element = document.createElementNS(svgns, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** Four significant digits, as quench_report::rounded. */
function rounded(value) {
  if (value === null || !Number.isFinite(value)) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e9) return String(value);
  const [mantissa, exponent] = value.toExponential(3).split("e");
  const power = Number(exponent);
  if (power >= -4 && power <= 3) return value.toFixed(3 - power);
  return power >= 4 && power <= 9 ? value.toFixed(0) : `${mantissa}e${power}`;
}

/** Everything of a drawing but its title goes. */
function clear(svg) {
  [...svg.children].filter((child) => child.tagName !== "title").forEach((child) => child.remove());
}

const groups = ["row", "16", "32", "64", "128", "256"];
const bits = () => (Number($("bits").value) === 9 ? 32 : Number($("bits").value));
let wanted = 0; // the number of the last order
let latest = null; // the last frame
let base = null; // its settings

function outputs() {
  for (const id of ["step", "decay", "noise", "point"]) document.querySelector(`output[for=${id}]`).textContent = $(id).value;
  document.querySelector("output[for=bits]").textContent = bits() === 32 ? "dense" : bits();
  document.querySelector("output[for=layer-bits]").textContent = scheme().startsWith($("code").value + "/") ? "4" : $("layer-bits").value;
  document.querySelector("output[for=group]").textContent = groups[$("group").value];
}

async function post(path, body) {
  const answer = await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  if (!answer.ok) throw new Error(await answer.text());
  return (await answer.json()).version;
}

/** Only one order at a time is under way; what changes meanwhile is the next one. */
function orderly(send) {
  let busy = false, again = false;
  return async function order() {
    if (busy) { again = true; return; }
    busy = true;
    try {
      do { again = false; await send(); } while (again);
    } catch (error) {
      $("state").textContent = `refused: ${error.message}`;
    } finally { busy = false; }
  };
}

const change = orderly(async () => {
  wanted = await post("settings", {
    ...base, step: Number($("step").value), bits: bits(), decay: Number($("decay").value), noise: Number($("noise").value),
    activation: $("activation").value,
  });
  if (latest) state(latest);
});

function scheme() {
  const code = $("code").value, width = $("layer-bits").value, group = groups[$("group").value];
  const named = { int: `int${width}`, uint: `uint${width}`, slog: `slog${width}:mu8`, nf4: "nf4", e2m1: "e2m1" }[code];
  return `${named}/${group}/f16`;
}

const look = orderly(async () => {
  await post("layer", { layer: $("layer").value, scheme: scheme(), search: $("search").value });
});

function state({ version, value: frame }) {
  const busy = version < wanted || frame.done < frame.settings.steps;
  document.body.dataset.version = version;
  document.body.dataset.busy = busy;
  const loss = frame.loss === null ? "" : `, loss ${rounded(frame.loss)}`;
  $("state").textContent = `${busy ? "training" : "trained"}: ${frame.done} of ${frame.settings.steps} steps${loss}`;
}

function table(body, rows) {
  body.replaceChildren(...rows.map(([name, value, unit, chance, title]) => {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    if (title) head.title = title;
    const cell = document.createElement("td");
    cell.className = "number";
    cell.dataset.name = name;
    cell.dataset.value = typeof value === "number" ? String(value) : "";
    cell.append(typeof value === "string" ? value : rounded(value));
    if (unit) cell.append(" ", Object.assign(document.createElement("small"), { textContent: unit }));
    row.append(head, cell);
    if (chance !== undefined) {
      const null_ = document.createElement("td");
      null_.className = "number";
      null_.textContent = chance === null ? "" : rounded(chance);
      row.append(null_);
    }
    return row;
  }));
}

function map(frame) {
  const svg = $("map");
  clear(svg);
  const all = frame.places.flatMap((place) => [place.before, place.after]);
  const reach = Math.max(1e-9, ...all.flatMap(([x, y]) => [Math.abs(x) / 1.3, Math.abs(y)]));
  const at = ([x, y]) => [280 + (x / reach) * 195, 210 - (y / reach) * 195];
  const chosen = Number($("point").value);
  const lines = (from, list, side, kind) => list.forEach((other) => {
    const [[a, b], [c, d]] = [at(frame.places[from][side]), at(frame.places[other][side])];
    svg.append(mark("line", { x1: a, y1: b, x2: c, y2: d, class: `link ${kind}` }));
  });
  frame.places.forEach((place, index) => {
    const [[a, b], [c, d]] = [at(place.before), at(place.after)];
    svg.append(mark("circle", { cx: c, cy: d, r: 4.5, class: `disc k${place.class}`, opacity: 0.25 + 0.65 * place.kept }));
    const ring = mark("circle", { cx: a, cy: b, r: 3, class: `ring k${place.class}` });
    ring.append(mark("title", {}, `point ${index}, class ${place.class}, keeps ${rounded(place.kept)} of its neighbours`));
    ring.addEventListener("click", () => { $("point").value = index; outputs(); map(latest.value); });
    svg.append(ring);
    if (place.corner) svg.append(mark("circle", { cx: a, cy: b, r: 6, class: `ring corner k${place.class}` }));
  });
  lines(chosen, frame.places[chosen].neighbours, "before", "old");
  lines(chosen, frame.places[chosen].new_neighbours, "after", "new");
  const [x, y] = at(frame.places[chosen].before);
  svg.append(mark("circle", { cx: x, cy: y, r: 8, class: "chosen" }));
  $("explained").textContent = frame.explained === null ? "nothing varies" : `The plane shows ${rounded(100 * frame.explained)} % of the variance.`;
}

function sweep(frame) {
  const svg = $("sweep");
  clear(svg);
  const points = frame.sweep.points;
  const [low, high] = [points[0].step, points[points.length - 1].step].map(Math.log);
  const x = (step) => 44 + ((Math.log(step) - low) / (high - low)) * 500;
  const y = (share) => 262 - share * 240;
  for (const share of [0, 0.5, 1]) {
    svg.append(mark("line", { x1: 44, x2: 544, y1: y(share), y2: y(share), class: "axis" }));
    svg.append(mark("text", { x: 38, y: y(share) + 4, "text-anchor": "end" }, share));
  }
  for (const step of [0.1, 0.2, 0.5, 1, 2, 5]) svg.append(mark("text", { x: x(step), y: 282, "text-anchor": "middle" }, step));
  svg.append(mark("text", { x: 294, y: 297, "text-anchor": "middle" }, "step δ"));
  svg.append(mark("polyline", { class: "curve", points: points.map((p) => `${x(p.step)},${y(p.metric)}`).join(" ") }));
  for (const p of points) {
    svg.append(mark("line", { class: "bar", x1: x(p.step), x2: x(p.step), y1: y(p.metric - p.error), y2: y(p.metric + p.error) }));
    svg.append(mark("circle", { class: "mark", cx: x(p.step), cy: y(p.metric), r: 3 }));
  }
  const upright = (step, kind) => svg.append(mark("line", { class: kind, x1: x(step), x2: x(step), y1: 14, y2: 262 }));
  if (frame.threshold) upright(frame.threshold.value, "found");
  const step = Number(frame.settings.step);
  if (step >= points[0].step) upright(Math.min(step, points[points.length - 1].step), "here");
  const { verdict, threshold } = frame;
  const half = threshold ? `Half of the answers have changed at δ = ${rounded(threshold.value)}. ` : "Half of the answers never change within the sweep. ";
  const words = {
    smooth: "The fall is smooth: there is no critical step.",
    inconclusive: `Whether the fall is sharp is open; about ${rounded(verdict.times ?? 0)} times as many points would tell.`,
    sharp: "The fall is sharp; whether it is a transition needs networks of several sizes.",
    transition: "The fall is a transition.",
  };
  $("verdict").textContent = half + words[verdict.kind];
  $("verdict").dataset.value = threshold ? threshold.value : "";
  $("verdict").dataset.kind = verdict.kind;
}

function show(answer) {
  if (answer.error !== undefined) { $("state").textContent = answer.error; return; }
  if (answer.version < (latest?.version ?? 0)) return;
  const first = latest === null;
  latest = answer;
  const frame = answer.value;
  if (first) {
    base = frame.settings;
    for (const id of ["step", "decay", "noise", "activation"]) $(id).value = base[id];
    $("bits").value = base.bits === 32 ? 9 : base.bits;
    outputs();
  }
  state(answer);
  table($("values").tBodies[0], frame.values.map(({ name, unit, value }) => [name, value.value, unit, value.null ?? null, value.estimator]));
  map(frame);
  sweep(frame);
}

function layer({ version, value, error }) {
  $("model").dataset.version = version;
  $("layer-error").textContent = error ?? "";
  if (error !== undefined) return;
  table($("layer-values").tBodies[0], [
    ["scheme", value.scheme], ["shape", value.shape.join(" × ")], ["bits per weight", value.bits_per_weight],
    ["relative error", value.relative_error], ["signal-to-noise ratio", value.snr_db, "dB"], ["codes that occur", value.codes],
    ["smallest weight", value.range[0]], ["largest weight", value.range[1]],
  ]);
  const svg = $("histogram");
  clear(svg);
  const top = Math.log1p(Math.max(...value.before, ...value.after));
  const width = 544 / value.before.length;
  const bar = (count, at, kind) => {
    const height = (Math.log1p(count) / top) * 270;
    svg.append(mark("rect", { class: kind, x: 8 + at * width, width, y: 290 - height, height, "data-count": count }));
  };
  value.after.forEach((count, at) => bar(count, at, "after"));
  value.before.forEach((count, at) => bar(count, at, "before"));
}

async function model() {
  const about = await (await fetch("model")).json();
  if (about === null) return;
  $("model").hidden = false;
  $("model-name").textContent = about.name;
  $("layer").replaceChildren(...about.layers.map(([name, shape]) => new Option(`${name} [${shape.join(", ")}]`, name)));
  outputs();
  look();
}

for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());
$("controls").addEventListener("input", (event) => {
  outputs();
  if (event.target.id === "point") { if (latest) map(latest.value); } else if (base) change();
});
$("layer-controls").addEventListener("input", () => { outputs(); look(); });
outputs();
const events = new EventSource("events");
events.addEventListener("frame", (event) => show(JSON.parse(event.data)));
events.addEventListener("layer", (event) => layer(JSON.parse(event.data)));
events.addEventListener("error", () => { $("state").textContent = "the connection is lost; is quench explore still running?"; });
model();
