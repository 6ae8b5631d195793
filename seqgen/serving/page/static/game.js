// The visual Turing test of Lake, Salakhutdinov and Tenenbaum (2015): which drawings are the machine's?

import { during, say } from "./messages.js";
import { allDecoded, binary, decoded, rows } from "./pictures.js";
import { NO_DRAWINGS, heldOut, ofOneCharacter } from "./picker.js";
import * as records from "./records.js";
import { ask, current } from "./served.js";
import { anySeed } from "./settings.js";
import { save } from "./sheets.js";
import { onColours } from "./theme.js";
import { paintTile, tile } from "./tiles.js";

const COUNT = 9; // drawings in each grid, if the character has so many and one more
const SIDES = ["left", "right"];

// Who drew a set, by its `data.source`: in the rules, and below its grid.
const MAKERS = {
  omniglot: ["people", "People"],
  "omniglot-strokes": ["a program that stands in for people", "The program"],
};
const UNKNOWN = ["whoever drew the held-out set", "The held-out set"];

const NO_PAIRS =
  "No held-out character has two drawings, of which one is shown to the model and the other compared with the model's.";
const JUDGE = `
  <label>Judge <input type="text" name="judge" autocomplete="off" maxlength="60"></label>
  <p class="hint">A name or a number; it is written in the CSV and sent nowhere.</p>`;
const TEMPERATURE = `
  <label>Temperature <input type="number" name="temperature" min="0" max="1.5" step="0.1" value="1" required></label>
  <p class="hint">1 is the model as it was trained.</p>`;
const TELL = `
  <label class="check"><input type="checkbox" name="tell" checked> Say after each round who drew which</label>`;

/** Set the view up. */
export function gameView(root, model) {
  const part = (name) => root.querySelector(`[data-part=${name}]`);
  const button = (name) => root.querySelector(`[data-do=${name}]`);
  const [makers, drawnBy] = MAKERS[model.held_out?.source] ?? UNKNOWN;
  const count = Math.min(ofOneCharacter(model, COUNT), model.limits.samples);
  if (count < 1) {
    part("start").replaceChildren(model.held_out ? NO_PAIRS : NO_DRAWINGS);
    for (const each of [part("rules"), root.querySelector("details")]) each.hidden = true;
    return;
  }
  const form = part("settings");
  form.innerHTML = JUDGE + (model.gaussian ? TEMPERATURE : "") + TELL;
  form.addEventListener("submit", (event) => event.preventDefault());
  const sides = Object.fromEntries(SIDES.map((side) => [side, new Side(root, side, count, drawnBy)]));
  const target = tile("The drawing that the model was shown");
  let round = null;
  part("makers").textContent = makers;
  part("target").append(target);
  rule();

  button("go").addEventListener("click", begin);
  button("next").addEventListener("click", begin);
  for (const side of SIDES) sides[side].button.addEventListener("click", () => answer(side));
  document.addEventListener("keydown", (event) => {
    const elsewhere = root.hidden || event.target.closest("input, summary");
    if (elsewhere || event.altKey || event.ctrlKey || event.metaKey || !round || round.answer) return;
    if (event.key === "ArrowLeft") answer("left");
    else if (event.key === "ArrowRight") answer("right");
    else return;
    event.preventDefault();
  });
  button("csv").addEventListener("click", () => {
    save(new Blob([records.csv()], { type: "text/csv" }), "rounds.csv");
  });
  button("forget").addEventListener("click", () => {
    if (!confirm("Forget all rounds that were judged in this browser? What was not saved is lost.")) return;
    records.forget();
    tell();
    say("The rounds are forgotten.");
  });
  form.elements.tell.addEventListener("change", tell);
  addEventListener("storage", tell); // of rounds in another tab
  onColours(() => round && paint());
  tell();

  function begin() {
    if (!form.reportValidity()) return;
    during("The model draws …", [button("go"), button("next")], async () => {
      round = await drawn(Number(form.elements.temperature?.value ?? 1));
      rule();
      part("start").hidden = true;
      part("round").hidden = false;
      part("verdict").textContent = "";
      for (const side of SIDES) sides[side].ask();
      paint();
      say("Which grid is the machine's? Press the button below it, or the left or right arrow key.");
      round.began = performance.now();
    }).then(() => {
      button("next").disabled = !round?.answer;
      if (round && !round.answer) sides.left.button.focus({ preventScroll: true });
    });
  }

  function rule() {
    part("unseen").hidden = !current().held_out?.unseen;
  }

  async function drawn(temperature) {
    const [heldOutSeed, seed] = [anySeed(), anySeed()];
    const others = await heldOut(count, heldOutSeed, true);
    const context = await decoded(others.context);
    const machine = await ask("v1/exemplars", { context: rows(context), samples: count, seed, temperature });
    // Where the model's pixels are black or white the set's drawings have no grey, and its means' would give it away.
    const shown = (picture) => (model.binary ? binary(picture) : picture);
    const grids = [await allDecoded(machine.images), await allDecoded(others.drawings)].map((grid) => grid.map(shown));
    const machineSide = SIDES[anySeed() % 2];
    if (machineSide === "right") grids.reverse();
    return {
      context,
      grids,
      machine: machineSide,
      model: machine.model,
      concept: others.concept,
      held_out_seed: heldOutSeed,
      seed,
      drawings: count,
      temperature,
    };
  }

  function answer(side) {
    if (!round || round.answer) return;
    round.answer = side;
    const { grids, context, began, ...rest } = round;
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    records.add({ judge: form.elements.judge.value.trim(), time: new Date().toISOString(), ...rest, seconds });
    const open = form.elements.tell.checked;
    for (const each of SIDES) sides[each].tell(open ? each === round.machine : null, each === side);
    const verdict = `${side === round.machine ? "Right" : "Wrong"}: the ${round.machine} grid is the machine's.`;
    part("verdict").textContent = open ? verdict : "Your answer is noted.";
    tell();
    say(part("verdict").textContent);
    button("next").disabled = false;
    button("next").focus({ preventScroll: true });
  }

  function tell() {
    const { rounds, correct } = records.score();
    const open = form.elements.tell.checked;
    part("score").textContent = !rounds ? "" : `${rounds} round${rounds > 1 ? "s" : ""}` +
      (open ? `, ${correct} right (${Math.round((100 * correct) / rounds)} %); by chance half of them.` : ".");
  }

  function paint() {
    paintTile(target, round.context);
    SIDES.forEach((side, index) => sides[side].paint(round.grids[index]));
  }
}

/** One of the two grids, with its button. */
class Side {
  /** `drawnBy` is the caption of a grid that is not the machine's. */
  constructor(root, side, count, drawnBy) {
    this.figure = root.querySelector(`[data-side=${side}]`);
    this.grid = this.figure.querySelector(".grid");
    this.caption = this.figure.querySelector("figcaption");
    this.button = this.figure.querySelector("button");
    this.drawnBy = drawnBy;
    const canvases = Array.from({ length: count }, () => document.createElement("canvas"));
    for (const canvas of canvases) canvas.className = "tile";
    this.grid.replaceChildren(...canvases);
  }

  paint(pictures) {
    [...this.grid.children].forEach((canvas, index) => paintTile(canvas, pictures[index]));
  }

  ask() {
    this.button.disabled = false;
    this.caption.textContent = "";
    this.figure.className = "";
  }

  /** `machine` is null while it is not to be told. */
  tell(machine, chosen) {
    this.button.disabled = true;
    this.caption.textContent = machine === null ? "" : machine ? "The machine" : this.drawnBy;
    this.figure.className = [chosen && "chosen", machine === true && "machine", machine === false && "others"]
      .filter(Boolean)
      .join(" ");
  }
}
