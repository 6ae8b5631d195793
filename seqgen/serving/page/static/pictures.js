// Pictures: height, width, and `ink`, a Float32Array of height x width values in [0, 1], 1 = ink.

/** A picture of `ink`, or a blank one. */
export function picture(height, width, ink = new Float32Array(height * width)) {
  return { height, width, ink };
}

/** The picture that an answer has as { png: base64 }, its ink dark on white. */
export async function decoded({ png }) {
  const bytes = Uint8Array.from(atob(png), (character) => character.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }), { colorSpaceConversion: "none" });
  const canvas = document.createElement("canvas");
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  const found = picture(bitmap.height, bitmap.width);
  for (let pixel = 0; pixel < found.ink.length; pixel++) found.ink[pixel] = 1 - data[4 * pixel] / 255;
  bitmap.close();
  return found;
}

/** All of a list of them. */
export function allDecoded(list) {
  return Promise.all(list.map(decoded));
}

/** Rows of numbers, as a request carries a picture. */
export function rows({ height, width, ink }) {
  const row = (y) => Array.from(ink.subarray(y * width, (y + 1) * width), (value) => Number(value.toFixed(4)));
  return Array.from({ length: height }, (_, y) => row(y));
}

/** The same in black and white with as much ink: as many pixels as its sum, those that have the most. */
export function binary({ height, width, ink }) {
  const found = picture(height, width);
  const sum = ink.reduce((total, value) => total + value, 0);
  const order = Array.from(ink.keys()).sort((one, other) => ink[other] - ink[one]);
  for (const pixel of order.slice(0, Math.round(sum))) found.ink[pixel] = 1;
  return found;
}

/** Whether there is no ink at all. */
export function isBlank({ ink }) {
  return ink.every((value) => value === 0);
}
