"use strict";
// The interactive parts of a report: the front, a trial's recipe, learning curves, and news of a running search.
// Texts of a run go through textContent and setAttribute only: they may hold anything.
const data = JSON.parse(document.getElementById("data").textContent), runs = data.runs || (data.content ? [data.content] : []);
const NAMES = { "fits": "fits", "breaks a limit": "breaks", "partly trained": "partly", "untrained": "untrained", "gated": "gated" };
const SVG = "http://www.w3.org/2000/svg", state = { x: "", y: "", off: ["untrained", "gated"], trial: "" };
const by = id => document.getElementById(id);
function make(parent, name, attributes = {}, text) {
  const one = parent.namespaceURI === SVG || name === "svg" ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const key in attributes) one.setAttribute(key, attributes[key]);
  if (text !== undefined) one.textContent = text;
  parent.append(one);
  return one;
}
const short = value => String(Number(value.toPrecision(4)));
function ticks(low, high, most) {
  const raw = (high - low) / most, power = 10 ** Math.floor(Math.log10(raw)), step = [1, 2, 5, 10].find(f => f * power >= raw) * power, found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) found.push(Number(at.toPrecision(10)));
  return found;
}
function range(values) {
  let low = Math.min(...values), high = Math.max(...values);
  if (!(high > low)) { const room = Math.abs(low) * 0.1 || 1; low -= room; high += room; }
  const room = (high - low) * 0.06;
  return [low >= 0 && low < room ? 0 : low - room, high + room];
}
// An empty plot with its grid: where x and y are drawn to, and the SVG.
function plot(place, xs, ys, xLabel, yLabel) {
  const width = Math.max(280, place.clientWidth), height = Math.round(Math.min(460, Math.max(300, width * 0.55)));
  const left = 62, bottom = 44, top = 24, right = 12, [x0, x1] = range(xs), [y0, y1] = range(ys);
  place.replaceChildren();
  const svg = make(place, "svg", { viewBox: `0 0 ${width} ${height}`, height, role: "group", "aria-label": `${yLabel} against ${xLabel}` });
  const x = value => left + (value - x0) / (x1 - x0) * (width - left - right), y = value => height - bottom - (value - y0) / (y1 - y0) * (height - bottom - top);
  for (const at of ticks(x0, x1, width / 75)) {
    make(svg, "line", { class: "grid", x1: x(at), x2: x(at), y1: top, y2: height - bottom });
    make(svg, "text", { x: x(at), y: height - bottom + 16, "text-anchor": "middle" }, short(at));
  }
  for (const at of ticks(y0, y1, height / 60)) {
    make(svg, "line", { class: "grid", x1: left, x2: width - right, y1: y(at), y2: y(at) });
    make(svg, "text", { x: left - 6, y: y(at) + 4, "text-anchor": "end" }, short(at));
  }
  make(svg, "text", { x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle" }, xLabel);
  make(svg, "text", { transform: `translate(13 ${(top + height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, yLabel);
  return { svg, x, y, x0, x1, y0, y1, left, top, right: width - right, floor: height - bottom };
}
const axisOf = name => runs[0].axes.find(axis => axis.name === name);
const at = (point, axis) => { const value = point.values[axis.name]; return value ? value[0] * axis.factor : NaN; };
const bounds = axis => [...new Set(runs.flatMap(run => run.axes.filter(one => one.name === axis.name).flatMap(one => one.bounds)))];
function shownPoints(x, y) {
  const found = runs.flatMap((run, number) => run.points.map(point => ({ ...point, run: number })));
  return found.filter(p => p.role !== "trial" || !state.off.includes(p.state)).filter(p => isFinite(at(p, x)) && isFinite(at(p, y)));
}
function drawFront() {
  const x = axisOf(state.x), y = axisOf(state.y), points = shownPoints(x, y), place = by("front");
  if (!points.length) { place.replaceChildren(); make(place, "p", { class: "soft" }, "No trial has both figures."); return; }
  const area = plot(place, points.map(p => at(p, x)), points.map(p => at(p, y)), x.label, y.label), { svg } = area;
  for (const bound of bounds(x)) if (bound >= area.x0 && bound <= area.x1) {
    make(svg, "line", { class: "limit", x1: area.x(bound), x2: area.x(bound), y1: area.top, y2: area.floor });
    make(svg, "text", { class: "limit", x: area.x(bound) - 4, y: area.top + 12, "text-anchor": "end" }, "limit");
  }
  for (const bound of bounds(y)) if (bound >= area.y0 && bound <= area.y1) {
    make(svg, "line", { class: "limit", x1: area.left, x2: area.right, y1: area.y(bound), y2: area.y(bound) });
    make(svg, "text", { class: "limit", x: area.right - 4, y: area.y(bound) - 4, "text-anchor": "end" }, "limit");
  }
  runs.forEach((_, number) => stairs(area, points.filter(p => p.run === number && p.state === "fits" && p.role !== "base"), x, y));
  const order = ["trial", "best single", "base", "answer"];
  points.sort((a, b) => order.indexOf(a.role) - order.indexOf(b.role) || at(a, x) - at(b, x));
  const dots = points.map(point => dot(area, point, at(point, x), at(point, y)));
  const byPlace = [...dots].sort((a, b) => a.x - b.x);
  (dots.find(one => one.point.key === state.trial) || dots[dots.length - 1]).mark.setAttribute("tabindex", "0");
  svg.addEventListener("keydown", event => {
    const now = byPlace.findIndex(one => one.mark === document.activeElement), step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (now < 0) return;
    if (step) {
      const next = byPlace[Math.min(byPlace.length - 1, Math.max(0, now + step))].mark;
      dots.forEach(one => one.mark.setAttribute("tabindex", one.mark === next ? "0" : "-1"));
      next.focus();
    } else if (event.key === "Enter" || event.key === " ") show(byPlace[now].point); else return;
    event.preventDefault();
  });
}
// The best of some points on two axes, as a line of steps.
function stairs(area, points, x, y) {
  const better = (axis, a, b) => axis.maximise ? at(a, axis) > at(b, axis) : at(a, axis) < at(b, axis);
  const sorted = [...points].sort((a, b) => better(x, a, b) ? -1 : better(x, b, a) ? 1 : better(y, a, b) ? -1 : 1), front = [];
  for (const point of sorted) if (!front.length || better(y, point, front[front.length - 1])) front.push(point);
  if (front.length < 2) return;
  const corners = front.map((p, i) => (i ? `H${area.x(at(p, x))}V${area.y(at(p, y))}` : `M${area.x(at(p, x))} ${area.y(at(p, y))}`));
  make(area.svg, "path", { class: "front" + ofRun(front[0].run), d: corners.join("") });
}
const ofRun = number => runs.length > 1 ? ` of-run run${number}` : "";
const word = point => point.role === "answer" && runs[point.run].status === "running" ? "best so far" : point.role;
const title = point => point.role === "trial" ? point.state : word(point);
function dot(area, point, x, y) {
  const left = area.x(x), up = area.y(y), common = { tabindex: "-1", role: "button", "data-key": point.key, "data-run": point.run,
    "aria-label": `${title(point)}: ${point.recipe}, ${short(x)}, ${short(y)}` };
  const kind = point.role === "best single" ? "single" : point.role === "trial" ? NAMES[point.state] : point.role, chosen = ofRun(point.run) + (point.key === state.trial ? " chosen" : "");
  let mark;
  if (point.role === "base") mark = make(area.svg, "rect", { ...common, class: "dot base" + chosen, x: left - 7, y: up - 7, width: 14, height: 14 });
  else if (point.role === "best single") mark = make(area.svg, "path", { ...common, class: "dot single" + chosen, d: `M${left} ${up - 9}L${left + 8} ${up + 6}H${left - 8}Z` });
  else mark = make(area.svg, "circle", { ...common, class: `dot ${kind}${chosen}`, cx: left, cy: up, r: point.role === "answer" ? 9 : runs.length > 1 ? 4 : 5.5 });
  make(mark, "title", {}, `${title(point)}\n${point.recipe}`);
  if (point.role === "answer" || (point.role !== "trial" && runs.length === 1)) {
    const end = left > (area.left + area.right) / 2, name = runs.length > 1 ? runs[point.run].name : word(point);
    make(area.svg, "text", { class: "name", x: left + (end ? -12 : 12), y: Math.max(area.top + 10, up - 10), "text-anchor": end ? "end" : "start" }, name);
  }
  mark.addEventListener("click", () => show(point));
  return { mark, point, x: left };
}
function show(point) {
  state.trial = point.key;
  document.querySelectorAll(".dot").forEach(one => one.classList.toggle("chosen", one.dataset.key === point.key && one.dataset.run === String(point.run)));
  const panel = by("trial"), run = runs[point.run];
  panel.replaceChildren();
  make(panel, "h3", {}, (runs.length > 1 ? `${run.name}: ` : "") + title(point) + (point.role === "trial" || point.role === "base" ? "" : `, ${point.state}`));
  if (point.key !== "base") make(panel, "p", { class: "soft" }, `${short(point.training * 100)}% of its training; ${point.origin}${point.on_front ? "; on the front" : ""}`);
  make(panel, "pre", { class: "recipe" }, point.steps.length ? point.steps.join("\n") : point.recipe);
  if (point.message) make(panel, "p", {}, point.message);
  const list = make(panel, "dl");
  for (const axis of run.axes) {
    const value = point.values[axis.name];
    if (!value) continue;
    make(list, "dt", {}, axis.label);
    make(list, "dd", {}, short(value[0] * axis.factor) + (value[1] === null || value[2] === null ? "" : ` [${short(value[1] * axis.factor)} to ${short(value[2] * axis.factor)}]`));
  }
  if (!point.commands.length) return keep();
  make(panel, "pre", { class: "command" }, point.commands.join("\n"));
  if (navigator.clipboard) make(panel, "button", { type: "button" }, "Copy").addEventListener("click", event =>
    navigator.clipboard.writeText(point.commands.join("\n")).then(() => { event.target.textContent = "Copied"; }, () => { event.target.textContent = "Copying is not allowed here"; }));
  keep();
}
function drawCurves() {
  const curves = runs[0].curves, place = by("curves"), all = curves.flatMap(curve => curve.points);
  const area = plot(place, all.map(p => p[0] * 100), all.map(p => p[1]), "share of the training, %", `${runs[0].merit}, %`);
  for (const curve of [...curves].reverse()) {
    const kind = curve.is_answer ? "curve answer" : "curve", line = make(area.svg, "polyline", { class: kind, points: curve.points.map(p => `${area.x(p[0] * 100)},${area.y(p[1])}`).join(" ") });
    make(line, "title", {}, curve.recipe);
    if (curve.is_answer) make(area.svg, "text", { class: "name", x: area.right - 4, y: area.y(curve.points[curve.points.length - 1][1]) - 6, "text-anchor": "end" }, "answer");
  }
}
function controls() {
  const names = runs[0].axes.filter(axis => runs.some(run => run.points.some(point => point.values[axis.name])));
  for (const [id, wanted] of [["x", ["latency_ratio", "latency"]], ["y", [runs[0].axes[0].name]]]) {
    const select = by(id), found = wanted.find(name => names.some(axis => axis.name === name));
    for (const axis of names) make(select, "option", { value: axis.name }, axis.label);
    state[id] = names.some(axis => axis.name === state[id]) ? state[id] : found || names[id === "x" ? 0 : names.length - 1].name;
    select.value = state[id];
    select.addEventListener("change", () => { state[id] = select.value; keep(); drawFront(); });
  }
  if (runs.length > 1) runs.forEach((run, number) => {
    const label = make(by("states"), "span"), key = make(label, "svg", { class: "key", viewBox: "0 0 12 12" });
    make(key, "circle", { class: "dot" + ofRun(number), cx: 6, cy: 6, r: 6 });
    label.append(`${run.name} `);
  });
  for (const name in NAMES) {
    const count = runs.reduce((sum, run) => sum + run.points.filter(p => p.role === "trial" && p.state === name).length, 0);
    if (!count) continue;
    const label = make(by("states"), "label"), box = make(label, "input", { type: "checkbox", value: name });
    const key = make(label, "svg", { class: "key", viewBox: "0 0 12 12" });
    make(key, "circle", { class: `dot ${NAMES[name]}`, cx: 6, cy: 6, r: 5 });
    label.append(`${name} (${count}) `);
    box.checked = !state.off.includes(name);
    box.addEventListener("change", () => { state.off = box.checked ? state.off.filter(one => one !== name) : [...state.off, name]; keep(); drawFront(); });
  }
}
// What a reader chose outlives a live page's reload; a page from a file may have no storage.
function keep() { if (data.live) try { sessionStorage.setItem("sousvit", JSON.stringify(state)); } catch { } }
function follow() {
  setInterval(async () => {
    try {
      const found = await (await fetch("version", { cache: "no-store" })).text();
      if (found !== data.live) return location.reload();
      by("live").textContent = "live: this page follows the search";
    } catch { by("live").textContent = "the server has ended; this is the last it showed"; }
  }, 2000);
}
if (data.live) { try { Object.assign(state, JSON.parse(sessionStorage.getItem("sousvit") || "{}")); } catch { } follow(); }
if (runs.length) {
  controls();
  const draw = () => { drawFront(); if (by("curves")) drawCurves(); };
  draw();
  if (state.trial) { const found = runs[0].points.find(point => point.key === state.trial); if (found) show({ ...found, run: 0 }); }
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; draw(); } });
}
