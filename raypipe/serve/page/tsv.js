// Hits as a TSV file, written as `raypipe search` writes it.

/** Rows of one table: the columns of all rows, in the order in which they first come. */
export function toTsv(rows) {
  const names = columnsOf(rows);
  const lines = [names, ...rows.map((row) => names.map((name) => cell(name, row[name])))];
  return lines.map((line) => line.map(oneLine).join("\t") + "\n").join("");
}

export const columnsOf = (rows) => [...new Set(rows.flatMap((row) => Object.keys(row)))];

/** Offer `text` as a download. */
export function save(text, name) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/tab-separated-values;charset=utf-8" }));
  const link = Object.assign(document.createElement("a"), { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

function cell(name, value) {
  if (value === null || value === undefined) return "";
  if (name === "score") return Number(value).toFixed(6);
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

// Readers of TSV know no escapes.
const oneLine = (text) => text.replace(/[\t\n\r]/g, " ");
