// Runs: requests to models, the newest first, and what a tenant used this month.
import { tenants } from './tenants.js';
import { ask, card, el, money, ms, number, report, table, tile, when } from './dom.js';

export function runs() {
  const tenant = tenants('runs-tenant', () => load(null));
  const problem = el('p', { class: 'problem', role: 'alert' });
  const list = table('Runs', ['When', 'Model', 'Status', 'Cache', '#Tokens', '#Cost', '#Saved', '#Took', 'Key'], 'No run yet.');
  const month = { requests: tile('Requests this month'), cached: tile('From the cache'), paid: tile('Paid'), saved: tile('Saved') };
  const more = el('button', { type: 'button', class: 'quiet', onclick: () => load(next) }, 'Older');
  let next = null;
  let rows = [];

  const load = (after) => report(problem, async () => {
    const path = `tenants/${encodeURIComponent(tenant.element.value)}`;
    const query = new URLSearchParams({ limit: '50', ...(after ? { after } : {}) });
    const [page, usage] = await Promise.all([ask(`${path}/runs?${query}`), ask(`${path}/usage`)]);
    rows = (after ? rows : []).concat(page.data);
    next = page.after;
    more.hidden = !page.has_more;
    const { total } = usage;
    month.requests.set(number(total.requests));
    month.cached.set(number(total.cached));
    month.paid.set(money(total.cost_micros), total.unpriced ? `${number(total.unpriced)} without a price` : '');
    month.saved.set(money(total.saved_micros));
    list.set(rows.map((r) => [when(r.started), r.model, r.error ? el('span', { class: 'bad' }, `${r.status} ${r.error}`) : String(r.status), r.cache, number(r.prompt_tokens + r.completion_tokens),
      r.cost_micros === null ? 'unknown' : money(r.cost_micros), money(r.saved_micros), ms(r.duration_ms), r.key_id ?? "the server's"]));
  });

  return {
    title: 'Runs',
    element: el('section', {}, card('Runs', tenant.row, problem,
      el('dl', { class: 'tiles' }, ...Object.values(month).map((t) => t.element)), list.element, more)),
    shown: () => report(problem, async () => {
      await tenant.load();
      await load(null);
    }),
  };
}
