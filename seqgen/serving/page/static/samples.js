// An unconditional model draws from noise alone; between two drawings one walks through the latent space.

import { Failure } from "./api.js";
import { busy, during, say } from "./messages.js";
import { allDecoded } from "./pictures.js";
import { Player } from "./player.js";
import { ask } from "./served.js";
import { SEEDS, Settings } from "./settings.js";
import { offerSaves, saveGif, savePng, sheet } from "./sheets.js";
import { onColours } from "./theme.js";
import { paintTile, tile } from "./tiles.js";
import { TraceView, joined, trace } from "./traces.js";

const COUNT = 20;
const FRAMES = 15;

/** Set the view up. */
export function samplesView(root) {
  const part = (name) => root.querySelector(`[data-part=${name}]`);
  const [go, again] = ["go", "again"].map((name) => root.querySelector(`.tools [data-do=${name}]`));
  const settings = new Settings(part("settings"));
  const walk = new Walk(part("walk"));
  const view = new TraceView(part("result"), { columns: 5, label: (index) => `Seed ${seeds[index]}`, wrap: choice });
  let seeds = [];
  let temperature = 1;
  let chosen = [];
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
      // Each has its own seed, so that a walk can begin and end at any; the server draws them together.
      const wanted = Array.from({ length: COUNT }, (_, index) => (seed + index) % SEEDS);
      const scale = settings.temperature;
      const found = joined(await Promise.all(wanted.map((each) => trace({ seed: each, temperature: scale }))));
      [seeds, temperature, chosen] = [wanted, scale, []];
      view.load(found, `samples-seeds-${seed}-to-${wanted.at(-1)}`);
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
      const request = { seed_from: from, seed_to: to, frames: FRAMES, temperature };
      const answer = await ask("/v1/walk", request);
      if (answer.model !== view.found.model) throw new Failure("Another model took over; draw twenty with it first.");
      walk.load(await allDecoded(answer.images), from, to);
      say(`From seed ${from} to seed ${to} in ${FRAMES} pictures, shown below.`);
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

  load(pictures, from, to) {
    Object.assign(this, { pictures, name: `walk-seed-${from}-to-${to}` });
    this.root.querySelector(".empty").hidden = true;
    this.root.querySelector(".shown").hidden = false;
    this.strip.replaceChildren(...pictures.map((_, index) => tile(`Picture ${index + 1} of the walk`)));
    this.#paintAll();
    this.player.load(pictures.map((_, index) => `${index + 1} of ${pictures.length}`));
  }

  paint(step) {
    paintTile(this.place, this.pictures[step]);
    [...this.strip.children].forEach((canvas, index) => canvas.classList.toggle("now", index === step));
  }

  thereAndBack() {
    const there = this.pictures.map((picture) => sheet([picture], 1));
    return [...there, ...there.slice(1, -1).reverse()];
  }

  #paintAll() {
    [...this.strip.children].forEach((canvas, index) => paintTile(canvas, this.pictures[index]));
    if (this.player.step !== undefined) this.paint(Math.min(this.player.step, this.pictures.length - 1));
  }
}
