// Calls of the server's API, and what to tell people when one fails.

import { Failure, sayWaiting } from "./messages.js";

const PATIENCE = 15; // seconds beyond the server's own limit before a call is given up
const LATER = [429, 503]; // too many wait, there is no model yet, or a proxy has no server: ask again

let limit = 120; // seconds that the server allows a request; `model` learns it

/** What GET v1/model says: sizes, abilities and limits of the model that is served. */
export async function model() {
  const found = await get("v1/model");
  limit = found.limits.seconds;
  return found;
}

/** The JSON that a GET of `path`, from the page's own address, answers. Throws Failure. */
export function get(path) {
  return call(path, {});
}

/** The JSON that a POST of `body` to `path` answers. Throws Failure. */
export function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  return call(path, { method: "POST", headers, body: JSON.stringify(body) });
}

/** What `action` gives of each of `items`, of which `width` at most are under way at once. */
export async function inTurns(items, width, action) {
  const found = [];
  const left = (function* () { yield* items.entries(); })(); // who leaves its loop by an error ends it for all
  const take = async () => {
    for (const [index, item] of left) found[index] = await action(item);
  };
  await Promise.all(Array.from({ length: width }, take));
  return found;
}

async function call(path, request) {
  const asked = seconds();
  for (let waited = false; ; waited = true) {
    const response = await send(path, request);
    if (response.ok) {
      if (waited) sayWaiting();
      return reading(response);
    }
    const why = await reason(response);
    if (!LATER.includes(response.status)) throw new Failure(why, response.status);
    const left = asked + limit - seconds();
    if (left <= 0) throw new Failure(`${why} (Asked for ${limit} seconds; repeat it later.)`, response.status);
    sayWaiting(`Waiting for the server: ${why}`);
    const pause = Math.min(Number(response.headers.get("Retry-After")) || 1, 10, left);
    await new Promise((resolve) => setTimeout(resolve, 1000 * pause));
  }
}

function seconds() {
  return performance.now() / 1000;
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
    return new Failure(
      `The server has not answered for ${limit + PATIENCE} seconds. Ask for less, or look at its log.`,
    );
  }
  return new Failure(
    `The server at ${location.host} does not answer. Start it again with “seqgen serve” and repeat; ` +
      "what you have drawn is still here.",
  );
}

/** The server's own sentence, or a gateway's, or what there is of one. */
async function reason(response) {
  try {
    const { error, message } = await response.json();
    return [error, message].find((each) => typeof each === "string") || `The server answered ${response.status}.`;
  } catch {
    return `The server answered ${response.status} ${response.statusText}; look at its log.`;
  }
}
