// What is behind a hit: structures, sequence, annotations and records, fetched when it is opened.

import { copy, count, el, plural } from "./dom.js";
import { drawStructure } from "./drawing.js";
import { quoted } from "./filter.js";
import { textOf } from "./hits.js";
import { ask } from "./server.js";

const HIDDEN = ["query", "rank", "id", "score", "length", "description"];
const RECORDS = 50;
const UNASKED = 600; // letters: longer ones take the server seconds
const RNACENTRAL = /^URS[0-9A-F]{10}(_\d+)?$/;

/** What this server can tell of structures: the atlas's own set of them, if any; and the model's head until it says no. */
export const structures = { set: null, head: true };
const folded = new Map(); // sequence -> promise of its dot-bracket; null where there is none
const known = new Map(); // id -> promise of its records

/** The content of a hit's row. */
export function hitDetails(query, row, act) {
  const records = recordsOf(row.id).then((all) => ofTheHit(row, all));
  const panel = el("div", { class: "panel" });
  const again = el("button", { type: "button" }, "Search with this one");
  again.addEventListener("click", async () => {
    const [{ sequence }] = await records;
    // An id that several sequences carry names none of them.
    const several = new Set((await recordsOf(row.id)).map(({ seq_id }) => seq_id)).size > 1;
    if (several) act.search(`>${row.id}\n${sequence}\n`, "auto");
    else act.search(row.id, "ids");
  });
  const copyId = el("button", { type: "button", class: "quiet" }, "Copy id");
  copyId.addEventListener("click", () => copy(row.id, copyId));
  const link = RNACENTRAL.test(row.id)
    ? el("a", { href: `https://rnacentral.org/rna/${row.id.replace("_", "/")}`, rel: "noreferrer" }, "RNAcentral")
    : null;
  const sequence = el("div", {}, el("p", { class: "muted" }, "Fetching the sequence\u2026"));
  const figures = el("div", { class: "figures" });
  panel.append(el("div", { class: "tools" }, again, copyId, link), figures, annotations(row), sequence);
  const mine = query.sequence
    ? structureFigure(query.sequence, `query ${query.name}`)
    : recordsOf(query.name).then(([first]) => structureFigure(first.sequence, `query ${query.name}`, first.seq_id));
  const its = records.then(([first]) => structureFigure(first.sequence, `hit ${row.id}`, first.seq_id));
  Promise.allSettled([mine, its]).then((made) => figures.append(...made.map(({ value }) => value).filter(Boolean)));
  records.then(
    (found) => sequence.replaceChildren(...sequenceParts(row, found)),
    (error) => sequence.replaceChildren(el("p", { class: "warning" }, `${error.message} ${error.hint || ""}`)),
  );
  return panel;
}

/** A figure of the structure that is predicted for a sequence, or a button that makes it; null where none can be had. */
export async function structureFigure(sequence, name, seqId = null, asked = false) {
  const stored = structures.set !== null && seqId !== null;
  if (!asked && sequence.length > UNASKED && structures.head && !stored && !folded.has(sequence)) {
    const button = el("button", { type: "button", class: "quiet" }, `Predict the structure of ${name}`);
    button.addEventListener("click", async () => {
      button.disabled = true;
      button.textContent = `Predicting the structure of ${name}\u2026`;
      button.replaceWith((await structureFigure(sequence, name, seqId, true)) ?? "");
    });
    return button;
  }
  if (!folded.has(sequence)) folded.set(sequence, fold(sequence, seqId));
  try {
    const dotBracket = await folded.get(sequence);
    return dotBracket === null ? null : drawStructure(sequence.toUpperCase().replaceAll("T", "U"), dotBracket, name);
  } catch (error) {
    folded.delete(sequence);
    const words = `No structure of ${name}: ${error.message} ${error.hint || ""}`;
    return el("p", { class: "muted" }, words);
  }
}

async function fold(sequence, seqId) {
  if (structures.set !== null && seqId !== null) {
    const query = `SELECT dot_bracket FROM ${quoted(structures.set)} WHERE seq_id = ${Number(seqId)}`;
    const stored = await ask("v1/sql", { query }).catch(() => null);
    if (stored?.rows.length) return stored.rows[0][0];
  }
  if (!structures.head) return null;
  try {
    const { heads } = await ask("v1/predict", { sequences: [sequence], heads: ["structure"] });
    return heads.structure[0].dot_bracket;
  } catch (error) {
    // Its model has no such head: said once by leaving the drawings away, not at every hit.
    if (![400, 404].includes(error.status) || error.code === "too_large") throw error;
    structures.head = false;
    return null;
  }
}

function recordsOf(id) {
  if (!known.has(id)) {
    const asked = ask("v1/records", { ids: [id] }).then(({ records }) => records);
    known.set(id, asked);
    asked.catch(() => known.delete(id));
  }
  return known.get(id);
}

/** Those of an id's records that are of the hit: ids may be given twice. */
function ofTheHit(row, records) {
  const fitting = records.filter(({ length }) => length === row.length);
  return fitting.length ? fitting : records;
}

function sequenceParts(row, records) {
  const [first] = records;
  const button = el("button", { type: "button", class: "quiet" }, "Copy sequence");
  button.addEventListener("click", () => copy(first.sequence, button));
  const list = el("div", {});
  otherRecords(first).then((all) => list.replaceChildren(...recordParts(all)), () => list.replaceChildren(...recordParts(records)));
  return [
    el("h4", {}, `Sequence, ${count(first.sequence.length)} nt`),
    el("pre", { class: "sequence", tabindex: "0", "aria-label": `Sequence of ${row.id}` }, first.sequence),
    button,
    list,
  ];
}

/** All records of a sequence: not only those of one id. */
async function otherRecords(first) {
  const query = `SELECT id, description, source FROM records WHERE seq_id = ${Number(first.seq_id)} ORDER BY ordinal LIMIT ${RECORDS + 1}`;
  const { rows } = await ask("v1/sql", { query });
  return rows.map(([id, description, source]) => ({ id, description, source }));
}

function recordParts(records) {
  const more = records.length > RECORDS;
  const items = records.slice(0, RECORDS).map(({ id, description, source }) => {
    const about = [description, source && `from ${source.split("/").pop()}`].filter(Boolean).join(", ");
    return el("li", {}, el("code", {}, id), about ? ` ${about}` : "");
  });
  const title = more ? `The first ${RECORDS} records of this sequence` : `${plural(records.length, "record")} of this sequence`;
  return [el("h4", {}, title), el("ul", {}, items)];
}

function annotations(row) {
  const names = Object.keys(row).filter((name) => !HIDDEN.includes(name) && row[name] !== null);
  if (!names.length && !row.description) return el("div", {});
  const items = names.map((name) => el("div", {}, el("dt", {}, name), el("dd", {}, textOf(row[name]))));
  if (row.description) items.unshift(el("div", {}, el("dt", {}, "description"), el("dd", {}, row.description)));
  return el("dl", {}, items);
}
