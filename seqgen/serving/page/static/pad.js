// A sheet of paper to draw on with mouse, pen, finger or keys, and to mark what is to be missing.

import { colours, css, onColours } from "./theme.js";
import { picture } from "./pictures.js";

const SIDE = 280; // pixels of the paper's longer side, about; at least LEAST for one of the model's
const LEAST = 4;
const STROKE = 0.045; // of the paper's width: what Omniglot's pens have, about
const BROAD = 0.14; // the same of the rubber and of the mark
const COVERED = 0.4; // a pixel is ink where ink covers this share of it, as in the shards (data_prep/shrink.py)
const UNDOS = 40;

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * `root` holds a canvas, buttons with data-tool (pen, rubber, mark) and with data-do (undo, clear). `say` is told what
 * the keys did. `companion` is what was put here beside the picture.
 */
export class Pad {
  constructor(root, { height, width, binary }, { say }) {
    Object.assign(this, { height, width, binary, say, companion: null });
    this.view = root.querySelector("canvas");
    this.scale = Math.max(LEAST, Math.round(SIDE / Math.max(height, width)));
    this.size = [width * this.scale, height * this.scale];
    [this.view.width, this.view.height] = this.size;
    this.view.style.aspectRatio = `${width} / ${height}`;
    this.layers = { ink: this.#layer(), mark: this.#layer() };
    this.past = [];
    this.tools = [...root.querySelectorAll("[data-tool]")];
    this.cursor = [width / 2, height / 2]; // of the keys, in the model's pixels
    this.keysDraw = false;
    this.keysUsed = false;
    for (const tool of this.tools) tool.addEventListener("click", () => this.use(tool.dataset.tool));
    root.querySelector("[data-do=undo]").addEventListener("click", () => this.undo());
    root.querySelector("[data-do=clear]").addEventListener("click", () => this.clear());
    this.#listen();
    this.use(this.tools[0].dataset.tool);
    this.paint();
    onColours(() => this.paint());
  }

  /** Take a tool: pen, rubber or mark. */
  use(name) {
    this.tool = name;
    for (const tool of this.tools) tool.setAttribute("aria-pressed", String(tool.dataset.tool === name));
  }

  /** Take back the last stroke, or the last picture that was put here. */
  undo() {
    const last = this.past.pop();
    if (!last) return;
    for (const [name, image] of Object.entries(last.layers)) this.layers[name].putImageData(image, 0, 0);
    this.companion = last.companion;
    this.paint();
  }

  /** Wipe all that is here. */
  clear() {
    this.#remember();
    this.#wipe();
    this.companion = null;
    this.paint();
  }

  /** Put a picture here in place of what there is, and what belongs to it: that goes and comes back with it. */
  put({ width, ink }, companion = null) {
    this.#remember();
    this.#wipe();
    this.companion = companion;
    for (let pixel = 0; pixel < ink.length; pixel++) {
      const [x, y] = [(pixel % width) * this.scale, Math.floor(pixel / width) * this.scale];
      this.layers.ink.fillStyle = `rgb(0 0 0 / ${ink[pixel]})`;
      if (ink[pixel] > 0) this.layers.ink.fillRect(x, y, this.scale, this.scale);
    }
    this.paint();
  }

  /** What is drawn, as the model takes it: each pixel the share that ink covers, or 0 and 1. */
  get picture() {
    return this.#shrunk("ink", this.binary);
  }

  /** What is marked as missing, 1 where it is. */
  get missing() {
    return this.#shrunk("mark", true);
  }

  /** Show it in the screen's colours. */
  paint() {
    const context = this.view.getContext("2d");
    const palette = colours();
    const [width, height] = this.size;
    context.fillStyle = css(palette.paper);
    context.fillRect(0, 0, width, height);
    context.drawImage(this.#tinted("ink", css(palette.ink)), 0, 0);
    context.globalAlpha = 0.75;
    context.drawImage(this.#tinted("mark", css(palette.missing)), 0, 0);
    context.globalAlpha = 1;
    if (this.keysUsed && document.activeElement === this.view) this.#paintCursor(context, palette);
  }

  #layer() {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = this.size;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.lineCap = context.lineJoin = "round";
    return context;
  }

  #listen() {
    const view = this.view;
    view.addEventListener("pointerdown", (event) => {
      if (event.button > 0 && event.button !== 5) return; // 5 is the rubber end of a pen
      event.preventDefault();
      view.focus({ preventScroll: true });
      view.setPointerCapture(event.pointerId);
      this.keysUsed = this.keysDraw = false;
      this.#remember();
      this.pointer = event.pointerId;
      this.last = this.#place(event);
      this.#stroke(this.last, this.last, event.button === 5 ? "rubber" : this.tool);
      this.paint();
    });
    view.addEventListener("pointermove", (event) => {
      if (event.pointerId !== this.pointer) return;
      const coalesced = event.getCoalescedEvents?.() ?? [];
      for (const each of coalesced.length ? coalesced : [event]) {
        const place = this.#place(each);
        this.#stroke(this.last, place, event.buttons & 32 ? "rubber" : this.tool);
        this.last = place;
      }
      this.paint();
    });
    for (const end of ["pointerup", "pointercancel"]) {
      view.addEventListener(end, (event) => {
        if (event.pointerId === this.pointer) this.pointer = undefined;
      });
    }
    view.addEventListener("keydown", (event) => this.#key(event));
    for (const each of ["focus", "blur"]) view.addEventListener(each, () => this.paint());
  }

  #key(event) {
    if (event.key in ARROWS) this.#move(ARROWS[event.key], event.shiftKey ? 4 : 1);
    else if (event.key === " " || event.key === "Enter") this.#lift();
    else if (event.key === "Backspace" || (event.key === "z" && (event.ctrlKey || event.metaKey))) {
      this.undo();
      this.say("Took back the last stroke.");
    } else if (event.key === "Delete") {
      this.clear();
      this.say("Cleared.");
    } else return;
    event.preventDefault();
    this.keysUsed = true;
    this.paint();
  }

  #move([right, down], far) {
    const [x, y] = this.cursor;
    const clamp = (value, most) => Math.min(Math.max(value, 0.5), most - 0.5);
    this.cursor = [clamp(x + right * far, this.width), clamp(y + down * far, this.height)];
    if (this.keysDraw) this.#stroke([x * this.scale, y * this.scale], this.#here(), this.tool);
  }

  #lift() {
    this.keysDraw = !this.keysDraw;
    const [column, row] = this.cursor.map((value) => Math.round(value + 0.5));
    this.say(`The ${this.tool} is ${this.keysDraw ? "down" : "up"} at column ${column}, row ${row}.`);
    if (!this.keysDraw) return;
    this.#remember();
    this.#stroke(this.#here(), this.#here(), this.tool);
  }

  #here() {
    return this.cursor.map((value) => value * this.scale);
  }

  #place(event) {
    const box = this.view.getBoundingClientRect();
    const [width, height] = this.size;
    return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
  }

  #stroke(from, to, tool) {
    const context = this.layers[tool === "mark" ? "mark" : "ink"];
    context.globalCompositeOperation = tool === "rubber" ? "destination-out" : "source-over";
    context.lineWidth = this.size[0] * (tool === "pen" ? STROKE : BROAD);
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
    context.globalCompositeOperation = "source-over";
  }

  #remember() {
    const now = ([name, layer]) => [name, layer.getImageData(0, 0, ...this.size)];
    const layers = Object.fromEntries(Object.entries(this.layers).map(now));
    this.past.push({ layers, companion: this.companion });
    if (this.past.length > UNDOS) this.past.shift();
  }

  #wipe() {
    for (const layer of Object.values(this.layers)) layer.clearRect(0, 0, ...this.size);
  }

  #shrunk(name, binary) {
    const [scale, [width, height]] = [this.scale, this.size];
    const { data } = this.layers[name].getImageData(0, 0, width, height);
    const found = picture(this.height, this.width);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        found.ink[Math.floor(y / scale) * this.width + Math.floor(x / scale)] += data[4 * (y * width + x) + 3];
      }
    }
    const share = found.ink.map((sum) => Math.min(1, sum / (255 * scale * scale)));
    found.ink = binary ? share.map((value) => (value >= COVERED ? 1 : 0)) : share;
    return found;
  }

  #tinted(name, colour) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = this.size;
    const context = canvas.getContext("2d");
    context.drawImage(this.layers[name].canvas, 0, 0);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = colour;
    context.fillRect(0, 0, ...this.size);
    return canvas;
  }

  #paintCursor(context, palette) {
    const [x, y] = this.#here();
    context.strokeStyle = css(palette.write);
    context.lineWidth = 3;
    context.beginPath();
    context.arc(x, y, this.scale * (this.keysDraw ? 0.8 : 1.3), 0, 2 * Math.PI);
    context.stroke();
  }
}
