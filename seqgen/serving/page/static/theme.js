// The colours that canvases are painted in; the rest of the page has its own in page.css.

// Read and write as in the figures that seqgen draws: Okabe and Ito's, told apart with any colour vision.
const LIGHT = {
  paper: [255, 255, 255],
  ink: [16, 18, 28],
  read: [0, 114, 178],
  write: [213, 94, 0],
  missing: [0, 158, 115],
};
const DARK = { ...LIGHT, paper: [26, 29, 37], ink: [240, 238, 230], read: [86, 180, 233], write: [240, 140, 60] };

const dark = matchMedia("(prefers-color-scheme: dark)");
const still = matchMedia("(prefers-reduced-motion: reduce)");

/** What is saved is on white paper, whatever the screen has. */
export const SAVED = LIGHT;

/** The colours of canvases now, [red, green, blue] each. */
export function colours() {
  return dark.matches ? DARK : LIGHT;
}

/** Have `repaint` called when they change. */
export function onColours(repaint) {
  dark.addEventListener("change", repaint);
}

/** Whether nothing may move unless it is asked to. */
export function prefersStill() {
  return still.matches;
}

/** A colour as CSS writes it. */
export function css([red, green, blue]) {
  return `rgb(${red} ${green} ${blue})`;
}
