"use strict";
/* Draws the charts and the timeline of a piscope page. It computes no number of the
   analysis: bars come ready, and the timeline adds up what `html_strips` packed. */
(() => {
const byId = (id) => document.getElementById(id);
const values = (id) => JSON.parse(byId(id).textContent);

async function inflated(id) {
  const text = atob(byId(id).textContent);
  const bytes = Uint8Array.from(text, (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const CONFIG = { displayModeBar: false, displaylogo: false, responsive: true, doubleClick: false };
const LAYOUT = {
  paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
  margin: { l: 8, r: 8, t: 8, b: 30 }, dragmode: false,
  font: { family: getComputedStyle(document.documentElement).fontFamily, size: 12 },
  hoverlabel: { bgcolor: "#22272c", bordercolor: "#22272c", font: { color: "#f2f4f6", size: 12 } },
};

function drawBars(charts) {
  for (const chart of charts) {
    Plotly.newPlot(byId(`chart-${chart.name}`), chart.figure.data,
      { ...LAYOUT, ...chart.figure.layout }, CONFIG);
  }
}

/* ---- the numbers of the timeline ---- */

/* Unsigned numbers, plane by plane: all low bytes first. */
function unpack(bytes, place) {
  const out = new Float64Array(place.count);
  let factor = 1;
  for (let plane = 0; plane < place.width; plane++, factor *= 256) {
    const from = place.at + plane * place.count;
    for (let i = 0; i < place.count; i++) out[i] += bytes[from + i] * factor;
  }
  return out;
}

/* The first index whose value is greater. */
function after(sorted, value) {
  let low = 0, high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] > value) high = middle; else low = middle + 1;
  }
  return low;
}

/* One vCPU's life as stretches: start of each, and what it spends there. */
function readLife(about, bytes, line) {
  if (about.lives.mode === "intervals") {
    const length = unpack(bytes, line.length_ns);
    const start = new Float64Array(length.length + 1);
    start[0] = line.first_ns;
    for (let i = 0; i < length.length; i++) start[i + 1] = start[i] + length[i];
    return { start, kind: unpack(bytes, line.kind), cpu: unpack(bytes, line.cpu),
             reason: unpack(bytes, line.reason) };
  }
  const n = about.lives.columns;
  const start = Float64Array.from({ length: n + 1 }, (_, i) => about.duration_ns * i / n);
  const shares = bytes.subarray(line.shares.at, line.shares.at + line.shares.count);
  const unsure = bytes.subarray(line.uncertain.at, line.uncertain.at + line.uncertain.count);
  return { start, shares, unsure, columns: n };
}

/* A vCPU's time by kind in each of n columns from `from` on, each `width` ns wide; as
   [column * (kinds + 1) + kind], the last one being what is not certain. */
function addUp(life, kinds, from, width, n) {
  const each = kinds + 1, sums = new Float64Array(n * each), to = from + width * n;
  const starts = life.start, last = starts.length - 1;
  for (let i = Math.max(after(starts, from) - 1, 0); i < last && starts[i] < to; i++) {
    const begin = Math.max(starts[i], from), end = Math.min(starts[i + 1], to);
    for (let c = Math.min(Math.floor((begin - from) / width), n - 1); c < n; c++) {
      const part = Math.min(end, from + (c + 1) * width) - Math.max(begin, from + c * width);
      if (part > 0) add(life, i, part, sums, c * each, kinds);
      if (from + (c + 1) * width >= end) break;
    }
  }
  return sums;
}

function add(life, i, part, sums, at, kinds) {
  if (life.kind) {
    sums[at + (life.kind[i] & 0x7f)] += part;
    if (life.kind[i] & 0x80) sums[at + kinds] += part;
    return;
  }
  let whole = 0;
  for (let k = 0; k < kinds; k++) whole += life.shares[k * life.columns + i];
  if (!whole) return;
  for (let k = 0; k < kinds; k++) {
    sums[at + k] += part * life.shares[k * life.columns + i] / whole;
  }
  sums[at + kinds] += part * life.unsure[i] / 255;
}

function readHits(bytes, line) {
  const [at, width] = [unpack(bytes, line.at_ns), unpack(bytes, line.width_ns)];
  for (let i = 0; i < at.length; i++) at[i] += (width[i] - 1) / 2;
  return { at, certain: unpack(bytes, line.certain), possible: unpack(bytes, line.possible),
           undated: unpack(bytes, line.undated) };
}

/* How many notifications of each mark, as [column * marks * 2 + mark * 2], certain ones
   and then possible ones; with `undated` for each column. */
function countHits(hits, marks, from, width, n) {
  const counts = new Float64Array(n * marks * 2), undated = new Float64Array(n);
  const rows = hits.at.length;
  for (let i = after(hits.at, from - 0.5); i < rows; i++) {
    const c = Math.floor((hits.at[i] - from) / width);
    if (c >= n) break;
    if (c < 0) continue;
    for (let m = 0; m < marks; m++) {
      counts[(c * marks + m) * 2] += hits.certain[m * rows + i];
      counts[(c * marks + m) * 2 + 1] += hits.possible[m * rows + i];
    }
    undated[c] += hits.undated[i];
  }
  return { counts, undated };
}

/* ---- words ---- */

function duration(ns) {
  if (ns >= 999950000) return `${(ns / 1e9).toFixed(3)} s`;
  if (ns >= 999950) return `${(ns / 1e6).toFixed(1)} ms`;
  if (ns >= 1000) return `${(ns / 1e3).toFixed(1)} us`;
  return `${+ns.toFixed(1)} ns`;
}
const count = (n) => n.toLocaleString("en-US");
const range = (a, b) => (a === b ? count(a) : `${count(a)} to ${count(b)}`);
const percent = (part, whole) => {
  const p = 100 * part / whole;
  return p >= 99.95 ? "100 %" : p >= 0.05 ? `${p.toFixed(1)} %` : "<0.1 %";
};

/* ---- the picture ---- */

const MARK_COLORS = {
  "unloaded-host": "#c2003d", "wrong-vcpu": "#8a2be2", wakeup: "#7a7d12", residual: "#0072b2",
};
const LANES = ["unloaded-host", "wrong-vcpu", "residual", "wakeup"];

class Timeline {
  constructor(about, lives, notifications) {
    this.about = about;
    this.plot = byId("strips");
    this.kinds = about.kinds.length;
    this.order = about.kinds.map((k, i) => [k.order, i]).sort((a, b) => a[0] - b[0]).map((x) => x[1]);
    this.lives = about.lives.vcpus.map((line) => readLife(about, lives, line));
    this.marks = about.notifications.marks;
    this.hits = about.notifications.policies.map(
      (policy) => policy.vcpus.map((line) => readHits(notifications, line)));
    this.lanes = LANES.filter((name) => this.occurs(name));
    this.policy = 0;
    this.view = [0, about.duration_ns];
    this.finest = about.lives.mode === "intervals" ? 1 : about.duration_ns / about.lives.columns;
  }

  async start() {
    byId("timeline-body").hidden = false;
    const choice = byId("marked-policy");
    for (const [i, policy] of this.about.notifications.policies.entries()) {
      choice.append(new Option(policy.name, i));
    }
    choice.addEventListener("change", () => { this.policy = +choice.value; this.draw(); });
    const [zoom, move] = [(f) => this.zoom(f), (f) => this.move(f)];
    byId("zoom-all").addEventListener("click", () => this.show(0, this.about.duration_ns));
    byId("zoom-in").addEventListener("click", () => zoom(0.25));
    byId("zoom-out").addEventListener("click", () => zoom(4));
    byId("earlier").addEventListener("click", () => move(-0.5));
    byId("later").addEventListener("click", () => move(0.5));
    byId("next-mark").addEventListener("click", () => this.nextMark());
    await this.draw();
    this.plot.on("plotly_relayout", (change) => this.relayout(change));
    this.plot.on("plotly_doubleclick", () => this.show(0, this.about.duration_ns));
    this.plot.on("plotly_hover", (event) => this.tell(event));
    this.plot.on("plotly_unhover", () => { byId("tip").hidden = true; });
    let width = this.plot.clientWidth;
    new ResizeObserver(() => {
      if (this.plot.clientWidth === width) return;
      width = this.plot.clientWidth;
      this.draw();
    }).observe(this.plot);
  }

  zoom(factor) {
    const [from, to] = this.view, half = (to - from) / 2 * factor, middle = (from + to) / 2;
    this.show(middle - half, middle + half);
  }

  move(share) {
    const step = (this.view[1] - this.view[0]) * share;
    this.show(this.view[0] + step, this.view[1] + step);
  }

  /* Show these ns after the trace's start: as wide as asked for, but inside it. */
  show(from, to) {
    const whole = this.about.duration_ns, least = Math.min(whole, Math.max(16 * this.finest, 1000));
    const width = Math.min(Math.max(to - from, least), whole);
    const begin = Math.min(Math.max((from + to - width) / 2, 0), whole - width);
    this.view = [begin, begin + width];
    return this.draw();
  }

  relayout(change) {
    const from = change["xaxis.range[0]"], to = change["xaxis.range[1]"];
    if (this.drawing || from === undefined) return; // it is drawn, or was but resized
    this.show(from * 1e9, to * 1e9);
  }

  nextMark() {
    const middle = (this.view[0] + this.view[1]) / 2;
    let next = Infinity;
    for (const hits of this.hits[this.policy]) {
      const i = after(hits.at, middle + 0.5);
      if (i < hits.at.length) next = Math.min(next, hits.at[i]);
    }
    if (next === Infinity) {
      byId("shown").textContent = "No notification is known after the middle of this view.";
      return;
    }
    const half = Math.min(this.view[1] - this.view[0], this.about.duration_ns / 50) / 2;
    // near an end of the trace the view would be moved, and the mark with it
    const room = Math.max(Math.min(half, next, this.about.duration_ns - next), 500);
    this.show(next - room, next + room);
  }

  addUp(life, from, width, n) { return addUp(life, this.kinds, from, width, n); }

  countHits(hits, from, width, n) { return countHits(hits, this.marks.length, from, width, n); }

  /* How the height is shared: each vCPU's lanes of marks, its states, a gap. */
  bands() {
    const vcpus = this.lives.length;
    const px = vcpus <= 24 ? 40 : vcpus <= 64 ? 24 : vcpus <= 128 ? 12 : 6;
    const { lanes } = this;
    const rowPx = px >= 24 ? 2 : 1, rows = px / rowPx, gap = px >= 12 ? 2 : 1;
    const lane = px >= 40 ? 2 : 1;
    const used = Math.min(lanes.length * lane, Math.floor(rows / 2));
    const below = used && px >= 24 ? 1 : 0; // between the marks and the states
    return { px, rows, gap, lane, lanes, used, below };
  }

  occurs(name) {
    const m = this.marks.findIndex((mark) => mark.name === name);
    return this.hits.some((policy) => policy.some(({ at, possible }) => {
      for (let i = 0; i < at.length; i++) if (possible[m * at.length + i]) return true;
      return false;
    }));
  }

  /* Whether any notification of this policy is possible, not certain. */
  someOpen() {
    return this.hits.length > 0 && this.hits[this.policy].some(
      ({ certain, possible }) => possible.some((most, i) => most > certain[i]));
  }

  draw() {
    const { about, plot } = this, band = this.bands();
    const labelPx = this.labelPx();
    const px = Math.max(plot.clientWidth - labelPx - 10, 50);
    let [from] = this.view;
    const to = this.view[1];
    let n = Math.round(px), width = (to - from) / n;
    if (width < this.finest) { // whole columns of the finest that there are
      width = this.finest;
      from = Math.floor(from / width) * width;
      n = Math.max(Math.ceil((to - from) / width - 1e-9), 1);
    }
    this.grid = { from, width, n };
    this.sums = this.lives.map((life) => this.addUp(life, from, width, n));
    this.counts = this.hits.length
      ? this.hits[this.policy].map((hits) => this.countHits(hits, from, width, n)) : [];
    const z = this.lives.flatMap((_, v) => this.rowsOf(v, band, Math.max(1, Math.round(2 * n / px))));
    const height = this.lives.length * band.px;
    const every = Math.max(1, Math.ceil(13 / band.px));
    const shownLabels = about.vcpus.map((label, v) => [label, v]).filter(([, v]) => v % every === 0);
    const top = this.colors();
    const trace = {
      type: "heatmap", z, x0: (from + width / 2) / 1e9, dx: width / 1e9, y0: 0.5, dy: 1,
      zmin: -0.5, zmax: top.length - 0.5, colorscale: scale(top), showscale: false,
      zsmooth: false, hoverinfo: "none", hoverongaps: false,
    };
    const layout = {
      ...LAYOUT, height: height + 40, margin: { l: labelPx, r: 10, t: 4, b: 36 },
      dragmode: coarse() ? false : "zoom",
      xaxis: {
        range: this.view.map((ns) => ns / 1e9), tickformat: "~s", ticksuffix: "s", zeroline: false,
        showgrid: true, nticks: Math.max(3, Math.round(px / 110)),
        title: { text: "time since the trace's first event", font: { size: 11 }, standoff: 4 },
      },
      yaxis: {
        range: [this.lives.length * band.rows, 0], fixedrange: true, zeroline: false, showgrid: false,
        tickmode: "array", tickvals: shownLabels.map(([, v]) => (v + 0.5) * band.rows + band.gap / 2),
        ticktext: shownLabels.map(([label]) => escaped(shortened(label, labelPx))),
        ticks: "outside", ticklen: 4, tickcolor: "rgba(0,0,0,0)",
      },
    };
    this.drawing = true;
    return Plotly.react(plot, [trace], layout, CONFIG).then(() => {
      this.drawing = false;
      this.legend(band);
      this.say();
    });
  }

  /* The rows of one vCPU's band, from the top: a gap, the lanes of marks, the states. */
  rowsOf(v, band, wide) {
    const { n } = this.grid, each = this.kinds + 1, sums = this.sums[v];
    const rows = Array.from({ length: band.rows }, () => new Array(n).fill(null));
    const first = band.gap + band.used + band.below, states = band.rows - first;
    for (let c = 0; c < n; c++) {
      let left = 0;
      for (let k = 0; k < this.kinds; k++) left += sums[c * each + k];
      if (left <= 0) continue;
      const step = left / states;
      let at = 0, reached = sums[c * each + this.order[0]];
      for (let r = 0; r < states; r++) { // from the bottom, in the order of the legend
        while (at < this.kinds - 1 && reached < (r + 0.5) * step) {
          reached += sums[c * each + this.order[++at]];
        }
        rows[band.rows - 1 - r][c] = this.order[at];
      }
    }
    if (!band.used) return rows;
    const { counts } = this.counts[v], marks = this.marks.length;
    for (const [l, name] of band.lanes.entries()) {
      const m = this.marks.findIndex((mark) => mark.name === name);
      const at = band.gap + Math.min(l * band.lane, band.used - 1);
      for (let c = 0; c < n; c++) {
        const [sure, maybe] = [counts[(c * marks + m) * 2], counts[(c * marks + m) * 2 + 1]];
        if (!maybe) continue;
        const color = this.kinds + 2 * l + (sure ? 0 : 1);
        // a mark is some pixels wide, or it would not be seen
        for (let x = Math.max(c - wide, 0); x <= Math.min(c + wide, n - 1); x++) {
          for (let r = at; r < Math.min(at + band.lane, band.gap + band.used); r++) {
            if (rows[r][x] === null || x === c) rows[r][x] = color;
          }
        }
      }
    }
    return rows;
  }

  colors() {
    const marks = this.lanes.flatMap((name) => [MARK_COLORS[name], `${MARK_COLORS[name]}80`]);
    return [...this.about.kinds.map((kind) => kind.color), ...marks.map(rgba)];
  }

  labelPx() {
    const letters = Math.max(...this.about.vcpus.map((label) => label.length));
    return Math.min(letters * 7 + 14, this.plot.clientWidth < 500 ? 78 : 150);
  }

  legend(band) {
    const used = new Set(this.lives.flatMap((_, v) => {
      const kinds = [];
      for (let k = 0; k < this.kinds; k++) {
        for (let c = 0; c < this.grid.n; c++) {
          if (this.sums[v][c * (this.kinds + 1) + k] > 0) { kinds.push(k); break; }
        }
      }
      return kinds;
    }));
    const item = (color, words, mark) => {
      const li = document.createElement("li"), i = document.createElement("i");
      i.style.background = color;
      if (mark) li.className = "mark";
      li.append(i, words);
      return li;
    };
    const words = (name) => this.marks.find((mark) => mark.name === name).words;
    byId("legend").replaceChildren(
      ...this.order.filter((k) => used.has(k)).map((k) => item(this.about.kinds[k].color, this.about.kinds[k].words)),
      ...band.lanes.map((name) => item(MARK_COLORS[name], words(name), true)),
      ...(this.someOpen() ? [item("transparent", "pale: possible, not certain", true)] : []));
  }

  instant(ns) {
    const at = BigInt(this.about.start_ns) + BigInt(Math.round(ns));
    return `${at / 1000000000n}.${String(at % 1000000000n).padStart(9, "0")}`;
  }

  say() {
    const [from, to] = this.view, { width } = this.grid;
    const all = this.about.lives.mode === "intervals";
    const hidden = this.about.left_out
      ? ` The ${count(this.about.left_out)} least busy vCPUs are not drawn.` : "";
    const options = document.createElement("code");
    options.textContent = `--from ${this.instant(from)} --to ${this.instant(to)}`;
    byId("shown").replaceChildren(
      `Shown: ${duration(to - from)} of ${duration(this.about.duration_ns)}, `, options,
      `. A column of the picture is ${duration(width)}; `
      + (all ? "this page holds every interval, to the nanosecond."
        : `the finest that this page holds is ${duration(this.finest)}: analyze with these options to see more.`)
      + hidden + (coarse() ? "" : " Drag over the picture to zoom in, double-click for the whole trace."));
  }

  tell({ points, event }) {
    const [row, c] = points[0].pointIndex ?? points[0].pointNumber;
    const v = Math.floor(row / this.bands().rows), { from, width } = this.grid;
    const tip = byId("tip");
    tip.textContent = this.wordsOf(v, c, from + c * width, width);
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - box.width - 8)}px`;
    tip.style.top = `${Math.min(event.clientY + 14, innerHeight - box.height - 8)}px`;
  }

  /* What the picture says in one column of one vCPU. */
  wordsOf(v, c, at, width) {
    const each = this.kinds + 1, sums = this.sums[v];
    let whole = 0;
    for (let k = 0; k < this.kinds; k++) whole += sums[c * each + k];
    const lines = [`${this.about.vcpus[v]}, ${duration(width)} from ${this.instant(at)} on`];
    const life = this.lives[v], i = Math.max(after(life.start, at) - 1, 0);
    if (life.kind && life.start[i + 1] >= at + width) {
      const long = life.start[i + 1] - life.start[i];
      const where = life.cpu[i] ? `, pCPU ${life.cpu[i] - 1}` : "";
      const reason = life.reason[i] ? `, after exit ${this.about.exits[life.reason[i] - 1] ?? life.reason[i] - 1}` : "";
      lines.push(`${this.about.kinds[life.kind[i] & 0x7f].words} for ${duration(long)}${where}${reason}`
        + (life.kind[i] & 0x80 ? " (not certain)" : ""));
    } else {
      const parts = this.order.filter((k) => sums[c * each + k] > 0)
        .map((k) => `${this.about.kinds[k].words} ${percent(sums[c * each + k], whole)}`);
      lines.push(parts.join(", ") || "nothing is known");
      if (sums[c * each + this.kinds] > 0) lines.push(`not certain: ${percent(sums[c * each + this.kinds], whole)}`);
    }
    if (!this.counts.length) return lines.join("\n");
    const { counts, undated } = this.counts[v], marks = this.marks.length;
    const { other } = this.about.notifications.policies[this.policy];
    for (const [m, mark] of this.marks.entries()) {
      const [sure, maybe] = [counts[(c * marks + m) * 2], counts[(c * marks + m) * 2 + 1]];
      const words = mark.name === "removed" ? `of them not sent under ${other}` : mark.words;
      if (maybe) lines.push(`${range(sure, maybe)}: ${words}`);
    }
    if (undated[c]) lines.push(`${count(undated[c])} known by the window only, drawn where it begins`);
    return lines.join("\n");
  }
}

/* A finger that drags over the picture scrolls the page. */
const coarse = () => matchMedia("(pointer: coarse)").matches;
const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const shortened = (label, px) => (label.length * 7 + 14 <= px + 7 ? label : `…${label.slice(-Math.floor((px - 20) / 7))}`);
const rgba = (hex) => {
  const part = (i) => parseInt(hex.slice(i, i + 2), 16);
  return `rgba(${part(1)},${part(3)},${part(5)},${hex.length > 7 ? part(7) / 255 : 1})`;
};
/* A colorscale of so many flat colors, one for each whole number. */
const scale = (colors) => colors.flatMap(
  (color, i) => [[i / colors.length, color], [(i + 1) / colors.length, color]]);

/* ---- paper ---- */

/* A sheet is some 700 px wide, whatever the window is. */
const SHEET_PX = 690, HALF_SHEET_PX = 330;

function onPaper() {
  const fit = (paper) => document.querySelectorAll(".js-plotly-plot").forEach((plot) => {
    const px = plot.closest(".several") ? HALF_SHEET_PX : SHEET_PX;
    Plotly.relayout(plot, paper ? { width: px } : { width: null, autosize: true });
  });
  addEventListener("beforeprint", () => fit(true));
  addEventListener("afterprint", () => fit(false));
}

async function main() {
  const plotly = document.createElement("script");
  plotly.textContent = new TextDecoder().decode(await inflated("block-plotly"));
  document.head.append(plotly); // runs at once: its hash is in the page's policy
  drawBars(values("piscope-charts"));
  const about = values("piscope-timeline");
  let timeline = null;
  if (about) {
    timeline = new Timeline(about, await inflated("block-lives"), await inflated("block-notifications"));
    await timeline.start();
  }
  onPaper();
  byId("without-charts").hidden = true;
  return timeline;
}

const ready = main();
ready.catch((error) => { console.error(error); });
window.piscope = { ready };
})();
