// A conditional model draws twenty more of the character that one draws.

import { busy, during, say, warn } from "./messages.js";
import { Pad } from "./pad.js";
import { isBlank, rows } from "./pictures.js";
import { Picker } from "./picker.js";
import { Settings } from "./settings.js";
import { paintTile, tile } from "./tiles.js";
import { TraceView, trace } from "./traces.js";

const COUNT = 20;

/** Set the view up. */
export function drawView(root, model) {
  const part = (name) => root.querySelector(`[data-part=${name}]`);
  const [go, again] = ["go", "again"].map((name) => root.querySelector(`[data-do=${name}]`));
  const pad = new Pad(part("pad"), model, { say });
  const settings = new Settings(part("settings"));
  const given = tile("The drawing that the model was given");
  const view = new TraceView(part("result"), {
    columns: 5,
    label: (index) => `Drawing ${index + 1} of ${COUNT}`,
    painted: paintGiven,
  });
  let context;
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
      const found = await trace({ context: rows(picture), samples: COUNT, seed, temperature });
      context = picture;
      view.load(found, `exemplars-seed-${seed}`);
      part("caption").textContent =
        `Given this drawing, as the model sees it: ${model.height} × ${model.width} pixels. ` +
        `Seed ${seed}, temperature ${temperature.toFixed(1)}, nothing selected.`;
      say(`${COUNT} drawings in ${found.steps.length} steps, seed ${seed}.`);
    });
  }

  function paintGiven(step, windows) {
    const outlines = windows.includes("read") ? [["read", view.found.read[step].flat()]] : [];
    paintTile(given, context, outlines);
  }
}
