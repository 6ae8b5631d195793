// Calls of the server's API, and what to tell people when one fails.

const PATIENCE = 15; // seconds beyond the server's own limit before a call is given up
const TRIES = 4; // of a call while too many wait, or a proxy has no server

let limit = 60; // seconds that the server allows a request; `model` learns it

/** A call that came to nothing. Its message is for people and says what to do; `status` is the server's answer's. */
export class Failure extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** What GET /v1/model says: sizes, abilities and limits of the model that is served. */
export async function model() {
  const found = await get("/v1/model");
  limit = found.limits.seconds;
  return found;
}

/** The JSON that a GET of `path` answers. Throws Failure. */
export function get(path) {
  return call(path, {});
}

/** The JSON that a POST of `body` to `path` answers. Throws Failure. */
export function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  return call(path, { method: "POST", headers, body: JSON.stringify(body) });
}

async function call(path, request) {
  for (let attempt = 1; ; attempt++) {
    const response = await send(path, request);
    if (response.ok) return reading(response);
    const own = response.headers.get("Content-Type")?.startsWith("application/json"); // and not a proxy's
    const loading = response.status === 503 && own; // until there is a model, or no server
    const busy = [429, 503].includes(response.status) && attempt < TRIES;
    if (!loading && !busy) {
      throw new Failure(await reason(response), response.status);
    }
    const seconds = Number(response.headers.get("Retry-After")) || 1;
    await new Promise((resolve) => setTimeout(resolve, 1000 * Math.min(seconds, 10)));
  }
}

async function send(path, request) {
  try {
    return await fetch(path, { ...request, signal: AbortSignal.timeout(1000 * (limit + PATIENCE)) });
  } catch (error) {
    throw gone(error);
  }
}

async function reading(response) {
  try {
    return await response.json();
  } catch (error) {
    throw gone(error);
  }
}

function gone(error) {
  if (error.name === "TimeoutError") {
    const seconds = limit + PATIENCE;
    return new Failure(`The server has not answered for ${seconds} seconds. Ask for less, or look at its log.`);
  }
  return new Failure(
    `The server at ${location.host} does not answer. Start it again with “seqgen serve” and repeat; ` +
      "what you have drawn is still here.",
  );
}

async function reason(response) {
  try {
    return (await response.json()).error || `The server answered ${response.status}.`;
  } catch {
    return `The server answered ${response.status} ${response.statusText}; look at its log.`;
  }
}
