// Where the letters of a secondary structure go. Loops are circles on which neighbours stand one step apart and partners
// PAIR steps; a stack of two pairs is a loop too, which makes a rectangle of it, and so stems are straight.

const PAIR = 1.6;
const GAP = 2.4; // between the two ends
const OPEN = "([{<ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const CLOSE = ")]}>abcdefghijklmnopqrstuvwxyz";

/** Partners in a dot-bracket.
 *  @returns {{partner: number[], knots: [number, number][]}} `partner` by round brackets, -1 where there is none; the
 *  other kinds, which cross them, are `knots`.
 *  @throws {Error} a bracket has no partner, or a letter is none. */
export function parseStructure(dotBracket) {
  const partner = new Array(dotBracket.length).fill(-1);
  const knots = [];
  const waiting = new Map();
  [...dotBracket].forEach((letter, place) => {
    const opens = OPEN.indexOf(letter);
    const closes = CLOSE.indexOf(letter);
    if (opens >= 0) {
      if (!waiting.has(opens)) waiting.set(opens, []);
      waiting.get(opens).push(place);
    } else if (closes >= 0) {
      const first = waiting.get(closes)?.pop();
      if (first === undefined) throw new Error(`"${letter}" at ${place + 1} closes nothing`);
      if (closes === 0) (partner[first] = place), (partner[place] = first);
      else knots.push([first, place]);
    } else if (!".-_,:~".includes(letter)) {
      throw new Error(`"${letter}" at ${place + 1} is no bracket`);
    }
  });
  for (const places of waiting.values()) if (places.length) throw new Error(`a bracket at ${places[0] + 1} is open`);
  return { partner, knots };
}

/** Places in steps, the ends on top, running counter-clockwise as textbooks draw a tRNA.
 *  @param {number[]} partner as `parseStructure` gives it
 *  @returns {{x: number[], y: number[], kind: string[], outX: number[], outY: number[]}} by letter: its place; stem,
 *  hairpin, interior, multi or exterior; and the direction away from what it belongs to, where a number may stand. */
export function layOut(partner) {
  const size = partner.length;
  const made = { x: new Array(size), y: new Array(size), kind: new Array(size), outX: [], outY: [] };
  if (!size) return made;
  const outer = members(partner, 0, size - 1);
  const circle = fit(edges(partner, outer), outer.length > 2 || partner[0] !== size - 1 ? GAP : PAIR);
  place(made, partner, outer, circle, 0, 0, Math.asin(clip(circle.closing / 2 / circle.radius)) - Math.PI / 2, "exterior");
  const waiting = branches(partner, outer);
  while (waiting.length) {
    const [first, last] = waiting.pop();
    const inside = [first, ...members(partner, first + 1, last - 1), last];
    const { radius } = fit(edges(partner, inside), PAIR);
    // The centre is on the left of the way from the last letter to the first, and so on the far side of the pair.
    const [dx, dy] = [made.x[first] - made.x[last], made.y[first] - made.y[last]];
    const [span, rise] = [Math.hypot(dx, dy), Math.sqrt(Math.max(0, radius ** 2 - (PAIR / 2) ** 2))];
    const centreX = (made.x[first] + made.x[last]) / 2 - (dy / span) * rise;
    const centreY = (made.y[first] + made.y[last]) / 2 + (dx / span) * rise;
    const angle = Math.atan2(made.y[first] - centreY, made.x[first] - centreX);
    const inner = branches(partner, inside.slice(1, -1));
    const kind = inner.length === 0 ? "hairpin" : inner.length === 1 ? "interior" : "multi";
    place(made, partner, inside, { radius }, centreX, centreY, angle, kind);
    waiting.push(...inner);
  }
  turn(made, stemDirection(made, partner, outer));
  return made;
}

/** The angle by which the whole is turned so that a stem that holds it all hangs down from the ends. */
function stemDirection(made, partner, outer) {
  const stems = branches(partner, outer);
  if (stems.length !== 1) return 0;
  const [first, last] = stems[0];
  const [dx, dy] = [made.x[first] - made.x[last], made.y[first] - made.y[last]];
  return Math.PI / 2 - Math.atan2(dx, -dy);
}

/** Turn by an angle, then mirror: 5' is on the left. */
function turn(made, angle) {
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  for (const [xs, ys] of [[made.x, made.y], [made.outX, made.outY]]) {
    xs.forEach((x, at) => ([xs[at], ys[at]] = [-(x * cos - ys[at] * sin), x * sin + ys[at] * cos]));
  }
}

/** Letters on the circle between `first` and `last`, in order: of a stem its pair, and nothing behind it. */
function members(partner, first, last) {
  const found = [];
  for (let at = first; at <= last; at++) {
    found.push(at);
    if (partner[at] > at) found.push((at = partner[at]));
  }
  return found;
}

function branches(partner, inside) {
  return inside.filter((at) => partner[at] > at).map((at) => [at, partner[at]]);
}

/** Lengths of the chords between one letter and the next. */
function edges(partner, inside) {
  return inside.slice(1).map((at, number) => (partner[inside[number]] === at ? PAIR : 1));
}

/** The circle on which chords, and one that closes it, go round once. */
function fit(chords, closing) {
  const all = [...chords, closing];
  const turned = (radius) => all.reduce((sum, chord) => sum + 2 * Math.asin(clip(chord / 2 / radius)), 0);
  let low = Math.max(...all) / 2;
  let high = low + all.reduce((sum, chord) => sum + chord, 0);
  for (let round = 0; round < 60 && high - low > 1e-9; round++) {
    const middle = (low + high) / 2;
    if (turned(middle) > 2 * Math.PI) low = middle;
    else high = middle;
  }
  return { radius: high, closing };
}

function place(made, partner, inside, { radius }, centreX, centreY, angle, kind) {
  inside.forEach((at, number) => {
    if (number > 0) {
      const chord = partner[inside[number - 1]] === at ? PAIR : 1;
      angle += 2 * Math.asin(clip(chord / 2 / radius));
    }
    if (made.x[at] === undefined) {
      made.x[at] = centreX + radius * Math.cos(angle);
      made.y[at] = centreY + radius * Math.sin(angle);
      const side = kind === "multi" ? -1 : 1; // stems stand all around a multiloop
      [made.outX[at], made.outY[at]] = [side * Math.cos(angle), side * Math.sin(angle)];
      made.kind[at] = partner[at] >= 0 ? "stem" : kind;
    }
  });
  // Beside a pair there is room only away from the partner.
  for (const at of inside) {
    const other = partner[at];
    if (other < 0 || made.x[other] === undefined) continue;
    const span = Math.hypot(made.x[at] - made.x[other], made.y[at] - made.y[other]) || 1;
    made.outX[at] = (made.x[at] - made.x[other]) / span;
    made.outY[at] = (made.y[at] - made.y[other]) / span;
  }
}

const clip = (value) => Math.min(1, Math.max(-1, value));
