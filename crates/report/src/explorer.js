"use strict";
// Looks numbers up: rows come from the JSON of this page, their text from its tables. Nothing is computed but places on the screen.
const report = JSON.parse(document.getElementById("report-data").textContent);
for (const box of document.querySelectorAll(".explorer")) {
  const { parameters, rows } = report.explorers[box.dataset.explorer];
  const sliders = [...box.querySelectorAll("input[type=range]")];
  const column = box.querySelector("select[name=column]");
  const over = box.querySelector("select[name=parameter]");
  const values = parameters.map((_, p) => [...new Set(rows.map((row) => row.at[p]))].sort((a, b) => a - b));
  const written = [...document.getElementById(box.id + "-rows").rows];
  const found = [...box.querySelectorAll(".found tbody tr")];
  const shape = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const draw = (figure, at, p, c) => {
    const [left, top, width, height] = JSON.parse(figure.dataset.box);
    const share = ([log, low, high], value) => ((log ? Math.log10(value) : value) - low) / (high - low);
    const [x, y] = [JSON.parse(figure.dataset.x), JSON.parse(figure.dataset.y)];
    const curve = rows
      .filter((row) => row.found[c] !== null && row.at.every((value, q) => q === p || value === at[q]))
      .map((row) => [left + share(x, row.at[p]) * width, top + (1 - share(y, row.found[c])) * height, row.at[p] === at[p]])
      .filter((place) => Number.isFinite(place[0]) && Number.isFinite(place[1]))
      .sort((a, b) => a[0] - b[0]);
    const group = shape("g", { class: "curve" });
    if (curve.length > 1) group.append(shape("path", { d: "M" + curve.map(([a, b]) => a.toFixed(1) + " " + b.toFixed(1)).join("L") }));
    for (const [cx, cy, here] of curve) group.append(shape("circle", here ? { cx, cy, r: 6, class: "here" } : { cx, cy, r: 3.5 }));
    const svg = figure.querySelector("svg");
    svg.querySelector(".curve")?.remove();
    svg.append(group);
  };
  const show = () => {
    const at = sliders.map((slider, p) => values[p][slider.value]);
    for (const slider of sliders) {
      const label = slider.dataset.labels.split("|")[slider.value];
      slider.setAttribute("aria-valuetext", label);
      slider.parentElement.querySelector("output").textContent = label;
    }
    const place = rows.findIndex((row) => row.at.every((value, p) => value === at[p]));
    found.forEach((line, c) => {
      line.cells[1].textContent = (place >= 0 && written[place].cells[parameters.length + c].textContent) || "–";
    });
    box.querySelector(".missing").hidden = place >= 0;
    for (const figure of box.querySelectorAll(".frames figure")) {
      figure.hidden = figure.dataset.over !== over.value || figure.dataset.column !== column.value;
      if (!figure.hidden) draw(figure, at, Number(over.value), Number(column.value));
    }
  };
  for (const control of [...sliders, column, over]) control.addEventListener("input", show);
  show();
}
