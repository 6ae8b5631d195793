// An unconditional model draws from noise alone; between two drawings one walks through the latent space.

import { inTurns } from "./api.js";
import { Failure, busy, during, say } from "./messages.js";
import { allDecoded } from "./pictures.js";
import { Player } from "./player.js";
import { ask } from "./served.js";
import { SEEDS, Settings, fileName } from "./settings.js";
import { offerSaves, saveGif, savePng, sheet } from "./sheets.js";
import { onColours } from "./theme.js";
import { paintTile, tile } from "./tiles.js";
import { TraceView, joined, trace } from "./traces.js";

const COUNT = 20;
const FRAMES = 15; // if the server draws so many at once
const AT_ONCE = 4; // requests, or half of those that the server lets wait: others ask, too

/** Set the view up. */
export function samplesView(root, model) {
  const part = (name) => root.querySelector(`[data-part=${name}]`);
  const [go, again] = ["go", "again"].map((name) => root.querySelector(`.tools [data-do=${name}]`));
  const settings = new Settings(part("settings"), { temperature: model.gaussian });
  const frames = Math.min(FRAMES, model.limits.samples);
  const walks = model.gaussian && frames > 1; // else there is no way between two
  const walk = new Walk(part("walk"));
  const view = new TraceView(part("result"), {
    columns: 5,
    label: (index) => `Seed ${seeds[index]}`,
    wrap: walks ? choice : undefined,
  });
  let seeds = [];
  let temperature = 1;
  let chosen = [];
  go.textContent = `Draw ${COUNT}`;
  if (!walks) {
    for (const each of [part("walk"), part("walk-help")]) each.hidden = true;
    view.tiles.setAttribute("aria-label", "Drawings by the model");
  }
  go.addEventListener("click", draw);
  again.addEventListener("click", () => {
    if (busy() || settings.seed === null) return;
    settings.seed += COUNT;
    draw();
  });

  function draw() {
    const { seed } = settings;
    if (seed === null) return;
    during("The model draws …", [go, again], async () => {
      // Each has its own seed, so that a walk can begin and end at any; the server draws those together that wait.
      const wanted = Array.from({ length: COUNT }, (_, index) => (seed + index) % SEEDS);
      const scale = settings.temperature;
      const width = Math.min(AT_ONCE, Math.ceil(model.limits.queue / 2));
      const found = joined(await inTurns(wanted, width, (each) => trace({ seed: each, temperature: scale })));
      [seeds, temperature, chosen] = [wanted, scale, []];
      walk.clear();
      view.load(found, fileName(`samples-seeds-${seed}-to-${wanted.at(-1)}`, scale));
      say(`${COUNT} drawings in ${found.steps.length} steps, seeds ${seed} to ${wanted.at(-1)}.`);
    });
  }

  function choice(canvas, index) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.append(canvas);
    button.addEventListener("click", () => choose(index));
    return button;
  }

  function choose(index) {
    if (busy()) return;
    if (chosen.includes(index)) chosen = chosen.filter((each) => each !== index);
    else chosen = [...chosen.slice(-1), index];
    [...view.tiles.children].forEach((button, each) => {
      button.setAttribute("aria-pressed", String(chosen.includes(each)));
    });
    if (chosen.length < 2) {
      say(chosen.length ? `Seed ${seeds[chosen[0]]} is one end; choose the other.` : "");
      return;
    }
    const [from, to] = chosen.map((each) => seeds[each]);
    during("The model walks …", [go, again], async () => {
      const request = { seed_from: from, seed_to: to, frames, temperature };
      const answer = await ask("v1/walk", request);
      if (answer.model !== view.found.model) throw new Failure("Another model took over; draw with it first.");
      walk.load(await allDecoded(answer.images), fileName(`walk-seed-${from}-to-${to}`, temperature));
      say(`From seed ${from} to seed ${to} in ${frames} pictures, shown below.`);
    });
  }
}

/** The part that shows the pictures of one walk. */
class Walk {
  constructor(root) {
    const part = (name) => root.querySelector(`[data-part=${name}]`);
    this.root = root;
    this.place = tile("Where the walk is");
    this.strip = part("strip");
    part("place").append(this.place);
    this.player = new Player(part("player"), "Place", (step) => this.paint(step));
    offerSaves(
      part("saves"),
      () => savePng(sheet(this.pictures, 5), this.name),
      () => saveGif(this.thereAndBack(), this.name),
    );
    onColours(() => this.pictures && this.#paintAll());
  }

  /** Show them; files that are saved are called `name`. */
  load(pictures, name) {
    Object.assign(this, { pictures, name });
    this.#show(true);
    this.strip.replaceChildren(...pictures.map((_, index) => tile(`Picture ${index + 1} of the walk`)));
    this.#paintAll();
    this.player.load(pictures.map((_, index) => `${index + 1} of ${pictures.length}`));
  }

  /** Show none. */
  clear() {
    this.pictures = undefined;
    this.player.stop();
    this.#show(false);
  }

  paint(step) {
    paintTile(this.place, this.pictures[step]);
    [...this.strip.children].forEach((canvas, index) => canvas.classList.toggle("now", index === step));
  }

  thereAndBack() {
    const there = this.pictures.map((picture) => sheet([picture], 1));
    return [...there, ...there.slice(1, -1).reverse()];
  }

  #show(walk) {
    this.root.querySelector(".empty").hidden = walk;
    this.root.querySelector(".shown").hidden = !walk;
  }

  #paintAll() {
    [...this.strip.children].forEach((canvas, index) => paintTile(canvas, this.pictures[index]));
    if (this.player.step !== undefined) this.paint(Math.min(this.player.step, this.pictures.length - 1));
  }
}
