// A conditional model draws more of the character that one draws.

import { busy, during, say, warn } from "./messages.js";
import { Pad } from "./pad.js";
import { isBlank, rows } from "./pictures.js";
import { Picker } from "./picker.js";
import { Settings, fileName } from "./settings.js";
import { paintTile, tile } from "./tiles.js";
import { TraceView, trace } from "./traces.js";

const COUNT = 20; // if the server draws so many at once

/** Set the view up. */
export function drawView(root, model) {
  const part = (name) => root.querySelector(`[data-part=${name}]`);
  const [go, again] = ["go", "again"].map((name) => root.querySelector(`[data-do=${name}]`));
  const pad = new Pad(part("pad"), model, { say });
  const settings = new Settings(part("settings"), { temperature: model.gaussian });
  const { samples, traced } = model.limits;
  const count = Math.max(1, Math.min(COUNT, samples, Math.floor(traced / model.steps)));
  const given = tile("The drawing that the model was given");
  const view = new TraceView(part("result"), {
    columns: 5,
    label: (index) => `Drawing ${index + 1} of ${count}`,
    painted: paintGiven,
  });
  let context;
  go.textContent = `Draw ${count}`;
  part("given").append(given);
  new Picker(part("picker"), model, (picture) => {
    pad.put(picture);
    draw();
  });
  go.addEventListener("click", draw);
  again.addEventListener("click", () => {
    if (busy() || settings.seed === null) return;
    settings.seed += 1;
    draw();
  });

  function draw() {
    const { seed, temperature } = settings;
    const picture = pad.picture;
    if (seed === null) return;
    if (isBlank(picture)) {
      warn("The paper is blank: draw a character, or take a held-out drawing.");
      return;
    }
    during("The model draws …", [go, again], async () => {
      const found = await trace({ context: rows(picture), samples: count, seed, temperature });
      context = picture;
      view.load(found, fileName(`exemplars-seed-${seed}`, temperature));
      part("caption").textContent =
        `Given this drawing, as the model sees it: ${model.height} × ${model.width} pixels. ` +
        `Seed ${seed}, temperature ${temperature.toFixed(1)}, nothing selected.`;
      say(`${count} drawings in ${found.steps.length} steps, seed ${seed}.`);
    });
  }

  function paintGiven(step, windows) {
    const outlines = windows.includes("read") ? [["read", view.found.read[step].flat()]] : [];
    paintTile(given, context, outlines);
  }
}
