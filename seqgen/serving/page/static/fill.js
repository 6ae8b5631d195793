// A part of a drawing is rubbed out, and the model's Markov chain fills it in.

import { busy, during, say, warn } from "./messages.js";
import { Pad } from "./pad.js";
import { allDecoded, decoded, isBlank, picture, rows } from "./pictures.js";
import { Picker } from "./picker.js";
import { ask, checkOneModel } from "./served.js";
import { Settings } from "./settings.js";
import { paintTile, tile } from "./tiles.js";
import { TraceView } from "./traces.js";

const COUNT = 6; // if the server works on so many at once
const STEPS = [1, 2, 4, 8, 16, 32, 64]; // of the chain, at which it is looked at

/** Set the view up. */
export function fillView(root, model) {
  const part = (name) => root.querySelector(`[data-part=${name}]`);
  const [go, again] = ["go", "again"].map((name) => root.querySelector(`[data-do=${name}]`));
  const pad = new Pad(part("pad"), model, { say });
  const settings = new Settings(part("settings"), { temperature: false });
  const samples = Math.min(COUNT, model.limits.samples);
  const lengths = STEPS.filter((steps) => steps <= model.limits.chain_steps);
  const [seen, mean] = [tile("What the model sees"), tile("The mean of what it thinks")];
  const view = new TraceView(part("result"), {
    columns: 3,
    slider: "Chain",
    label: (index) => `Completion ${index + 1} of ${samples}`,
    painted: (step) => {
      paintTile(seen, left);
      paintTile(mean, means[step]);
    },
  });
  let left, means;
  part("given").append(seen, mean);
  new Picker(
    part("picker"),
    model,
    (drawing, another) => {
      pad.put(drawing, another);
      pad.use("mark");
      say("Now rub out a part of it.");
    },
    { same: model.conditional },
  );
  go.addEventListener("click", fill);
  again.addEventListener("click", () => {
    if (busy() || settings.seed === null) return;
    settings.seed += 1;
    fill();
  });

  function fill() {
    const { seed } = settings;
    const [x, missing, another] = [pad.picture, pad.missing, pad.companion];
    if (seed === null) return;
    if (isBlank(x)) return warn("The paper is blank: take a held-out drawing, or draw one.");
    if (isBlank(missing)) return warn("Nothing is rubbed out: take the tool “Rub out” and mark a part.");
    const rest = picture(x.height, x.width, x.ink.map((value, pixel) => (missing.ink[pixel] ? 0 : value)));
    const request = { x: rows(rest), missing: rows(missing), samples, seed };
    if (model.conditional) request.context = rows(another ?? rest);
    during("The model fills it in …", [go, again], async () => {
      // The same chain each time, a little longer: what it is at a step follows from the seed.
      const answers = [];
      for (const steps of lengths) answers.push(await ask("v1/impute", { ...request, steps }));
      checkOneModel(answers);
      const steps = await Promise.all(answers.map(({ images }) => allDecoded(images)));
      means = await Promise.all(answers.map((answer) => decoded(answer.mean)));
      left = rest;
      view.load({ steps }, `filled-in-seed-${seed}`, lengths.map((count) => `${count} step${count > 1 ? "s" : ""}`));
      part("caption").textContent = told(seed, another);
      say(`${samples} completions after ${lengths.at(-1)} steps of the chain, seed ${seed}.`);
    });
  }

  function told(seed, another) {
    const by = !model.conditional ? "" : another
      ? " It was also given another drawing of the character."
      : " What is left was also what it was given to draw by.";
    return `Left, what the model sees; right, the mean of what it thinks was there.${by} Seed ${seed}.`;
  }
}
