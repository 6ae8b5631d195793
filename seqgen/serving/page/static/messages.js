// What the page says: a line that screen readers read out, too.

const line = document.querySelector("#message");
const main = document.querySelector("main"); // is marked busy; the messages are not in it: there they would not be read
const alarm = document.querySelector("#alarm");
let doing = ""; // what is under way

/** What came to nothing. Its message is for people and says what to do; `status` is the server's answer's. */
export class Failure extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Say what happens or has happened. */
export function say(text) {
  alarm.textContent = "";
  if (line.textContent !== text) line.textContent = text; // what is said already is not read out again
}

/** Say what one waits for; without it, what is under way again. */
export function sayWaiting(text = doing) {
  say(text);
}

/** Say, and aloud, what went wrong and what to do. */
export function warn(text) {
  line.textContent = "";
  alarm.textContent = text;
}

/** Whether something is under way. */
export function busy() {
  return main.hasAttribute("aria-busy");
}

/** Run `action`, unless the page is busy, while `buttons` rest and `beginning` is said; warn if the server fails. */
export async function during(beginning, buttons, action) {
  if (busy()) return;
  const focus = document.activeElement;
  main.setAttribute("aria-busy", "true");
  for (const button of buttons) button.disabled = true;
  doing = beginning;
  say(doing);
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
    main.removeAttribute("aria-busy");
    if (document.activeElement === document.body) focus?.focus({ preventScroll: true }); // a resting button lost it
  }
}
