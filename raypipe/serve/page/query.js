// What was typed, as queries; and the whole question as the part of the address behind #, which no server sees.

// Words of nucleotides, which numbers of lines and gaps may stand between, as in GenBank's own layout.
const LETTERS = /^(\d+\s+)?[ACGUTRYSWKMBDHVNI.\-*]+(\s+([ACGUTRYSWKMBDHVNI.\-*]+|\d+))*$/i;
const LONGEST_LINK = 16000; // characters
const PIECE = { queries: 32, letters: 100_000 }; // of one request

/** What `text` means.
 *  @param {string} as "auto", "sequences" or "ids"
 *  @returns {{kind: "none" | "sequences" | "ids", names: string[], values: string[]}} */
export function parseQueries(text, as = "auto") {
  const trimmed = text.trim();
  if (!trimmed) return { kind: "none", names: [], values: [] };
  if (as !== "ids" && /^[>;]/m.test(trimmed)) return parseFasta(trimmed);
  if (as === "sequences" || (as === "auto" && LETTERS.test(trimmed))) {
    return { kind: "sequences", names: ["query_1"], values: [bare(trimmed)] };
  }
  const words = trimmed.split(/\s+/);
  const ids = [...new Set(words.length > 1 ? words.map((id) => id.replace(/,$/, "")).filter(Boolean) : words)];
  return { kind: "ids", names: ids, values: ids };
}

function parseFasta(text) {
  const names = [];
  const values = [];
  for (const line of text.split(/\r?\n/)) {
    if (line.startsWith(">")) {
      names.push(line.slice(1).trim().split(/\s+/)[0] || `query_${names.length + 1}`);
      values.push("");
    } else if (line.startsWith(";") || !line.trim()) {
      continue;
    } else {
      if (!names.length) names.push("query_1"), values.push("");
      values[values.length - 1] += bare(line);
    }
  }
  return { kind: "sequences", names: distinct(names), values };
}

/** Names of which no two are alike, since hits are told apart by them: a, b, a (2). No header's word has a blank. */
function distinct(names) {
  const seen = new Map(); // name -> how often it came
  return names.map((name) => {
    const number = (seen.get(name) ?? 0) + 1;
    seen.set(name, number);
    return number === 1 ? name : `${name} (${number})`;
  });
}

const bare = (text) => text.replace(/(^|\s)\d+(?=\s|$)|\s+/g, "");

/** Places in `values` where requests begin, and their end: [0, 32, 40]. */
export function cut(values) {
  const starts = [0];
  let letters = 0;
  values.forEach((value, place) => {
    letters += value.length;
    if (place - starts.at(-1) < PIECE.queries && letters <= PIECE.letters) return;
    if (place > starts.at(-1)) starts.push(place), (letters = value.length);
  });
  return [...starts, values.length];
}

/** Whether a link can hold `text`. */
export const fitsLink = (text) => text.length <= LONGEST_LINK;

/** The question as the part of the address behind #. */
export function toHash(question) {
  const parts = new URLSearchParams();
  if (fitsLink(question.text)) parts.set("q", question.text);
  if (question.as !== "auto") parts.set("as", question.as);
  if (question.k !== 10) parts.set("k", question.k);
  if (question.where) parts.set("where", question.where);
  for (const [column, value] of Object.entries(question.picks)) parts.append("pick", `${column}=${value}`);
  if (question.minScore !== null) parts.set("min", question.minScore);
  if (question.exact) parts.set("exact", "1");
  return `#${parts}`;
}

/** What `toHash` made; null where there is none. A text that was too long for it is null too. */
export function fromHash(hash) {
  const parts = new URLSearchParams(hash.replace(/^#/, ""));
  if (!parts.size) return null;
  const number = (name, otherwise) => (Number.isFinite(parseFloat(parts.get(name))) ? +parts.get(name) : otherwise);
  return {
    text: parts.get("q"),
    as: ["ids", "sequences"].includes(parts.get("as")) ? parts.get("as") : "auto",
    k: Math.max(1, Math.round(number("k", 10))),
    where: parts.get("where") || "",
    picks: Object.fromEntries(parts.getAll("pick").filter((pick) => pick.includes("=")).map(split)),
    minScore: number("min", null),
    exact: parts.get("exact") === "1",
  };
}

const split = (pick) => [pick.slice(0, pick.indexOf("=")), pick.slice(pick.indexOf("=") + 1)];
