// A grid of K and λ that a reader turns: a map of the gain, and a slider for each of the two.
"use strict";

document.querySelectorAll(".explorer").forEach((root) => {
  const grids = JSON.parse(root.querySelector("script").textContent);
  const element = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  const values = (key) => [...new Set(grids.map((grid) => grid[key]))];
  const field = (key, first) => {
    const select = element("select", {name: key}, ...values(key).map((v) => new Option(v, v)));
    if (values(key).includes(first)) select.value = first;
    return select;
  };
  const fields = {
    predictor: field("predictor", "linear probe"),
    condition: field("condition", "shortcut reversed"),
    intervention: field("intervention", "image+text"),
  };
  const sliders = Object.fromEntries(["K", "λ"].map((name) => [
    name, element("input", {type: "range", min: 0, step: 1, value: 2}),
  ]));
  const form = element("form", {}, ...Object.entries({...fields, ...sliders}).map(
    ([name, input]) => element("label", {}, `${name} `, input)));
  const map = element("div", {className: "map"});
  const words = element("output");
  root.append(form, map, words);

  const chosen = () => grids.find((grid) =>
    Object.entries(fields).every(([key, select]) => grid[key] === select.value));
  const axis = (grid, place) => [...new Set(grid.cells.map((cell) => cell[place]))].sort((a, b) => a - b);

  function draw() {
    const grid = chosen();
    const Ks = axis(grid, 0), weights = axis(grid, 1);
    sliders.K.max = Ks.length - 1;
    sliders["λ"].max = weights.length - 1;
    const K = Ks[sliders.K.value], weight = weights[sliders["λ"].value];
    const cells = grid.cells.map(([k, w, value]) => ({K: k, λ: w, value, gain: value - grid.plain}));
    const here = cells.filter((cell) => cell.K === K && cell["λ"] === weight);  // none: not run
    const limit = Math.max(10, ...cells.map((cell) => cell.gain));
    const said = (cell) => `K = ${cell.K}, λ = ${cell["λ"]}: ${cell.value.toFixed(1)} % `
      + `(${cell.gain <= -0.05 ? "−" : "+"}${Math.abs(cell.gain).toFixed(1)} points)`;
    map.replaceChildren(Plot.plot({
      width: Math.min(root.clientWidth, 760), height: 60 + 22 * Ks.length, marginLeft: 44,
      ariaLabel: "Gain at every K and λ",
      x: {type: "band", label: "λ", domain: weights},
      y: {type: "band", label: "K", domain: [...Ks].reverse()},
      color: {type: "diverging", scheme: "PuOr", reverse: true, domain: [-limit, limit], clamp: true, legend: true,
        label: "points gained over the plain predictor"},
      marks: [
        Plot.cell(cells, {x: "λ", y: "K", fill: "gain", inset: 0.5}),
        Plot.cell(here, {x: "λ", y: "K", stroke: "currentColor", strokeWidth: 3, inset: 1}),
        Plot.tip(cells, Plot.pointer({x: "λ", y: "K", title: said})),
      ],
    }));
    map.querySelectorAll("svg").forEach((svg) => svg.setAttribute("role", "img"));
    const best = cells.reduce((a, b) => (b.value > a.value ? b : a));
    const told = here.map(said)[0] ?? `K = ${K}, λ = ${weight}: not run`;
    words.textContent = `${told}. Plain: ${grid.plain.toFixed(1)} %. Best cell of this map, `
      + `found by looking: ${said(best)}.`;
  }
  form.addEventListener("input", draw);
  form.addEventListener("submit", (event) => event.preventDefault());
  map.addEventListener("click", () => {
    const cell = map.querySelector("svg")?.value ?? map.firstChild.value;
    if (!cell) return;
    const grid = chosen();
    sliders.K.value = axis(grid, 0).indexOf(cell.K);
    sliders["λ"].value = axis(grid, 1).indexOf(cell["λ"]);
    draw();
  });
  draw();
});
