// A stored example: drawn, sent to the engine as any client would send it, and answered.

const SHOWN_CLASSES = 5;
const SHOWN_NUMBERS = 96;
const SERIES_FROM = 8;
const LINES = [getComputedStyle(document.documentElement).getPropertyValue("--accent"), "#b45309", "#6d28d9", "#be123c", "#1d4ed8", "#4d7c0f", "#a21caf", "#0e7490"];

const number = (value) => (value === null ? "not finite" : new Intl.NumberFormat("en", { maximumSignificantDigits: 4, useGrouping: false }).format(value));
const percent = (share) => new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 }).format(share);

function made(kind, text, ...classes) {
  const element = document.createElement(kind);
  if (text !== null) element.textContent = text;
  element.classList.add(...classes);
  return element;
}

function range(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value === null) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return [low, high > low ? high - low : 1];
}

// Height, width, channels, and where a pixel's channel stands among the numbers; null for what is no image.
function layout(shape) {
  if (shape.length === 3 && [1, 3].includes(shape[0])) {
    const [channels, height, width] = shape;
    return { channels, height, width, at: (y, x, channel) => (channel * height + y) * width + x };
  }
  if (shape.length === 3 && [1, 3].includes(shape[2])) {
    const [height, width, channels] = shape;
    return { channels, height, width, at: (y, x, channel) => (y * width + x) * channels + channel };
  }
  if (shape.length === 2 && Math.min(...shape) >= SERIES_FROM) {
    const [height, width] = shape;
    return { channels: 1, height, width, at: (y, x) => y * width + x };
  }
  return null;
}

function image(data, { channels, height, width, at }) {
  const canvas = made("canvas", null, "image");
  [canvas.width, canvas.height] = [width, height];
  const pixels = new ImageData(width, height);
  const [low, size] = range(data);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let colour = 0; colour < 3; colour++) {
        pixels.data[(y * width + x) * 4 + colour] = ((data[at(y, x, channels === 3 ? colour : 0)] - low) / size) * 255;
      }
      pixels.data[(y * width + x) * 4 + 3] = 255;
    }
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

// Lines of numbers over time: (T), (T, lines) or (lines, T), whichever is longer being the time.
function series(data, shape) {
  const [rows, columns] = shape.length === 1 ? [shape[0], 1] : shape;
  const along = rows >= columns;
  const [steps, lines] = along ? [rows, columns] : [columns, rows];
  const canvas = made("canvas", null, "series");
  [canvas.width, canvas.height] = [960, 352];
  const pen = canvas.getContext("2d");
  const [low, size] = range(data);
  pen.lineWidth = 3;
  pen.lineJoin = "round";
  for (let line = 0; line < lines; line++) {
    pen.strokeStyle = LINES[line % LINES.length];
    pen.beginPath();
    for (let step = 0; step < steps; step++) {
      const value = data[along ? step * lines + line : line * steps + step];
      pen.lineTo(12 + (step * 936) / Math.max(steps - 1, 1), 340 - ((value - low) / size) * 328);
    }
    pen.stroke();
  }
  return canvas;
}

function drawn(input) {
  const shape = input.shape.slice(1);
  const figure = made("figure", null);
  const words = `${input.name}: ${input.datatype} [${input.shape.join(", ")}]`;
  const found = layout(shape);
  const numeric = input.datatype.startsWith("FP");
  let shown;
  if (found) shown = image(input.data, found);
  else if (numeric && [1, 2].includes(shape.length) && Math.max(...shape) >= SERIES_FROM) shown = series(input.data, shape);
  else {
    const more = input.data.length - SHOWN_NUMBERS;
    shown = made("p", input.data.slice(0, SHOWN_NUMBERS).map(number).join("  ") + (more > 0 ? ` and ${more} more` : ""), "numbers");
  }
  if (shown instanceof HTMLCanvasElement) {
    shown.setAttribute("role", "img");
    shown.setAttribute("aria-label", `the example's ${words}`);
  }
  figure.append(shown, made("figcaption", words));
  return figure;
}

// Probabilities as they are; scores through the softmax.
function shares(scores) {
  const total = scores.reduce((one, other) => one + other, 0);
  if (scores.every((score) => score >= 0 && score <= 1) && Math.abs(total - 1) < 1e-3) return [scores, false];
  const most = Math.max(...scores);
  const powers = scores.map((score) => Math.exp(score - most));
  const whole = powers.reduce((one, other) => one + other, 0);
  return [powers.map((power) => power / whole), true];
}

const topOf = (scores) => scores.indexOf(Math.max(...scores));
const isClasses = (output) => output.datatype.startsWith("FP") && output.shape.length === 2 && output.shape[1] >= 2 && !output.data.includes(null);

function classes(output, stored, label) {
  const [probable, softened] = shares(output.data);
  const order = [...probable.keys()].sort((one, other) => probable[other] - probable[one]);
  const shown = order.slice(0, SHOWN_CLASSES);
  const known = Number.isInteger(label) && label >= 0 && label < probable.length;
  if (known && !shown.includes(label)) shown.push(label);
  const list = made("ul", null, "classes");
  for (const one of shown) {
    const [item, name, bar, fill] = [made("li", null), made("span", `class ${one}`), made("span", null, "bar"), made("i", null)];
    item.dataset.class = one;
    if (one === label) name.append(made("span", "true label", "true"));
    fill.style.width = `${probable[one] * 100}%`;
    bar.setAttribute("aria-hidden", "true");
    bar.append(fill);
    item.append(name, bar, made("span", percent(probable[one]), "share"));
    list.append(item);
  }
  const parts = [list];
  const top = topOf(output.data);
  if (stored && isClasses(stored)) {
    const before = topOf(stored.data);
    parts.push(before === top ? made("p", `The stored answer is class ${before} too${distance(output, stored)}.`, "same") : made("p", `The stored answer is class ${before}.`, "other"));
  }
  if (softened) parts.push(made("p", "Shares are the softmax of the scores.", "quiet"));
  return parts;
}

function distance(output, stored) {
  const apart = output.data.reduce((most, value, index) => Math.max(most, Math.abs(value - stored.data[index])), 0);
  return apart ? `; the scores differ by at most ${number(apart)}` : ", to the last digit";
}

function numbers(output, stored) {
  const told = (one) => one.data.slice(0, SHOWN_NUMBERS).map(number).join("  ");
  const parts = [made("p", told(output), "numbers")];
  if (stored) parts.push(made("p", `The stored answer: ${told(stored)}`, "numbers", "quiet"));
  return parts;
}

class Asking {
  constructor(form) {
    this.form = form;
    this.select = form.querySelector("select");
    this.button = form.querySelector("button");
    this.preview = form.querySelector("[data-preview]");
    this.answer = form.querySelector("[data-answer]");
    this.infer = `${form.closest("article").dataset.place}/infer`;
    this.select.addEventListener("change", () => this.choose());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    form.hidden = false;
    this.choose();
  }

  async choose() {
    const chosen = this.select.value;
    this.answer.replaceChildren();
    this.button.disabled = true;
    await this.guarded(async () => {
      const example = await asked(`${this.form.dataset.place}/${chosen}`);
      if (chosen !== this.select.value) return; // another one was chosen meanwhile
      this.example = example;
      this.preview.replaceChildren(...example.request.inputs.map(drawn));
      this.button.disabled = false;
    });
  }

  async ask() {
    const example = this.example;
    const body = JSON.stringify(example.request);
    this.button.disabled = true;
    await this.guarded(async () => {
      const start = performance.now();
      const answer = await asked(this.infer, { method: "POST", headers: { "Content-Type": "application/json" }, body });
      const took = performance.now() - start;
      if (example !== this.example) return;
      this.answer.replaceChildren(...answer.outputs.flatMap((output) => this.told(output, example)));
      this.answer.append(made("p", `Answered by version ${answer.model_version} in ${took.toFixed(1)} ms, as this browser sees it.`, "took"));
    });
    this.button.disabled = false;
  }

  told(output, example) {
    const stored = example.answer.find((one) => one.name === output.name && one.data.length === output.data.length);
    const label = example.label === null || isClasses(output) ? [] : [made("p", `The true value: ${[example.label].flat().map(number).join("  ")}`)];
    const parts = isClasses(output) ? classes(output, stored, example.label) : numbers(output, stored);
    return [made("h3", `Output ${output.name}`), ...parts, ...label];
  }

  async guarded(work) {
    try {
      await work();
    } catch (error) {
      this.answer.replaceChildren(made("p", `It was not answered: ${error.message}`, "error"));
    }
  }
}

async function asked(place, options = {}) {
  const response = await fetch(place, { cache: "no-store", ...options });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error ?? `status ${response.status}`);
  return answer;
}

for (const form of document.querySelectorAll("form.ask")) new Asking(form);
