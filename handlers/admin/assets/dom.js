// Elements, requests and how figures are written. Text is only ever set as text.

export function el(name, attributes = {}, ...children) {
  const e = document.createElement(name);
  for (const [k, v] of Object.entries(attributes)) {
    if (k.startsWith('on')) e.addEventListener(k.slice(2), v);
    else if (v === true) e.setAttribute(k, '');
    else if (v !== false && v !== null && v !== undefined) e.setAttribute(k, v);
  }
  e.append(...children.filter((c) => c !== null && c !== undefined));
  return e;
}

// card is a titled section.
export function card(title, ...children) {
  return el('section', { class: 'card' }, el('h2', {}, title), ...children);
}

// tile is one figure with its name; set changes it.
export function tile(name) {
  const value = el('dd', {}, '–');
  const note = el('dd', { class: 'note' });
  return {
    element: el('div', { class: 'tile' }, el('dt', {}, name), value, note),
    set(text, more = '') { value.textContent = text; note.textContent = more; },
  };
}

// table has headers, and rows that are replaced as a whole. Columns that start with '#' hold numbers.
export function table(caption, columns, empty) {
  const body = el('tbody');
  const nothing = el('p', { class: 'empty' }, empty);
  const scroll = el('div', { class: 'scroll', tabindex: '0', role: 'group', 'aria-label': caption }, el('table', {},
    el('caption', { class: 'unseen' }, caption),
    el('thead', {}, el('tr', {}, ...columns.map((c) => el('th', { scope: 'col', class: c.startsWith('#') ? 'number' : null }, c.replace('#', ''))))), body));
  scroll.hidden = true;
  return {
    element: el('div', {}, nothing, scroll),
    set(rows) {
      body.replaceChildren(...rows.map((cells) => el('tr', {}, ...cells.map((c, i) => (
        el(i === 0 ? 'th' : 'td', { scope: i === 0 ? 'row' : null, class: columns[i].startsWith('#') ? 'number' : null }, c ?? '–'))))));
      nothing.hidden = rows.length > 0;
      scroll.hidden = rows.length === 0;
    },
  };
}

// ask calls the server. A session that has ended leads back to the login.
export async function ask(path, options = {}) {
  const response = await fetch(`/admin/api/${path}`, { ...options, headers: options.body ? { 'Content-Type': 'application/json' } : {} });
  if (response.status === 401) {
    location.reload();
    return new Promise(() => {}); // the page is about to go
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error((typeof body.error === 'string' ? body.error : body.error?.message ?? body.detail) ?? `the server answered ${response.status}`);
  return body;
}

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });

export const number = (n) => (n >= 100000 ? short : whole).format(n);
export const rate = (n) => (n < 10 && n > 0 ? n.toFixed(1) : number(n));
export const percent = (n) => `${n.toFixed(n < 10 && n > 0 ? 1 : 0)} %`;
export const ms = (n) => (n === null || n === undefined ? '–' : n >= 1000 ? `${(n / 1000).toFixed(2)} s` : n >= 100 ? `${n.toFixed(0)} ms` : n >= 1 ? `${n.toFixed(1)} ms` : `${n.toFixed(2)} ms`);
export const money = (micros) => (micros / 1e6).toLocaleString('en', { minimumFractionDigits: 2, maximumFractionDigits: micros < 1e6 ? 4 : 2 });
export const when = (text) => new Date(text).toLocaleString('en-GB', { dateStyle: 'short', timeStyle: 'medium' });
export const clock = (date) => date.toLocaleTimeString('en-GB');

export function bytes(n) {
  for (const unit of ['B', 'KiB', 'MiB', 'GiB']) {
    if (n < 1024 || unit === 'GiB') return `${n < 10 && unit !== 'B' ? n.toFixed(1) : Math.round(n)} ${unit}`;
    n /= 1024;
  }
  return '';
}

// report runs what a person asked for, and says what went wrong where he looks.
export async function report(problem, work) {
  problem.textContent = '';
  try {
    await work();
  } catch (e) {
    problem.textContent = e.message;
  }
}
