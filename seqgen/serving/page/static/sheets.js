// What is saved: sheets of pictures as PNG, and as an animated GIF where they come about step by step.

import { gif } from "./gif.js";
import { SAVED, css } from "./theme.js";
import { paint, scaleOf } from "./tiles.js";

const GUTTER = 4;
const TABLE = [208, 216, 228]; // what the tiles lie on
const SIDE = 84; // canvas pixels of a tile, at least
const STEPS = 4000; // milliseconds that all steps of an animation take, LONGEST one of them at most
const LONGEST = 500;
const LAST = 3000; // and the last one more than that

const BUTTONS = `
  <div class="buttons">
    <button type="button" data-do="png">Save PNG</button>
    <button type="button" data-do="gif">Save GIF</button>
  </div>`;

/** How long a step is shown, in milliseconds, of `count`. */
export function stepTime(count) {
  return Math.min(LONGEST, STEPS / count);
}

/** A canvas with `pictures` in rows of `columns`; `outlines` has those of each picture, as `paint` takes them. */
export function sheet(pictures, columns, outlines = []) {
  const [{ height, width }] = pictures;
  const scale = scaleOf(pictures[0], SIDE);
  const [across, down] = [width * scale + GUTTER, height * scale + GUTTER];
  const canvas = document.createElement("canvas");
  canvas.width = columns * across + GUTTER;
  canvas.height = Math.ceil(pictures.length / columns) * down + GUTTER;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = css(TABLE);
  context.fillRect(0, 0, canvas.width, canvas.height);
  pictures.forEach((picture, index) => {
    const [x, y] = [GUTTER + (index % columns) * across, GUTTER + Math.floor(index / columns) * down];
    paint(context, picture, x, y, scale, SAVED, outlines[index]);
  });
  return canvas;
}

/** Put the two buttons that save at the end of `root`; `png` and `gif` do it. */
export function offerSaves(root, png, gif) {
  root.insertAdjacentHTML("beforeend", BUTTONS);
  root.querySelector("[data-do=png]").addEventListener("click", png);
  root.querySelector("[data-do=gif]").addEventListener("click", gif);
}

/** Have the browser save a sheet as PNG. */
export async function savePng(canvas, name) {
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  save(blob, `${name}.png`);
}

/** Have the browser save sheets, all of one size, as an animated GIF: each a step, the last one longer. */
export function saveGif(canvases, name) {
  const [{ width, height }] = canvases;
  const colours = palette();
  const indexed = indexer(colours);
  const frames = canvases.map((canvas) => indexed(canvas.getContext("2d").getImageData(0, 0, width, height).data));
  const delays = canvases.map((_, index) => stepTime(canvases.length) + (index === canvases.length - 1 ? LAST : 0));
  save(new Blob([gif(width, height, colours, frames, delays)], { type: "image/gif" }), `${name}.gif`);
}

/** Have the browser save `blob` under `name`. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** The colours of a sheet, and what lies between two that meet in it. */
function palette() {
  const { paper, ink, read, write } = SAVED;
  const between = (one, other, count) =>
    Array.from({ length: count }, (_, step) =>
      one.map((channel, index) => Math.round(channel + ((other[index] - channel) * step) / (count - 1))));
  const outlined = [paper, ink].flatMap((from) => [read, write].flatMap((to) => between(from, to, 24)));
  return [TABLE, ...between(paper, ink, 64), ...outlined];
}

/** A function from RGBA bytes to each pixel's nearest colour of the palette. */
function indexer(colours) {
  const known = new Map();
  const nearest = (packed) => {
    const wanted = [packed & 255, (packed >> 8) & 255, (packed >> 16) & 255];
    const distance = (colour) => colour.reduce((sum, channel, index) => sum + (channel - wanted[index]) ** 2, 0);
    let best = 0;
    for (let index = 1; index < colours.length; index++) {
      if (distance(colours[index]) < distance(colours[best])) best = index;
    }
    return best;
  };
  return (data) => {
    const result = new Uint8Array(data.length / 4);
    for (let pixel = 0; pixel < result.length; pixel++) {
      const packed = data[4 * pixel] | (data[4 * pixel + 1] << 8) | (data[4 * pixel + 2] << 16);
      let index = known.get(packed);
      if (index === undefined) known.set(packed, (index = nearest(packed)));
      result[pixel] = index;
    }
    return result;
  };
}
