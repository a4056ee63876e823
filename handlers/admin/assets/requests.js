// HTTP requests by route, the slow ones with where their time went, and the last ones.
import { card, el, ms, number, table, when } from './dom.js';

const names = { pool_wait: 'waiting for a connection', query: 'database', cache: 'cache', upstream: 'model' };

export function requests() {
  const routes = table('Routes', ['Route', '#Requests', '#Errors', '#p50', '#p95', '#p99', '#Slowest'], 'No request yet.');
  const slow = table('Slow requests', ['Request', '#Took', 'Where the time went', 'When', 'Status', 'Tenant'], 'No request took longer than 200 ms.');
  const recent = table('Last requests', ['Request', '#Took', 'When', 'Status', 'Tenant'], 'No request yet.');
  return {
    title: 'Requests',
    element: el('section', {}, card('The slowest requests, above 200 ms', slow.element), card('Routes, of the last 1,000 requests each', routes.element), card('The last requests', recent.element)),
    figures(all) {
      slow.set(all.http.slow.map((r) => [`${r.method} ${r.route}`, ms(r.duration_ms), parts(r), when(r.time), String(r.status), r.tenant ?? '–']));
      recent.set(all.http.recent.map((r) => [`${r.method} ${r.route}`, ms(r.duration_ms), when(r.time), String(r.status), r.tenant ?? '–']));
      routes.set(all.http.routes.toSorted((a, b) => b.total.count - a.total.count).map((r) => [`${r.method} ${r.route}`, number(r.total.count), number(r.statuses['5xx'] ?? 0),
        ms(r.window.p50_ms), ms(r.window.p95_ms), ms(r.window.p99_ms), ms(r.total.max_ms)]));
    },
  };
}

// parts is a bar whose pieces are as long as what they stand for, and the same in words.
function parts(request) {
  const all = Object.entries(request.parts_ms ?? {});
  const known = all.reduce((n, [, t]) => n + t, 0);
  const rest = Math.max(0, request.duration_ms - known);
  const pieces = [...all, ...(rest > 0 ? [['rest', rest]] : [])];
  const bar = el('span', { class: 'bar', 'aria-hidden': 'true' }, ...pieces.map(([name, t]) => {
    const piece = el('span', { class: `piece piece-${name}` });
    piece.style.setProperty('flex-grow', String(t)); // the policy allows no style attributes; the object model is not one
    return piece;
  }));
  return el('span', {}, bar, pieces.map(([name, t]) => `${names[name] ?? (all.length ? 'rest' : 'this server')} ${ms(t)}`).join(', '));
}
