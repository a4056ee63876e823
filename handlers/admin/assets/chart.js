// A small chart of the last minutes: one line a series, drawn as SVG. It is a picture of what stands beside it in
// figures, so it is hidden from screen readers.
import { el } from './dom.js';

const namespace = 'http://www.w3.org/2000/svg';
const [width, height] = [300, 84];
const [kept, least] = [90, 15]; // points: three minutes, and half a minute to begin with

function svg(name, attributes) {
  const e = document.createElementNS(namespace, name);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  return e;
}

export class Chart {
  #points = [];
  #lines;
  #values;
  #most;
  #format;

  constructor(title, series, format) {
    this.#format = format;
    this.#lines = series.map((_, i) => svg('polyline', { class: `line line-${i}`, fill: 'none', 'vector-effect': 'non-scaling-stroke' }));
    this.#values = series.map(() => el('b', {}, '–'));
    this.#most = el('span', { class: 'most', 'aria-hidden': 'true' });
    const picture = svg('svg', { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', 'aria-hidden': 'true' });
    for (const y of [1, height / 2, height - 1]) picture.append(svg('line', { class: 'rule', x1: 0, x2: width, y1: y, y2: y, 'vector-effect': 'non-scaling-stroke' }));
    picture.append(...this.#lines);
    this.element = el('section', { class: 'card chart' }, el('h2', {}, title),
      el('p', { class: 'legend' }, ...series.map((name, i) => el('span', { class: `key key-${i}` }, `${name} `, this.#values[i]))),
      el('div', { class: 'plot' }, picture, this.#most));
  }

  // add draws one point more. A value of null leaves a gap in what is written, and the line as it was.
  add(...values) {
    const last = this.#points.at(-1) ?? [];
    this.#points.push(values.map((v, i) => v ?? last[i] ?? 0));
    if (this.#points.length > kept) this.#points.shift();
    const most = Math.max(...this.#points.flat(), Number.MIN_VALUE);
    const x = (i) => width - (this.#points.length - 1 - i) * (width / (Math.max(this.#points.length, least) - 1));
    const y = (v) => height - 2 - (v / most) * (height - 8);
    this.#lines.forEach((line, s) => line.setAttribute('points', this.#points.map((p, i) => `${x(i).toFixed(1)},${y(p[s]).toFixed(1)}`).join(' ')));
    values.forEach((v, i) => { this.#values[i].textContent = v === null ? '–' : this.#format(v); });
    this.#most.textContent = most > Number.MIN_VALUE ? this.#format(most) : '';
  }
}
