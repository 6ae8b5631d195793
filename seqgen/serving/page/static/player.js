// Steps that are watched one after another: a button that plays, a slider, the number of the step.

import { stepTime } from "./sheets.js";
import { prefersStill } from "./theme.js";

// The range says its step; an output that is read aloud would say each one while they play.
const MARKUP = `
  <button type="button">Play</button>
  <label><span></span> <input type="range" min="1" value="1"></label>
  <output aria-live="off"></output>`;

/** Fills `root`; `label` is what the slider is called, `show(step)`, from 0, paints a step. */
export class Player {
  constructor(root, label, show) {
    root.innerHTML = MARKUP;
    root.querySelector("span").textContent = label;
    this.show = show;
    this.button = root.querySelector("button");
    this.range = root.querySelector("input");
    this.output = root.querySelector("output");
    this.button.addEventListener("click", () => (this.timer ? this.stop() : this.play()));
    this.range.addEventListener("input", () => {
      this.stop();
      this.go(Number(this.range.value) - 1);
    });
  }

  /** There are new steps, named `names`: play them, or show the last where motion is not wanted. */
  load(names) {
    this.names = names;
    this.range.max = names.length;
    if (prefersStill()) {
      this.stop();
      this.go(names.length - 1);
    } else this.play();
  }

  /** Show a step, from 0. */
  go(step) {
    this.step = step;
    this.range.value = step + 1;
    this.range.setAttribute("aria-valuetext", this.names[step]);
    this.output.textContent = this.names[step];
    this.show(step);
  }

  /** From the first step to the last. */
  play() {
    this.stop();
    this.go(0);
    this.button.textContent = "Stop";
    this.timer = setInterval(() => {
      if (this.step + 1 < this.names.length) this.go(this.step + 1);
      if (this.step + 1 >= this.names.length) this.stop();
    }, stepTime(this.names.length));
  }

  /** Stay where it is. */
  stop() {
    clearInterval(this.timer);
    this.timer = undefined;
    this.button.textContent = "Play";
  }
}
