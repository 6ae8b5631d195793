// Pictures on canvases: crisp pixels, and the outlines of windows over them.

import { colours, css } from "./theme.js";

const SIDE = 168; // canvas pixels that a tile's longer side has at least

/** The whole number of canvas pixels for one of the picture's, so that its longer side has `side` at least. */
export function scaleOf({ height, width }, side) {
  return Math.ceil(side / Math.max(height, width));
}

/** A canvas that shows `picture` when painted; `label` is what it is called where it is not seen. */
export function tile(label) {
  const canvas = document.createElement("canvas");
  canvas.className = "tile";
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  return canvas;
}

/** Paint a tile; `outlines` is a list of [colour's name, windows], a window four corners [x, y] in pixels. */
export function paintTile(canvas, picture, outlines = []) {
  const scale = scaleOf(picture, SIDE);
  canvas.width = picture.width * scale;
  canvas.height = picture.height * scale;
  paint(canvas.getContext("2d"), picture, 0, 0, scale, colours(), outlines);
}

/** Paint `picture` with its upper left corner at (x, y), each pixel a square of `scale`. */
export function paint(context, picture, x, y, scale, palette, outlines = []) {
  context.imageSmoothingEnabled = false;
  context.drawImage(small(picture, palette), x, y, picture.width * scale, picture.height * scale);
  context.save();
  context.translate(x, y);
  for (const [name, windows] of outlines) {
    context.strokeStyle = css(palette[name]);
    context.lineWidth = Math.max(1.5, scale / 3);
    for (const corners of windows) outline(context, corners, picture, scale);
  }
  context.restore();
}

function small({ height, width, ink }, palette) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let pixel = 0; pixel < ink.length; pixel++) {
    for (let channel = 0; channel < 3; channel++) {
      const [paper, full] = [palette.paper[channel], palette.ink[channel]];
      image.data[4 * pixel + channel] = Math.round(paper + (full - paper) * ink[pixel]);
    }
    image.data[4 * pixel + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

function outline(context, corners, { height, width }, scale) {
  const inset = context.lineWidth / 2;
  const scaled = corners.map(([x, y]) => [x * scale, y * scale]);
  const ring = clipped(scaled, inset, inset, width * scale - inset, height * scale - inset);
  if (!ring.length) return;
  context.beginPath();
  for (const [x, y] of ring) context.lineTo(x, y);
  context.closePath();
  context.stroke();
}

/**
 * The part of a convex polygon inside a rectangle (Sutherland and Hodgman), empty if they do not meet: of a window
 * larger than the picture the border is seen.
 */
function clipped(points, left, top, right, bottom) {
  let ring = points;
  for (const [axis, limit, sign] of [[0, left, 1], [0, right, -1], [1, top, 1], [1, bottom, -1]]) {
    const before = ring;
    ring = [];
    before.forEach((here, index) => {
      const there = before[(index + 1) % before.length];
      const [a, b] = [sign * (here[axis] - limit), sign * (there[axis] - limit)];
      if (a >= 0) ring.push(here);
      if (a >= 0 !== b >= 0) {
        const share = a / (a - b);
        ring.push([here[0] + share * (there[0] - here[0]), here[1] + share * (there[1] - here[1])]);
      }
    });
  }
  return ring;
}
