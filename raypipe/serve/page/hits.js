// The hits of one query as a table; on a narrow screen its rows become cards, by the style sheet alone.

import { hitDetails } from "./details.js";
import { count, el, plural } from "./dom.js";
import { columnsOf } from "./tsv.js";

const BASE = ["query", "rank", "id", "score", "length", "description"];
const WORDS = { rank: "Rank", id: "Id", score: "Score", length: "Length" };
const FIRST_SHOWN = 3; // annotation columns
const SHORT = 40; // characters: longer values are for the details of a hit
const ROWS_SHOWN = 200;

/** What may differ in how hits are shown, for all tables alike. */
export const view = { sort: "rank", descending: false, columns: null };

/** Annotation columns of `rows` in order, and those of them that are shown. */
export function annotationColumns(rows) {
  const all = columnsOf(rows).filter((name) => !BASE.includes(name));
  const has = (row, name) => row[name] !== null && row[name] !== undefined;
  const short = (name) => rows.every((row) => !has(row, name) || textOf(row[name]).length <= SHORT);
  const filled = all.filter((name) => rows.some((row) => has(row, name)) && short(name));
  return { all, shown: view.columns ? all.filter((name) => view.columns.has(name)) : filled.slice(0, FIRST_SHOWN) };
}

/** Rows by what is sorted by; what has no value is last. */
export function sorted(rows) {
  const direction = view.descending ? -1 : 1;
  const value = (row) => row[view.sort] ?? null;
  return [...rows].sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === null || b === null) return (a === null) - (b === null) || one.rank - other.rank;
    const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
    return direction * order || one.rank - other.rank;
  });
}

/** A table of `rows`.
 *  @param {object} query name, and its sequence or id
 *  @param {string[]} shown annotation columns
 *  @param {object} act `sortBy(column)` and `search(text, as)` */
export function hitTable(query, rows, shown, act) {
  const columns = ["rank", "id", "score", "length", ...shown];
  const head = el("tr", { role: "row" }, columns.map((name) => header(name, act)));
  // Roles are spelt out: a table that the style sheet lays out as cards is none to a screen reader otherwise.
  const body = el("tbody", { role: "rowgroup" });
  const caption = el("caption", { class: "visually-hidden" }, `Hits of ${query.name}`);
  const table = el("table", { role: "table" }, caption, el("thead", { role: "rowgroup" }, head), body);
  const box = el("div", { class: "table-box" }, table);
  const inOrder = sorted(rows);
  const add = (some) => some.forEach((row) => body.append(...hitRows(query, row, columns, act)));
  add(inOrder.slice(0, ROWS_SHOWN));
  if (inOrder.length > ROWS_SHOWN) {
    const more = el("button", { type: "button", class: "quiet" }, `Show all ${count(inOrder.length)} hits`);
    more.addEventListener("click", () => (more.remove(), add(inOrder.slice(ROWS_SHOWN))));
    box.append(more);
  }
  return box;
}

function header(name, act) {
  const now = view.sort === name;
  const order = !now ? "none" : view.descending ? "descending" : "ascending";
  const sign = el("span", { "aria-hidden": "true", class: "sign" }, !now ? "" : view.descending ? "\u25be" : "\u25b4");
  const button = el("button", { type: "button", "data-sort": name, on: { click: () => act.sortBy(name) } }, WORDS[name] || name, sign);
  const numeric = ["rank", "score", "length"].includes(name);
  return el("th", { role: "columnheader", scope: "col", "aria-sort": order, class: numeric ? "number" : null }, button);
}

function hitRows(query, row, columns, act) {
  const name = row.id ?? "";
  const toggle = el("button", { type: "button", class: "id", "aria-expanded": "false" }, name);
  const opened = el("tr", { role: "row", class: "details", hidden: true });
  toggle.addEventListener("click", () => {
    opened.hidden = !opened.hidden;
    toggle.setAttribute("aria-expanded", String(!opened.hidden));
    if (!opened.childElementCount) {
      opened.append(el("td", { role: "cell", colspan: String(columns.length) }, hitDetails(query, row, act)));
    }
  });
  const cells = columns.map((column) => {
    const label = WORDS[column] || column;
    if (column === "id") {
      const about = row.description ? el("span", { class: "about" }, row.description) : null;
      return el("td", { role: "cell", class: "name", "data-label": label }, toggle, about);
    }
    if (column === "score") return el("td", { role: "cell", class: "number score", "data-label": label }, ...scoreParts(row.score));
    const value = row[column];
    if (column === "rank") return el("td", { role: "cell", class: "number rank", "data-label": label }, String(value));
    if (column === "length") return el("td", { role: "cell", class: "number", "data-label": label }, `${count(value)} nt`);
    const numeric = typeof value === "number";
    return el("td", { role: "cell", class: numeric ? "number" : null, "data-label": label }, textOf(value));
  });
  return [el("tr", { role: "row" }, cells), opened];
}

/** A score as a number and a bar, which is only for the eyes. */
function scoreParts(score) {
  const bar = el("span", { class: "bar", "aria-hidden": "true" }, el("span", {}));
  bar.firstChild.style.width = `${Math.max(0, Math.min(1, score)) * 100}%`;
  return [el("span", {}, Number(score).toFixed(4)), bar];
}

/** A value of an annotation as text. */
export function textOf(value) {
  if (value === null || value === undefined) return "\u2013";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** The line above the hits of a query. */
export function summary(query, rows) {
  const words = [query.sequence ? `${count(query.sequence.length)} nt` : null, plural(rows.length, "hit")];
  const best = rows[0] && `best ${rows[0].id} at ${Number(rows[0].score).toFixed(4)}`;
  return [el("strong", {}, query.name), el("span", { class: "muted" }, ` ${[...words, best].filter(Boolean).join(" \u00b7 ")}`)];
}
