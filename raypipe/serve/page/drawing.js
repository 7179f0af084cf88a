// Secondary structures as SVG: drawn where they are short enough to be read, else as arcs over a line.

import { count, el, plural, svg } from "./dom.js";
import { layOut, parseStructure } from "./structure.js";

const DRAWN_BELOW = 600; // letters
const ARCS_ONLY = 6000;
const MOST_CROWDED = 0.05; // share of letters: arcs tell more than a drawing in which stems lie over each other
const STEP = 16;
const WORDS = { stem: "stem", hairpin: "hairpin loop", interior: "interior loop", multi: "multiloop", exterior: "outside" };

/** A figure of a structure, with its dot-bracket as text.
 *  @param {string} sequence, and `dotBracket` as long as it
 *  @param {string} name for the caption */
export function drawStructure(sequence, dotBracket, name) {
  const { partner, knots } = parseStructure(dotBracket);
  const pairs = partner.filter((other, at) => other > at).length + knots.length;
  const share = Math.round((200 * pairs) / Math.max(1, sequence.length));
  const words = pairs ? `${plural(pairs, "pair")}, ${share} % of letters` : "no pairs predicted";
  const label = `Predicted secondary structure of ${name}: ${plural(sequence.length, "nucleotide")}, ${words}`;
  const figure = el("figure", { class: "structure" });
  const drawing = ["Drawing", () => drawLoops(sequence, partner, knots, label)];
  const arcs = ["Arcs", (large) => drawArcs(sequence, partner, knots, label, large)];
  const drawn = sequence.length <= DRAWN_BELOW;
  const forms = drawn ? [drawing, arcs] : sequence.length <= ARCS_ONLY ? [arcs] : [];
  const paper = el("div", { class: "paper", tabindex: "0", role: "group", "aria-label": label });
  const larger = el("button", { type: "button", class: "quiet", "aria-pressed": "false" }, "Larger");
  const buttons = forms.map(([form]) => el("button", { type: "button", class: "quiet" }, form));
  let now = drawn && crowded(layOut(partner)) > MOST_CROWDED ? 1 : 0;
  const show = () => {
    paper.replaceChildren(forms[now][1](paper.classList.contains("large")));
    buttons.forEach((button, place) => button.setAttribute("aria-pressed", String(place === now)));
  };
  buttons.forEach((button, place) => button.addEventListener("click", () => ((now = place), show())));
  larger.addEventListener("click", () => {
    larger.setAttribute("aria-pressed", String(paper.classList.toggle("large")));
    show();
  });
  const caption = el("figcaption", {}, el("strong", {}, name), el("span", { class: "muted" }, ` ${words}`));
  const tools = el("div", { class: "tools" }, forms.length > 1 ? buttons : null, larger);
  figure.append(el("div", { class: "head" }, caption, forms.length ? tools : ""));
  if (forms.length) {
    figure.append(paper);
    show();
  } else {
    figure.append(el("p", { class: "muted" }, `Too long to be drawn: over ${count(ARCS_ONLY)} nucleotides.`));
  }
  const text = el("pre", { tabindex: "0", "aria-label": `Dot-bracket of ${name}` }, `${sequence}\n${dotBracket}`);
  figure.append(el("details", { class: "plain" }, el("summary", {}, "Dot-bracket"), text));
  return figure;
}

function drawLoops(sequence, partner, knots, label) {
  const { x, y, kind, outX, outY } = layOut(partner);
  const at = (place) => [x[place] * STEP, y[place] * STEP];
  const edge = STEP * 2.2;
  const [left, top] = [Math.min(...x) * STEP - edge, Math.min(...y) * STEP - edge];
  const [width, height] = [Math.max(...x) * STEP + edge - left, Math.max(...y) * STEP + edge - top];
  const lines = svg("g", { class: "pairs" });
  partner.forEach((other, place) => other > place && lines.append(pairLine(at(place), at(other), sequence, place, other)));
  const crossing = svg("g", { class: "knots" }, knots.map(([first, last]) => curve(at(first), at(last))));
  const letters = svg("g", { class: "bases" });
  const numbers = svg("g", { class: "numbers" });
  const every = numberEvery(sequence.length);
  for (let place = 0; place < sequence.length; place++) {
    const [cx, cy] = at(place);
    const word = kind[place] === "stem" ? `paired with ${partner[place] + 1}` : WORDS[kind[place]];
    letters.append(
      svg(
        "g",
        { class: kind[place] },
        svg("title", {}, `${sequence[place]}${place + 1}, ${word}`),
        svg("circle", { cx, cy, r: STEP * 0.44 }),
        svg("text", { x: cx, y: cy }, sequence[place]),
      ),
    );
    const end = place === 0 ? "5\u2032" : place === sequence.length - 1 ? "3\u2032" : "";
    if (!end && (place + 1) % every) continue;
    const shift = STEP * (end ? 1.25 : 1.35);
    numbers.append(svg("text", { x: cx + outX[place] * shift, y: cy + outY[place] * shift }, end || String(place + 1)));
  }
  const backbone = svg("polyline", { class: "backbone", points: x.map((_, place) => at(place).join(",")).join(" ") });
  const view = `${left} ${top} ${width} ${height}`;
  const drawn = svg("svg", { viewBox: view, role: "img", "aria-label": label, class: "loops" }, backbone, lines);
  drawn.append(crossing, letters, numbers);
  // As large as its letters read well, in steps of the style sheet; it shrinks where there is less room.
  drawn.setAttribute("width", Math.round(width));
  drawn.setAttribute("height", Math.round(height));
  return drawn;
}

/** The share of letters that lie on others. */
function crowded({ x, y }) {
  const over = x.filter((_, at) => x.some((_, other) => other !== at && Math.hypot(x[at] - x[other], y[at] - y[other]) < 0.8));
  return over.length / Math.max(1, x.length);
}

function pairLine([x1, y1], [x2, y2], sequence, first, last) {
  const letters = [sequence[first], sequence[last]].sort().join("").toUpperCase();
  return svg("line", { x1, y1, x2, y2, class: letters === "GU" ? "wobble" : letters === "CG" ? "strong" : null });
}

/** An arc between two letters, bent away from the straight way. */
function curve([x1, y1], [x2, y2]) {
  const [dx, dy] = [x2 - x1, y2 - y1];
  const [middleX, middleY] = [(x1 + x2) / 2 - dy * 0.25, (y1 + y2) / 2 + dx * 0.25];
  return svg("path", { d: `M${x1} ${y1}Q${middleX} ${middleY} ${x2} ${y2}` });
}

/** Over a line as wide as the page has room for, or with room for every letter. */
function drawArcs(sequence, partner, knots, label, large) {
  const room = Math.min(720, innerWidth - 100);
  const step = large ? 9 : Math.min(9, room / sequence.length);
  const all = partner.flatMap((other, place) => (other > place ? [[place, other, ""]] : []));
  all.push(...knots.map(([first, last]) => [first, last, "knot"]));
  const widest = Math.max(6, ...all.map(([first, last]) => last - first));
  const high = Math.min((widest * step) / 2, large ? 420 : 200);
  const arcs = all.map(([first, last, kind]) => {
    const [from, to] = [(first + 0.5) * step, (last + 0.5) * step];
    const [across, up] = [(to - from) / 2, ((last - first) / widest) * high];
    return svg("path", { d: `M${from} 0A${across} ${up} 0 0 1 ${to} 0`, class: kind || null });
  });
  const width = sequence.length * step;
  const axis = svg("g", { class: "axis" }, svg("line", { x1: 0, y1: 0, x2: width, y2: 0 }));
  const every = [10, 50, 100, 500, 1000].find((number) => number * step >= 28) ?? 5000;
  for (let place = 0; place < sequence.length; place++) {
    const x = (place + 0.5) * step;
    if (step >= 9) axis.append(svg("text", { x, y: 9 }, sequence[place]));
    if ((place + 1) % every === 0) axis.append(svg("text", { x, y: step >= 9 ? 22 : 12, class: "number" }, String(place + 1)));
  }
  const view = `-12 ${-high - 8} ${width + 24} ${high + 36}`;
  const size = { width: width + 24, height: Math.round(high + 36) };
  return svg("svg", { viewBox: view, ...size, role: "img", "aria-label": label, class: "arcs" }, arcs, axis);
}

const numberEvery = (length) => (length <= 200 ? 10 : 50);
