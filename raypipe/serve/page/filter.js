// The condition that hits must meet: pickers for common columns, and SQL for everything.

import { byId, el } from "./dom.js";
import { ask } from "./server.js";

// Columns that people filter by most, if an annotation table has them, and what they are called.
const COMMON = {
  rna_type: "RNA type",
  taxid: "Taxon id",
  family: "Family",
  rfam_family: "Rfam family",
  rfam: "Rfam family",
  rfam_id: "Rfam family",
  organism: "Organism",
  species: "Species",
};
const PICKERS = 4;
const OFFERED = 60; // values of a picker
const PLAIN = /^[A-Za-z_]\w*$/;
const OWN = { sequences: ["length", "sequence", "md5"], records: ["id", "description", "source"] };

export const quoted = (name) => (PLAIN.test(name) ? name : `"${name.replaceAll('"', '""')}"`);
const literal = (value) => `'${value.replaceAll("'", "''")}'`;

/** One SQL condition of the pickers' values (by column) and what was typed; "" for none. */
export function condition(picks, typed) {
  const parts = Object.entries(picks).map(([column, value]) => `${column} = ${literal(value)}`);
  if (typed.trim()) parts.push(parts.length ? `(${typed.trim()})` : typed.trim());
  return parts.join(" AND ");
}

/** Makes the pickers and the list of columns for an atlas.
 *  @param {object} info what /v1/info says
 *  @param {() => void} changed is called when a pick changes */
export function makeFilter(info, changed) {
  const tables = Object.entries(info.annotations || {});
  const pickers = [];
  for (const [table, columns] of tables) {
    for (const column of columns) {
      const words = COMMON[column.toLowerCase()];
      if (words && pickers.length < PICKERS) pickers.push(makePicker(table, column, words, changed));
    }
  }
  byId("pickers").replaceChildren(...pickers.map(({ field }) => field));
  listColumns(tables, (info.predictions || []).map(({ name }) => name));
  return {
    /** Values by column of the pickers that are set. */
    picks: () =>
      Object.fromEntries(pickers.filter(({ input }) => input.value.trim()).map(({ key, input }) => [key, input.value.trim()])),
    /** Set the pickers; what none of them has is given back as SQL. */
    set(picks) {
      for (const { key, input } of pickers) input.value = picks[key] || "";
      const known = pickers.map(({ key }) => key);
      return condition(Object.fromEntries(Object.entries(picks).filter(([key]) => !known.includes(key))), "");
    },
  };
}

function makePicker(table, column, words, changed) {
  const key = `${quoted(table)}.${quoted(column)}`;
  const id = `pick-${table}-${column}`.replace(/\W/g, "-");
  const list = el("datalist", { id: `${id}-values` });
  const input = el("input", { id, type: "text", list: list.id, placeholder: "any", autocomplete: "off", spellcheck: "false" });
  input.addEventListener("input", changed);
  const field = el("div", { class: "field" }, el("label", { for: id, title: key }, words), input, list);
  let asked = false;
  const offer = async () => {
    if (asked) return;
    asked = true;
    const query =
      `SELECT ${quoted(column)}::VARCHAR AS value, count(*) AS n FROM ${quoted(table)} ` +
      `WHERE ${quoted(column)} IS NOT NULL GROUP BY ALL ORDER BY n DESC, value LIMIT ${OFFERED}`;
    try {
      const answer = await ask("v1/sql", { query });
      list.replaceChildren(...answer.rows.map(([value, n]) => el("option", { value, label: `${value} (${n})` })));
    } catch {
      // Only a help: values can be typed all the same, where SQL is switched off or the table is too large to be counted.
    }
  };
  input.addEventListener("focus", offer);
  return { key, input, field };
}

function listColumns(tables, predictions) {
  const shown = Object.entries(OWN).concat(tables);
  const rows = shown.map(([table, columns]) => {
    const buttons = columns
      .filter((column) => column !== "seq_id" && (table in OWN || column !== "id"))
      .map((column) => {
        const own = ["length", "id", "description"].includes(column) && table in OWN;
        const name = own ? column : `${quoted(table)}.${quoted(column)}`;
        const title = `Put ${name} into the condition`;
        return el("button", { type: "button", class: "chip", title, on: { click: () => insert(name) } }, column);
      });
    return el("div", {}, el("span", { class: "muted" }, table), " ", buttons);
  });
  if (predictions.length) {
    const names = predictions.map((name) => el("button", { type: "button", class: "chip", on: { click: () => insert(`${quoted(name)}.`) } }, name));
    rows.push(el("div", {}, el("span", { class: "muted" }, "predictions"), " ", names));
  }
  byId("columns").replaceChildren(...rows);
}

function insert(name) {
  const field = byId("where");
  const before = field.value.slice(0, field.selectionStart);
  field.setRangeText(before && !/[\s(]$/.test(before) ? ` ${name}` : name, field.selectionStart, field.selectionEnd, "end");
  field.focus();
  field.dispatchEvent(new Event("input", { bubbles: true }));
}
