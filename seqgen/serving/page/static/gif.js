// Animated GIF (GIF89a): frames in one palette, compressed by LZW, shown again and again.

const TABLE = 4096; // codes have at most 12 bits

/**
 * The bytes of an animation. `frames` are Uint8Arrays of width x height indices into `palette`, a list of up to 256
 * [red, green, blue]; `delays` are milliseconds a frame, which GIF counts in hundredths of a second.
 */
export function gif(width, height, palette, frames, delays) {
  const bytes = [];
  const word = (value) => bytes.push(value & 255, (value >> 8) & 255);
  const text = (value) => bytes.push(...Array.from(value, (letter) => letter.charCodeAt(0)));

  text("GIF89a");
  word(width);
  word(height);
  bytes.push(0xf7, 0, 0); // a global palette of 256 colours
  for (let colour = 0; colour < 256; colour++) bytes.push(...(palette[colour] ?? [0, 0, 0]));
  bytes.push(0x21, 0xff, 11);
  text("NETSCAPE2.0");
  bytes.push(3, 1, 0, 0, 0); // for ever
  const parts = [Uint8Array.from(bytes)];
  frames.forEach((frame, index) => {
    bytes.length = 0;
    bytes.push(0x21, 0xf9, 4, 0);
    word(Math.round(delays[index] / 10));
    bytes.push(0, 0, 0x2c);
    for (const value of [0, 0, width, height]) word(value);
    bytes.push(0, 8); // no palette of its own; 8 bits a pixel
    parts.push(Uint8Array.from(bytes), blocks(compressed(frame)), Uint8Array.of(0));
  });
  parts.push(Uint8Array.of(0x3b));
  return joined(parts);
}

/** LZW as GIF has it: codes of 9 to 12 bits, low bits first, the table emptied when it is full. */
function compressed(indices) {
  const CLEAR = 256;
  const END = 257;
  const table = new Int16Array(TABLE * 256); // the code of a string followed by a pixel; 0 where there is none
  const output = [];
  let [held, count] = [0, 0];
  let [next, size] = [END + 1, 9];

  const write = (code) => {
    held |= code << count;
    count += size;
    while (count >= 8) {
      output.push(held & 255);
      held >>>= 8;
      count -= 8;
    }
  };

  write(CLEAR);
  let prefix = indices[0];
  for (let position = 1; position < indices.length; position++) {
    const pixel = indices[position];
    const known = table[prefix * 256 + pixel];
    if (known) {
      prefix = known;
      continue;
    }
    write(prefix);
    if (next < TABLE) {
      if (next === 1 << size) size++;
      table[prefix * 256 + pixel] = next++;
    } else {
      write(CLEAR);
      table.fill(0);
      [next, size] = [END + 1, 9];
    }
    prefix = pixel;
  }
  write(prefix);
  if (next === 1 << size && size < 12) size++; // the decoder has added one more string by now
  write(END);
  if (count) output.push(held & 255);
  return Uint8Array.from(output);
}

/** In blocks of at most 255 bytes, the length before each. */
function blocks(content) {
  const parts = [];
  for (let at = 0; at < content.length; at += 255) {
    const part = content.subarray(at, at + 255);
    parts.push(Uint8Array.of(part.length), part);
  }
  return joined(parts);
}

function joined(parts) {
  const result = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result;
}
