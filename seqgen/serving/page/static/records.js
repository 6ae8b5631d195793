// The rounds that were judged, kept in this browser.

const KEY = "seqgen-people-or-machine";
const COLUMNS = [
  "judge", "round", "time", "model", "temperature", "concept", "held_out_seed", "seed",
  "drawings", "machine", "answer", "correct", "seconds",
];

let rounds = stored();
addEventListener("storage", () => (rounds = stored())); // another tab has judged or forgotten

/** Keep a round: an object with the columns of the CSV, but for those that follow from the others. */
export function add(round) {
  rounds.push({ ...round, round: rounds.length + 1, correct: Number(round.answer === round.machine) });
  keep();
}

/** Have none any more. */
export function forget() {
  rounds = [];
  keep();
}

/** How many there are, and how often the machine's were found. */
export function score() {
  return { rounds: rounds.length, correct: rounds.filter((round) => round.correct).length };
}

/** All of them as CSV (RFC 4180), a line each below the names of the columns. */
export function csv() {
  const line = (cells) => `${cells.map(cell).join(",")}\r\n`;
  return line(COLUMNS) + rounds.map((round) => line(COLUMNS.map((name) => round[name]))).join("");
}

function cell(value) {
  let text = String(value ?? "");
  if (typeof value === "string" && /^[=+\-@]/.test(text)) text = `'${text}`; // no formula, in a spreadsheet
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function stored() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY));
    return Array.isArray(found) ? found : [];
  } catch {
    return [];
  }
}

function keep() {
  try {
    localStorage.setItem(KEY, JSON.stringify(rounds));
  } catch {
    // A browser that keeps nothing still has them until the page is left.
  }
}
