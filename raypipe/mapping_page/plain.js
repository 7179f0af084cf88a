// The map by plain means, for browsers without WebGPU: points on a canvas, moved, zoomed, searched and pointed at.

const COLORS = ["#1f77b4", "#e07b00", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#d24fa5", "#808080", "#a3a01a", "#17a2b8"];
const OTHER = "#9aa3ad";
const NEAR = 12; // pixels from the pointer
const LISTED = 50;
const MANY = 20000; // points: squares are drawn faster
const AT_ONCE = 30000; // points that follow the hand
const byId = (id) => document.getElementById(id);
const canvas = byId("map");
const pen = canvas.getContext("2d");
const data = await (await fetch("data/points.json")).json();
const size = data.x.length;
const [left, right] = range(data.x);
const [low, high] = range(data.y);
let view; // the middle, and pixels of a unit
let matches = null; // Uint8Array, of a search
let drawing = 0;
let resting = 0;
const byKind = Array.from({ length: Math.max(1, data.kinds.length) }, () => []);
for (let at = 0; at < size; at++) byKind[data.kind[at] ?? 0].push(at);

byId("title").textContent = `Map of ${data.atlas}`;
byId("about").textContent = data.about;
byId("color").textContent = data.color ?? "";
canvas.setAttribute("aria-label", `${size} points${data.color ? ` coloured by ${data.color}` : ""}`);
byId("legend").replaceChildren(...data.kinds.map((name, kind) => {
  const dot = Object.assign(document.createElement("span"), { className: "dot" });
  dot.style.background = colorOf(kind);
  const number = Object.assign(document.createElement("span"), { className: "number", textContent: ` ${byKind[kind].length.toLocaleString("en")}` });
  const item = document.createElement("li");
  item.append(dot, name, number);
  return item;
}));

function range(values) {
  return values.reduce(([least, most], value) => [Math.min(least, value), Math.max(most, value)], [Infinity, -Infinity]);
}

function colorOf(kind) {
  return data.others === kind ? OTHER : COLORS[kind % COLORS.length];
}

const toX = (x) => (x - view.x) * view.scale + canvas.clientWidth / 2;
const toY = (y) => (view.y - y) * view.scale + canvas.clientHeight / 2;

/** The scale at which all points are seen. */
const whole = () => Math.min((0.9 * canvas.clientWidth) / (right - left || 1), (0.9 * canvas.clientHeight) / (high - low || 1));

function all() {
  view = { x: (left + right) / 2, y: (low + high) / 2, scale: whole() };
  draw();
}

/** Draw, where there are very many points some of them first, and all when the hand rests. */
function draw() {
  cancelAnimationFrame(drawing);
  clearTimeout(resting);
  const every = Math.ceil(size / AT_ONCE);
  drawing = requestAnimationFrame(() => {
    paint(every);
    if (every > 1) resting = setTimeout(() => paint(1), 200);
  });
}

function paint(every) {
  const ratio = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  pen.scale(ratio, ratio);
  const radius = Math.max(1.2, Math.min(6, 90 / Math.sqrt(size)) * Math.min(2, Math.max(1, view.scale / whole())));
  // Kind by kind, so that the colour changes seldom; what was searched for lies on top.
  for (const on of matches ? [0, 1] : [null]) {
    pen.globalAlpha = on === 0 ? 0.12 : 0.8;
    byKind.forEach((places, kind) => {
      pen.fillStyle = colorOf(kind);
      pen.beginPath();
      for (let number = 0; number < places.length; number += on === 1 ? 1 : every) {
        const at = places[number];
        if (on !== null && matches[at] !== on) continue;
        const [x, y] = [toX(data.x[at]), toY(data.y[at])];
        if (x < -9 || y < -9 || x > width + 9 || y > height + 9) continue;
        if (size > MANY) pen.rect(x - radius, y - radius, 2 * radius, 2 * radius);
        else pen.moveTo(x + radius, y), pen.arc(x, y, radius, 0, 7);
      }
      pen.fill();
    });
  }
  canvas.dataset.drawn = every > 1 ? "partly" : "yes";
}

function zoom(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  const [shiftX, shiftY] = [x - canvas.clientWidth / 2, y - canvas.clientHeight / 2];
  const scale = Math.min(Math.max(view.scale * factor, whole() / 4), whole() * 5000);
  view = { x: view.x + shiftX / view.scale - shiftX / scale, y: view.y - shiftY / view.scale + shiftY / scale, scale };
  draw();
}

function move(dx, dy) {
  view.x -= dx / view.scale;
  view.y += dy / view.scale;
  draw();
}

/** Tell of the point that is nearest to a place. */
function tell(x, y) {
  let [nearest, best] = [-1, NEAR ** 2];
  for (let at = 0; at < size; at++) {
    const gap = (toX(data.x[at]) - x) ** 2 + (toY(data.y[at]) - y) ** 2;
    if (gap < best) [nearest, best] = [at, gap];
  }
  const told = byId("told");
  told.hidden = nearest < 0;
  if (nearest < 0) return;
  const kind = data.kinds.length ? ` (${data.kinds[data.kind[nearest]]})` : "";
  told.textContent = data.text[nearest] + kind;
  told.style.left = `${Math.min(toX(data.x[nearest]) + 12, canvas.clientWidth - 200)}px`;
  told.style.top = `${Math.min(toY(data.y[nearest]) + 12, canvas.clientHeight - 60)}px`;
}

byId("find").addEventListener("input", (event) => {
  const word = event.target.value.trim().toLowerCase();
  matches = word ? Uint8Array.from(data.text, (text) => text.toLowerCase().includes(word)) : null;
  const found = matches ? [...matches.keys()].filter((at) => matches[at]) : [];
  const lines = found.slice(0, LISTED).map((at) => Object.assign(document.createElement("li"), { textContent: data.text[at] }));
  if (matches) lines.unshift(Object.assign(document.createElement("li"), { className: "number", textContent: `${found.length} found` }));
  byId("found").replaceChildren(...lines);
  draw();
});
const pointers = new Map();
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, event);
  tell(event.offsetX, event.offsetY);
});
canvas.addEventListener("pointermove", (event) => {
  const before = pointers.get(event.pointerId);
  if (!before) return tell(event.offsetX, event.offsetY);
  byId("told").hidden = true;
  const other = [...pointers.values()].find(({ pointerId }) => pointerId !== event.pointerId);
  if (other) {
    const gap = ({ offsetX, offsetY }) => Math.hypot(offsetX - other.offsetX, offsetY - other.offsetY) || 1;
    zoom(gap(event) / gap(before), other.offsetX, other.offsetY);
  } else move(event.offsetX - before.offsetX, event.offsetY - before.offsetY);
  pointers.set(event.pointerId, event);
});
for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => pointers.delete(event.pointerId));
canvas.addEventListener("wheel", (event) => (event.preventDefault(), zoom(1.0015 ** -event.deltaY, event.offsetX, event.offsetY)), { passive: false });
canvas.addEventListener("keydown", ({ key }) => {
  const step = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[key];
  if (step) move(...step);
  else if (key === "+" || key === "=") zoom(1.4);
  else if (key === "-") zoom(1 / 1.4);
  else if (key === "0") all();
});
addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
all();
