// The page: reads the question, asks it in pieces, shows what comes, and keeps the question in the address.

import { structureFigure, structures } from "./details.js";
import { byId, copy, count, el, plural } from "./dom.js";
import { condition, makeFilter } from "./filter.js";
import { annotationColumns, hitTable, summary, view } from "./hits.js";
import { cut, fitsLink, fromHash, parseQueries, toHash } from "./query.js";
import { ask, token } from "./server.js";
import { save, toTsv } from "./tsv.js";

const EXAMPLE = ">yeast_tRNA_Phe\nGCGGAUUUAGCUCAGUUGGGAGAGCGCCAGACUGAAGAUCUGGAGGUCCUGUGUUCGAUCCACAGAAUUCGCACCA\n";
const form = byId("form");
let filter = makeFilter({}, () => {});
let searching = null; // AbortController of the search that runs
let answers = []; // {query, rows} in the order of queries

// ---- the question

function readQuestion() {
  const number = (id) => (byId(id).value.trim() === "" ? null : Number(byId(id).value));
  return {
    text: byId("query").value,
    as: byId("as").value,
    k: number("k") ?? 10,
    where: byId("where").value.trim(),
    picks: filter.picks(),
    minScore: number("min-score"),
    exact: byId("exact").checked,
  };
}

function writeQuestion(question) {
  if (question.text !== null) byId("query").value = question.text;
  byId("as").value = question.as;
  byId("k").value = question.k;
  byId("min-score").value = question.minScore ?? "";
  byId("exact").checked = question.exact;
  const rest = filter.set(question.picks);
  byId("where").value = [rest, question.where].filter(Boolean).join(" AND ");
  if (question.where || Object.keys(question.picks).length) byId("filter").open = true;
  sayQueries();
  sayCondition();
}

function sayQueries() {
  const { kind, values } = parseQueries(byId("query").value, byId("as").value);
  const letters = values.reduce((sum, value) => sum + value.length, 0);
  byId("read").textContent =
    kind === "none" ? "" : kind === "ids" ? plural(values.length, "record id") : `${plural(values.length, "sequence")}, ${count(letters)} nt`;
}

function sayCondition() {
  const sent = condition(filter.picks(), byId("where").value);
  byId("condition").replaceChildren(...(sent ? ["Hits must meet ", el("code", {}, sent)] : ["All sequences may be found."]));
}

// ---- the search

async function search({ remember = true } = {}) {
  const question = readQuestion();
  const queries = parseQueries(question.text, question.as);
  searching?.abort();
  if (queries.kind === "none") return fail({ message: "Nothing to search with.", hint: "Paste a sequence, FASTA or the id of a record." }, "query");
  if (!form.reportValidity()) return;
  if (remember) history.pushState(null, "", toHash(question));
  const stop = (searching = new AbortController());
  answers = [];
  view.columns = null;
  Object.assign(view, { sort: "rank", descending: false });
  clearFailure();
  byId("results").hidden = true;
  busy(true);
  const begin = performance.now();
  const asked = { k: question.k };
  const where = condition(question.picks, question.where);
  if (where) asked.where = where;
  if (question.minScore !== null) asked.min_score = question.minScore;
  if (question.exact) asked.exact = true;
  let how = null;
  const starts = cut(queries.values);
  try {
    for (let part = 0; part < starts.length - 1; part++) {
      const [done, end] = starts.slice(part, part + 2);
      if (starts.length > 2) progress(done, queries.values.length);
      const piece = queries.values.slice(done, end);
      const names = queries.names.slice(done, end);
      const body = queries.kind === "ids" ? { ids: piece } : { sequences: piece, names };
      const onWait = (seconds) => say(`The server is busy; asking again in ${plural(seconds, "second")}.`);
      const answer = await ask("v1/search", { ...body, ...asked }, { signal: stop.signal, onWait });
      how ??= answer.how;
      take(queries, done, piece.length, answer.hits);
    }
  } catch (error) {
    if (stop !== searching) return; // another search has begun
    if (error.name !== "AbortError") fail(error);
    if (!answers.length) {
      if (error.name === "AbortError") say("Search cancelled.");
      return busy(false);
    }
  }
  if (stop !== searching) return;
  busy(false);
  const seconds = (performance.now() - begin) / 1000;
  showResults(how, seconds, answers.length < queries.values.length ? queries.values.length : 0);
}

/** Sort hits to their queries: they come in the order of these, and no two names are alike. */
function take(queries, start, number, hits) {
  let next = 0;
  for (let place = start; place < start + number; place++) {
    const [name, value] = [queries.names[place], queries.values[place]];
    const rows = [];
    while (next < hits.length && hits[next].query === name) rows.push(hits[next++]);
    answers.push({ query: { name, sequence: queries.kind === "sequences" ? value : null }, rows });
  }
}

function busy(now) {
  byId("search").disabled = now;
  byId("cancel").hidden = !now;
  byId("progress").hidden = !now;
  byId("main").setAttribute("aria-busy", String(now));
  byId("status").classList.remove("visually-hidden");
  if (now) say("Searching\u2026");
  if (!now) byId("progress").removeAttribute("value");
}

function progress(done, all) {
  Object.assign(byId("progress"), { max: all, value: done });
  say(`${count(done)} of ${count(all)} queries answered.`);
}

const say = (text) => (byId("status").textContent = text);

function fail(error, field = null) {
  const parts = [el("strong", {}, error.message), error.hint ? el("span", {}, ` ${error.hint}`) : ""];
  if (error.requestId) parts.push(el("span", { class: "muted" }, ` (request ${error.requestId})`));
  byId("error").replaceChildren(...parts);
  byId("error").hidden = false;
  byId("welcome").hidden = !byId("results").hidden;
  byId("error").scrollIntoView({ block: "nearest" });
  say("");
  if (error.status === 401) {
    byId("access").open = true;
    byId("token").focus();
  } else if (field) {
    byId(field).setAttribute("aria-invalid", "true");
    byId(field).focus();
  }
}

function clearFailure() {
  byId("error").hidden = true;
  byId("query").removeAttribute("aria-invalid");
}

// ---- what was found

function showResults(how, seconds, missingOf) {
  const hits = answers.reduce((sum, { rows }) => sum + rows.length, 0);
  const several = answers.length === 1 ? "1 query" : `${count(answers.length)} queries`;
  const part = missingOf ? ` (stopped; ${count(missingOf)} were asked)` : "";
  byId("results").hidden = false;
  byId("welcome").hidden = true;
  byId("found").textContent = `${plural(hits, "hit")} of ${several}${part}`;
  byId("how").textContent = howWords(how, seconds);
  byId("download").disabled = !hits;
  byId("link").disabled = !fitsLink(byId("query").value);
  byId("link").title = byId("link").disabled ? "The queries are too long for a link" : "";
  say(`${plural(hits, "hit")} of ${several} in ${seconds.toFixed(2)} seconds.`);
  byId("status").classList.add("visually-hidden"); // the heading says the same to the eyes
  render();
  byId("found").focus();
}

function howWords(how, seconds) {
  const words = [`${seconds.toFixed(2)} s`];
  if (how) {
    words.push(`index ${how.version} (${how.type})`);
    if (how.allowed < how.rows) words.push(`${count(how.allowed)} of ${count(how.rows)} sequences may be found`);
    else words.push(plural(how.rows, "sequence"));
    words.push([...new Set(how.searched)].join("; "));
    if (how.missing?.length) words.push(`not searched: ${JSON.stringify(how.missing)}`);
  }
  return words.filter(Boolean).join(" \u00b7 ");
}

/** Build the list of answers anew: after a search, and when columns or order change. */
function render() {
  const all = answers.flatMap(({ rows }) => rows);
  const { all: columns, shown } = annotationColumns(all);
  const act = { sortBy, search: searchFor };
  const list = answers.map(({ query, rows }, number) => {
    const body = el("div", {});
    const build = () => {
      if (body.childElementCount) return;
      if (answers.length === 1) figureOf(query, body);
      body.append(rows.length ? hitTable(query, rows, shown, act) : el("p", { class: "muted" }, "No hit: nothing that may be found scores enough."));
    };
    if (answers.length === 1) return build(), body;
    const section = el("details", { class: "answer", open: number === 0 }, el("summary", {}, ...summary(query, rows)), body);
    section.addEventListener("toggle", () => section.open && build());
    if (number === 0) build();
    return section;
  });
  byId("answers").replaceChildren(...list);
  showColumns(columns, shown);
  showSort(["rank", "id", "score", "length", ...columns]);
}

/** The structure of a query that stands alone, above its hits. */
function figureOf(query, body) {
  if (!query.sequence) return;
  const place = el("div", { class: "figures" });
  body.append(place);
  structureFigure(query.sequence, `query ${query.name}`).then((figure) => figure && place.append(figure));
}

function showColumns(columns, shown) {
  byId("shown").hidden = !columns.length;
  const boxes = columns.map((name) => {
    const box = el("input", { type: "checkbox", checked: shown.includes(name) });
    box.addEventListener("change", () => {
      view.columns = new Set(columns.filter((_, place) => boxes[place].firstChild.checked));
      render();
    });
    return el("label", {}, box, ` ${name}`);
  });
  // A rebuilt list would take the focus away from the box that was just ticked.
  if (byId("shown-list").childElementCount !== boxes.length || !byId("shown-list").contains(document.activeElement)) {
    byId("shown-list").replaceChildren(...boxes);
  }
}

function showSort(columns) {
  byId("sort").replaceChildren(...columns.map((name) => el("option", { value: name, selected: name === view.sort }, name)));
  byId("direction").textContent = view.descending ? "Descending" : "Ascending";
}

function sortBy(column, descending = null) {
  if (descending === null) descending = view.sort === column ? !view.descending : column === "score";
  const from = document.activeElement?.dataset?.sort;
  Object.assign(view, { sort: column, descending });
  render();
  if (from) document.querySelector(`[data-sort="${CSS.escape(from)}"]`)?.focus();
  say(`Sorted by ${column}, ${descending ? "descending" : "ascending"}.`);
}

function searchFor(text, as) {
  byId("query").value = text;
  byId("as").value = as;
  sayQueries();
  search();
}

// ---- the atlas

async function greet() {
  try {
    const info = await ask("v1/info");
    const vectors = info.embeddings?.[0];
    const about = [plural(info.sequences, "sequence"), plural(info.records, "record"), vectors && vectors.model.split("/").pop()];
    byId("about").textContent = about.filter(Boolean).join(" \u00b7 ");
    byId("space").textContent = info.index ? `Scores are cosines in the index's own space: ${info.index.space}.` : "";
    structures.set = (info.predictions || []).find(({ task }) => task === "structure")?.name ?? null;
    if (info.limits?.max_k) byId("k").max = info.limits.max_k;
    filter = makeFilter(info, sayCondition);
    clearFailure();
    if (!info.index) fail({ message: "This atlas has no index yet, so it cannot be searched.", hint: "Make one on the server with raypipe index." });
    return true;
  } catch (error) {
    fail(error);
    return false;
  }
}

async function enter() {
  if (!(await greet())) return;
  const question = fromHash(location.hash);
  if (!question) return sayCondition();
  writeQuestion(question);
  if (byId("query").value.trim()) await search({ remember: false });
}

form.addEventListener("submit", (event) => (event.preventDefault(), search()));
form.addEventListener("input", () => (sayQueries(), sayCondition()));
byId("query").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
document.addEventListener("keydown", (event) => event.key === "Escape" && searching?.abort());
byId("cancel").addEventListener("click", () => searching?.abort());
byId("example").addEventListener("click", () => {
  byId("query").value = EXAMPLE;
  byId("as").value = "auto";
  sayQueries();
  byId("query").focus();
});
byId("file").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  if (file) byId("query").value = await file.text();
  event.target.value = "";
  sayQueries();
});
byId("access").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set(byId("token").value.trim());
  byId("access").open = false;
  enter();
});
byId("sort").addEventListener("change", (event) => sortBy(event.target.value, event.target.value === "score"));
byId("direction").addEventListener("click", () => sortBy(view.sort, !view.descending));
byId("download").addEventListener("click", () => save(toTsv(answers.flatMap(({ rows }) => rows)), "hits.tsv"));
byId("link").addEventListener("click", (event) => copy(location.href, event.currentTarget));
addEventListener("popstate", enter);
byId("token").value = token.get();
sayQueries();
enter();
