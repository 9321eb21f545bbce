// What happens now: the difference between two readings of the counters, some seconds apart.

const PERIOD_MS = 2000;
const READINGS = 6; // a window of 10 s
const HISTORY = 60; // two minutes
const DRIFTED = 0.25; // as in slipway.decisions.drift

const number = (value) => new Intl.NumberFormat("en", { maximumSignificantDigits: 3 }).format(value);
const whole = (value) => new Intl.NumberFormat("en").format(value);
const inMs = (seconds) => (seconds === null ? "–" : `${number(seconds * 1000)} ms`);

// The lines of Prometheus' text format: name, labels, value.
function* samples(text) {
  for (const line of text.split("\n")) {
    const parts = /^(\w+)\{(.*)\} (\S+)/.exec(line);
    if (!parts) continue;
    const labels = {};
    for (const [, key, value] of parts[2].matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
      labels[key] = value.replace(/\\(.)/g, (_, one) => (one === "n" ? "\n" : one));
    }
    yield [parts[1], labels, Number(parts[3].replace("Inf", "Infinity"))];
  }
}

// What is counted of one model, over all of its versions.
function counted(text, model) {
  const found = { buckets: new Map(), causes: new Map(), drift: new Map(), chance: new Map() };
  const add = (map, key, value) => map.set(key, (map.get(key) ?? 0) + value);
  for (const [name, labels, value] of samples(text)) {
    if (labels.model !== model) continue;
    if (name === "slipway_request_seconds_bucket") add(found.buckets, Number(labels.le.replace("+Inf", "Infinity")), value);
    else if (name === "slipway_errors_total") add(found.causes, labels.cause, value);
    else if (name === "slipway_input_psi") found.drift.set(labels.input, value);
    else if (name === "slipway_input_psi_by_chance") found.chance.set(labels.input, value);
  }
  return found;
}

// The quantile between two readings of a histogram, linear within its bucket, as Prometheus estimates it.
function quantile(share, before, after) {
  const bounds = [...after.keys()].sort((one, other) => one - other);
  const counts = bounds.map((bound) => after.get(bound) - (before.get(bound) ?? 0));
  const total = counts.at(-1);
  if (!total) return null;
  const wanted = share * total;
  const at = counts.findIndex((count) => count >= wanted);
  const [low, below] = at ? [bounds[at - 1], counts[at - 1]] : [0, 0];
  return bounds[at] === Infinity ? low : low + ((bounds[at] - low) * (wanted - below)) / (counts[at] - below);
}

const sum = (map) => [...map.values()].reduce((one, other) => one + other, 0);

class Live {
  constructor(article) {
    this.article = article;
    this.readings = [];
    this.history = { rate: [], p50: [] };
  }

  async read(metrics) {
    const response = await fetch(`${this.article.dataset.place}/stats`, { cache: "no-store" });
    if (!response.ok) throw new Error(`status ${response.status}`);
    const stats = (await response.json()).model_stats[0];
    const reading = { at: performance.now(), ...counted(metrics, this.article.dataset.model) };
    reading.answered = reading.buckets.get(Infinity) ?? 0;
    reading.failed = sum(reading.causes);
    const last = this.readings.at(-1);
    // Counters that went back are those of a process started anew.
    if (last && (reading.answered < last.answered || reading.failed < last.failed)) this.readings = [];
    this.readings.push(reading);
    this.readings.splice(0, this.readings.length - READINGS);
    this.show(stats);
  }

  show(stats) {
    const [before, after] = [this.readings[0], this.readings.at(-1)];
    const seconds = (after.at - before.at) / 1000;
    this.part("[data-moved]").hidden = String(stats.version) === this.article.dataset.version;
    this.since();
    this.set("answered", whole(after.answered));
    this.set("failed", whole(after.failed));
    this.set("causes", after.failed ? `(${[...after.causes].filter(([, n]) => n).map(([cause, n]) => `${cause}: ${whole(n)}`).join(", ")})` : "");
    const { success } = stats.inference_stats;
    this.set("mean", success.count ? `, in ${number(success.ns / success.count / 1e6)} ms on average` : "");
    this.drift(after);
    if (!seconds) return;
    const rate = (after.answered - before.answered) / seconds;
    const [p50, p99] = [0.5, 0.99].map((share) => quantile(share, before.buckets, after.buckets));
    const errors = after.failed - before.failed;
    this.part("[data-window]").textContent = `over the last ${Math.round(seconds)} s, from a request's first byte to its answer`;
    this.set("rate", number(rate));
    this.set("p50", inMs(p50));
    this.set("p99", inMs(p99));
    this.set("errors", whole(errors)).classList.toggle("bad", errors > 0);
    this.draw("rate", rate);
    this.draw("p50", p50 ?? 0);
  }

  part(selector) {
    return this.article.querySelector(selector);
  }

  set(name, text) {
    const place = this.part(`[data-live="${name}"]`);
    place.textContent = text;
    return place;
  }

  since() {
    const minutes = Math.max(0, Math.floor((Date.now() / 1000 - Number(this.article.dataset.opened)) / 60));
    const [days, hours] = [Math.floor(minutes / 1440), Math.floor(minutes / 60) % 24];
    const words = days ? `${days} d ${hours} h` : hours ? `${hours} h ${minutes % 60} min` : `${minutes} min`;
    this.part("[data-since]").textContent = `(${words})`;
  }

  draw(name, value) {
    const values = this.history[name];
    values.push(value);
    values.splice(0, values.length - HISTORY);
    const most = Math.max(...values) || 1;
    const first = HISTORY - values.length;
    const points = values.map((one, index) => `${((first + index) * 120) / (HISTORY - 1)} ${27 - (26 * one) / most}`);
    this.part(`[data-spark="${name}"] path`).setAttribute("d", `M${points.join("L")}`);
  }

  drift({ drift, chance }) {
    const place = this.part("[data-drift]");
    place.hidden = !drift.size;
    place.replaceChildren(
      ...[...drift].map(([input, psi]) => {
        const drifted = psi > Math.max(DRIFTED, chance.get(input) ?? 0);
        const [row, name, value] = ["div", "dt", "dd"].map((kind) => document.createElement(kind));
        name.textContent = `Drift of ${input}`;
        value.textContent = `PSI ${number(psi)}, ${drifted ? "unlike" : "like"} the data of the release`;
        value.classList.toggle("high", drifted);
        row.append(name, value);
        return row;
      }),
    );
  }
}

for (const words of document.querySelectorAll(".plain")) words.remove(); // they are for browsers without scripts
const all = [...document.querySelectorAll("article")].map((article) => new Live(article));
const state = document.querySelector("[data-state]");

function told(up) {
  const words = up ? "up" : "does not answer; asked again every 2 s";
  state.classList.toggle("up", up);
  state.classList.toggle("down", !up);
  if (state.textContent !== words) state.textContent = words; // or a screen reader repeats it
}

async function look() {
  if (!document.hidden) {
    try {
      const response = await fetch("metrics", { cache: "no-store" });
      if (!response.ok) throw new Error(`status ${response.status}`);
      const metrics = await response.text();
      await Promise.all(all.map((live) => live.read(metrics)));
      told(true);
    } catch {
      told(false);
    }
  }
  setTimeout(look, PERIOD_MS);
}

look();
