// The visual Turing test of Lake, Salakhutdinov and Tenenbaum (2015): which nine drawings are the machine's?

import { during, say } from "./messages.js";
import { allDecoded, binary, decoded, rows } from "./pictures.js";
import { NO_DRAWINGS, heldOut } from "./picker.js";
import * as records from "./records.js";
import { ask } from "./served.js";
import { anySeed } from "./settings.js";
import { save } from "./sheets.js";
import { onColours } from "./theme.js";
import { paintTile, tile } from "./tiles.js";

const COUNT = 9;
const SIDES = ["left", "right"];

const SETTINGS = `
  <label>Judge <input type="text" name="judge" autocomplete="off" maxlength="60"></label>
  <p class="hint">A name or a number; it is written in the CSV and sent nowhere.</p>
  <label>Temperature <input type="number" name="temperature" min="0" max="1.5" step="0.1" value="1" required></label>
  <p class="hint">1 is the model as it was trained.</p>
  <label class="check"><input type="checkbox" name="tell" checked> Say after each round who drew which</label>`;

/** Set the view up. */
export function gameView(root, model) {
  const part = (name) => root.querySelector(`[data-part=${name}]`);
  const button = (name) => root.querySelector(`[data-do=${name}]`);
  if (model.held_out < COUNT + 1) {
    part("start").replaceChildren(NO_DRAWINGS);
    root.querySelector("details").hidden = true;
    return;
  }
  const form = part("settings");
  form.innerHTML = SETTINGS;
  form.addEventListener("submit", (event) => event.preventDefault());
  const sides = Object.fromEntries(SIDES.map((side) => [side, new Side(root.querySelector(`[data-side=${side}]`))]));
  const target = tile("The character as one person drew it");
  let round = null;
  part("target").append(target);

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
    save(new Blob([records.csv()], { type: "text/csv" }), "people-or-machine.csv");
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
      round = await drawn(Number(form.elements.temperature.value));
      part("start").hidden = true;
      part("round").hidden = false;
      part("verdict").textContent = "";
      for (const side of SIDES) sides[side].ask();
      paint();
      say("Which nine are the machine's? Press the button below them, or the left or right arrow key.");
      round.began = performance.now();
    }).then(() => {
      button("next").disabled = !round?.answer;
      if (round && !round.answer) sides.left.button.focus({ preventScroll: true });
    });
  }

  async function drawn(temperature) {
    const [heldOutSeed, seed] = [anySeed(), anySeed()];
    const people = await heldOut(COUNT, heldOutSeed, true);
    const context = await decoded(people.context);
    const machine = await ask("/v1/exemplars", { context: rows(context), samples: COUNT, seed, temperature });
    // People's drawings have no grey; where the model's pixels are black or white, its grey would give it away.
    const shown = (picture) => (model.binary ? binary(picture) : picture);
    const grids = [await allDecoded(machine.images), await allDecoded(people.drawings)].map((grid) => grid.map(shown));
    const machineSide = SIDES[anySeed() % 2];
    if (machineSide === "right") grids.reverse();
    return {
      context,
      grids,
      machine: machineSide,
      model: machine.model,
      concept: people.concept,
      held_out_seed: heldOutSeed,
      seed,
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
    const verdict = `${side === round.machine ? "Right" : "Wrong"}: the ${round.machine} nine are the machine's.`;
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
  constructor(figure) {
    this.figure = figure;
    this.grid = figure.querySelector(".grid");
    this.caption = figure.querySelector("figcaption");
    this.button = figure.querySelector("button");
    const canvases = Array.from({ length: COUNT }, () => document.createElement("canvas"));
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
    this.caption.textContent = machine === null ? "" : machine ? "Machine" : "People";
    this.figure.className = [chosen && "chosen", machine === true && "machine", machine === false && "people"]
      .filter(Boolean)
      .join(" ");
  }
}
