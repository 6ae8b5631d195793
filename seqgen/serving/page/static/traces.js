// Drawings as they come about: what POST /v1/trace answers, and a grid of tiles that shows it step by step.

import { allDecoded } from "./pictures.js";
import { Player } from "./player.js";
import { ask, checkOneModel } from "./served.js";
import { offerSaves, saveGif, savePng, sheet } from "./sheets.js";
import { onColours } from "./theme.js";
import { paintTile, tile } from "./tiles.js";

const KINDS = { read: "where it reads yours", write: "where it writes" };
const WINDOWS = `<fieldset class="checks" data-part="windows"><legend>Windows</legend></fieldset>`;

/**
 * Ask for drawings: `steps` [T][B] pictures; [T][B] lists of windows, `write` on the drawings, `read` on what was
 * given; `model` is who drew them.
 */
export async function trace(request) {
  const answer = await ask("v1/trace", request);
  const steps = await Promise.all(answer.steps.map(allDecoded));
  const each = (windows) => steps.map((_, step) => steps[0].map((_, index) => windows?.[step]?.[index] ?? []));
  return { steps, read: each(answer.context_read), write: each(answer.write), model: answer.model };
}

/** Traces of one drawing each as one trace of all. Throws Failure if they are of two models. */
export function joined(traces) {
  checkOneModel(traces);
  const together = (name) => traces[0][name].map((_, step) => traces.flatMap((each) => each[name][step]));
  return { steps: together("steps"), read: together("read"), write: together("write"), model: traces[0].model };
}

/**
 * The part of a view that shows traces. `slider` names the player's, `label(index)` a tile, which `wrap(canvas, index)`
 * may put in a button; `painted(step, windows)` is called when a step was painted, with the kinds of windows that are
 * to be seen.
 */
export class TraceView {
  constructor(root, { columns, label, slider = "Step", wrap = (canvas) => canvas, painted = () => {} }) {
    const part = (name) => root.querySelector(`[data-part=${name}]`);
    Object.assign(this, { root, columns, label, wrap, painted });
    this.tiles = part("tiles");
    this.player = new Player(part("player"), slider, (step) => this.paint(step));
    part("saves").innerHTML = WINDOWS;
    this.windows = part("windows");
    offerSaves(
      part("saves"),
      () => savePng(this.#sheet(this.player.step), this.name),
      () => saveGif(this.found.steps.map((_, step) => this.#sheet(step)), this.name),
    );
    onColours(() => this.found && this.paint(this.player.step));
  }

  /** Show what was found; files that are saved are called `name`, its steps `names`. */
  load(found, name, names = found.steps.map((_, step) => `${step + 1} of ${found.steps.length}`)) {
    Object.assign(this, { found, name });
    this.root.querySelector(".empty").hidden = true;
    this.root.querySelector(".shown").hidden = false;
    const canvases = found.steps[0].map((_, index) => tile(this.label(index)));
    this.tiles.replaceChildren(...canvases.map(this.wrap));
    this.canvases = canvases;
    this.#offerWindows();
    this.player.load(names);
    if (this.root.getBoundingClientRect().top > innerHeight / 2) this.root.scrollIntoView(); // on a phone it is below
  }

  /** Paint the tiles at a step, from 0. */
  paint(step) {
    this.found.steps[step].forEach((picture, index) => {
      paintTile(this.canvases[index], picture, this.#outlines(step, index));
    });
    this.painted(step, this.wanted());
  }

  /** The kinds of windows that are to be seen. */
  wanted() {
    return [...this.windows.querySelectorAll("input:checked")].map((box) => box.value);
  }

  #outlines(step, index) {
    return this.wanted().includes("write") ? [["write", this.found.write[step][index]]] : [];
  }

  #sheet(step) {
    const pictures = this.found.steps[step];
    return sheet(pictures, this.columns, pictures.map((_, index) => this.#outlines(step, index)));
  }

  #offerWindows() {
    const before = this.wanted();
    for (const label of this.windows.querySelectorAll("label")) label.remove();
    for (const [kind, text] of Object.entries(KINDS)) {
      if (!this.found[kind]?.flat(2).length) continue;
      const label = document.createElement("label");
      const box = document.createElement("input");
      Object.assign(box, { type: "checkbox", value: kind, checked: before.includes(kind) });
      box.addEventListener("change", () => this.paint(this.player.step));
      label.className = kind;
      label.append(box, ` ${text}`);
      this.windows.append(label);
    }
    this.windows.hidden = !this.windows.querySelector("label");
  }
}
