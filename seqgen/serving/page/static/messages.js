// What the page says: a line that screen readers read out, too.

import { Failure } from "./api.js";

const line = document.querySelector("#message");
const alarm = document.querySelector("#alarm");

/** Say what happens or has happened. */
export function say(text) {
  alarm.textContent = "";
  line.textContent = text;
}

/** Say, and aloud, what went wrong and what to do. */
export function warn(text) {
  line.textContent = "";
  alarm.textContent = text;
}

/** Run `action` while `buttons` rest, `beginning` is said and the page is marked busy; warn if the server fails. */
export async function during(beginning, buttons, action) {
  if (document.body.getAttribute("aria-busy") === "true") return;
  const focus = document.activeElement;
  document.body.setAttribute("aria-busy", "true");
  for (const button of buttons) button.disabled = true;
  say(beginning);
  try {
    await action();
  } catch (error) {
    if (!(error instanceof Failure)) {
      warn(`The page itself failed: ${error.message}. Load it again.`);
      throw error;
    }
    warn(error.message);
  } finally {
    for (const button of buttons) button.disabled = false;
    document.body.removeAttribute("aria-busy");
    if (document.activeElement === document.body) focus?.focus({ preventScroll: true }); // a resting button lost it
  }
}
