// Asks the server that this page came from; paths are relative, so that it may stand below a prefix.

const TOKEN = "raypipe.token";
const TRIES = 4;

/** An answer that is none. `code` and `hint` are the server's own words, where it said any. */
export class ServerError extends Error {
  constructor(status, body) {
    super(body.message || `The server answered ${status}.`);
    this.status = status;
    this.code = body.code || "";
    this.hint = body.hint || "";
    this.requestId = body.request_id || "";
  }
}

// For this tab only, and never in the address.
export const token = {
  get: () => sessionStorage.getItem(TOKEN) || "",
  set: (value) => (value ? sessionStorage.setItem(TOKEN, value) : sessionStorage.removeItem(TOKEN)),
};

/** POST `body` (GET without one) and read JSON. A server that is busy is asked again when it says so.
 *  @throws {ServerError}
 *  @throws {DOMException} AbortError, when `signal` says stop. */
export async function ask(path, body, { signal, onWait } = {}) {
  for (let tried = 1; ; tried++) {
    const answer = await send(path, body, signal);
    const wait = Number(answer.headers.get("Retry-After"));
    if (![429, 503].includes(answer.status) || !(wait > 0 && wait <= 20) || tried === TRIES) return read(answer);
    onWait?.(wait);
    await sleep(wait * 1000, signal);
  }
}

async function send(path, body, signal) {
  const headers = { Accept: "application/json" };
  if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const method = body === undefined ? "GET" : "POST";
  try {
    return await fetch(path, { method, headers, body: body && JSON.stringify(body), signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, { message: "The server does not answer.", hint: "Is raypipe serve still running there?" });
  }
}

async function read(answer) {
  const text = await answer.text();
  let body = {};
  try {
    body = JSON.parse(text);
  } catch {
    if (answer.ok) throw new ServerError(answer.status, { message: "The server's answer cannot be read as JSON." });
  }
  if (!answer.ok) throw new ServerError(answer.status, body);
  return body;
}

function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => reject(new DOMException("stopped", "AbortError"));
    if (signal?.aborted) return stop();
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), stop()), { once: true });
  });
}
