// Held-out drawings to choose from.

import { get } from "./api.js";
import { Failure, busy, during, say } from "./messages.js";
import { allDecoded, decoded } from "./pictures.js";
import { onColours } from "./theme.js";
import { paintTile, tile } from "./tiles.js";

/** What stands where there are none. */
export const NO_DRAWINGS =
  "This server has no held-out drawings of the model's size; “seqgen serve … --held-out DIR” gives it some.";
const COUNT = 12; // if there are so many
const PICKS = `
  <div class="picks"></div>
  <button type="button" class="more">Others</button>`;

/** What GET /v1/held-out answers. Throws Failure where there are no drawings. */
export async function heldOut(count, seed, same) {
  const found = await get(`v1/held-out?count=${count}&seed=${seed}&same=${same}`);
  if (!found.drawings.length) throw new Failure(NO_DRAWINGS);
  return found;
}

/** How many drawings of one character, `most` at most, can be had beside another one of it. */
export function ofOneCharacter({ held_out, limits }, most) {
  return held_out ? Math.max(0, Math.min(most, held_out.largest - 1, limits.images)) : 0;
}

/**
 * Fills a `<details>` with drawings of any characters or, if `same` and there are such, of one; `chosen(picture,
 * context)` gets the one that is pressed and, if `same`, another drawing of its character.
 */
export class Picker {
  constructor(details, model, chosen, { same = false } = {}) {
    details.insertAdjacentHTML("beforeend", PICKS);
    this.picks = details.querySelector(".picks");
    this.more = details.querySelector(".more");
    this.chosen = chosen;
    if (!model.held_out) {
      this.picks.textContent = NO_DRAWINGS;
      this.more.hidden = true;
      return;
    }
    const alike = same ? ofOneCharacter(model, COUNT) : 0;
    this.same = alike > 0;
    this.count = alike || Math.min(COUNT, model.held_out.count, model.limits.images);
    this.seed = 0;
    this.more.addEventListener("click", () => this.#load());
    details.addEventListener("toggle", () => details.open && !this.drawings && this.#load());
    onColours(() => this.#paint());
  }

  #load() {
    return during("Looking for drawings …", [this.more], async () => {
      const found = await heldOut(this.count, this.seed++, this.same);
      this.drawings = await allDecoded(found.drawings);
      this.context = found.context ? await decoded(found.context) : null;
      this.picks.replaceChildren(...this.drawings.map((drawing, index) => this.#button(drawing, index)));
      this.#paint();
      say("");
    });
  }

  #button(drawing, index) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(tile(`Held-out drawing ${index + 1}`));
    button.addEventListener("click", () => busy() || this.chosen(drawing, this.context));
    return button;
  }

  #paint() {
    this.picks.querySelectorAll("canvas").forEach((canvas, index) => paintTile(canvas, this.drawings[index]));
  }
}
