// The model that is served: what the page says of it, and what becomes of the page when another one takes over.

import { model, post } from "./api.js";
import { Failure } from "./messages.js";

const FIXED = ["height", "width", "steps", "conditional", "binary", "imputation", "gaussian"]; // what the page suits

let first; // what the server said when the page was loaded
let now; // and when it was asked last

/** Ask the server for its model, and say in the page's head which one it is. Throws Failure. */
export async function look() {
  now = await model();
  first ??= now;
  const parameters = new Intl.NumberFormat("en", { notation: "compact" }).format(now.parameters);
  const sizes = `${now.height} × ${now.width} pixels, ${now.steps} steps, ${parameters} parameters`;
  document.querySelector("#about").textContent = `${title()}: ${sizes}`;
  document.title = `seqgen: ${title()}`;
  return now;
}

/** What the server said when it was asked last. */
export function current() {
  return now;
}

/** The JSON that a POST of `body` to `path` answers. Throws Failure, also if the page does not suit the model of now. */
export async function ask(path, body) {
  let answer, refused;
  try {
    answer = await post(path, body);
  } catch (error) {
    if (error.status !== 422) throw error;
    refused = error; // perhaps a picture of the size that the model before had
  }
  if (answer?.model !== title()) await look();
  if (FIXED.some((name) => now[name] !== first[name])) {
    throw new Failure("Another model is served now; load the page again.");
  }
  if (refused) throw refused;
  return answer;
}

/** Throws Failure unless all `answers` are of one model. */
export function checkOneModel(answers) {
  if (new Set(answers.map((answer) => answer.model)).size > 1) {
    throw new Failure("Another model took over meanwhile; ask again.");
  }
}

function title() {
  return now.version ? `${now.name}/${now.version}` : now.name;
}
