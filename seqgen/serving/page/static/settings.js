// The settings that a request carries: temperature and seed, with what they do.

/** A seed is a whole number below. */
export const SEEDS = 2 ** 32;

const TEMPERATURE = `
  <label>Temperature <input type="range" name="temperature" min="0" max="1.5" step="0.1" value="1">
    <output aria-live="off"></output></label>
  <p class="hint">Multiplies the noise the model draws from. 1 is the model as it was trained; less gives tamer
    drawings, more alike; more gives wilder ones.</p>`;
const SEED = `
  <label>Seed <input type="number" name="seed" min="0" max="${SEEDS - 1}" step="1" value="0" required></label>
  <p class="hint">The same seed gives the same drawings again.</p>`;

/** The fields of `form`: a seed, and a temperature where one has an effect. */
export class Settings {
  constructor(form, { temperature = true } = {}) {
    form.innerHTML = (temperature ? TEMPERATURE : "") + SEED;
    form.addEventListener("submit", (event) => event.preventDefault());
    this.form = form;
    this.seedField = form.elements.seed;
    this.temperatureField = form.elements.temperature;
    if (temperature) {
      this.temperatureField.addEventListener("input", () => this.#write());
      this.#write();
    }
  }

  /** The seed; null, and the browser tells why, if what stands there is none. */
  get seed() {
    return this.seedField.reportValidity() ? Number(this.seedField.value) : null;
  }

  set seed(value) {
    this.seedField.value = value % SEEDS;
  }

  /** What the prior's noise is multiplied with. */
  get temperature() {
    return Number(this.temperatureField?.value ?? 1);
  }

  #write() {
    this.form.querySelector("output").textContent = this.temperature.toFixed(1);
  }
}

/** What a file of drawings is called: a temperature other than 1 is part of how they are had again. */
export function fileName(name, temperature) {
  return temperature === 1 ? name : `${name}-temperature-${temperature.toFixed(1)}`;
}

/** A seed at random. */
export function anySeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0];
}
