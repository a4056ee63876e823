// The cache, and what models' answers that came from it saved.
import { bytes, card, el, money, number, percent, table, tile } from './dom.js';

const states = { local: 'in each replica', tracking: 'Valkey, with local copies', 'no-tracking': 'Valkey', unavailable: 'Valkey is away' };

export function cache() {
  const models = { rate: tile('Answers from the cache'), saved: tile('Money saved'), paid: tile('Money paid'), tokens: tile('Tokens saved'), seconds: tile('Waiting avoided') };
  const values = { rate: tile('Hit rate'), where: tile('Kept'), local: tile('Local copies'), server: tile('Valkey memory'), errors: tile('Errors') };
  const rows = table('Answers by model and class', ['Model', 'Class', '#Requests', '#From the cache', '#Saved', '#Paid', '#First token'], 'No model was asked yet.');
  const none = el('p', { class: 'note' }, 'No upstream is configured: there are no models behind /v1.');
  const tiles = el('dl', { class: 'tiles' }, ...Object.values(models).map((t) => t.element));
  return {
    title: 'Cache',
    element: el('section', {},
      card('Models, since the replicas started', none, tiles, rows.element),
      card('Values', el('dl', { class: 'tiles' }, ...Object.values(values).map((t) => t.element)))),
    figures(all) {
      none.hidden = Boolean(all.models);
      tiles.hidden = rows.element.hidden = !all.models;
      if (all.models) {
        const t = all.models.total;
        models.rate.set(percent(t.hit_rate), `${number(t.hits + t.collapsed + t.stale)} of ${number(t.hits + t.collapsed + t.stale + t.misses)}`);
        models.saved.set(money(t.saved_micros));
        models.paid.set(money(t.cost_micros));
        models.tokens.set(number(t.tokens_saved));
        models.seconds.set(`${number(t.seconds_avoided)} s`);
        rows.set((all.models.by_model_and_class ?? []).map((r) => [r.model, r.class, number(r.requests), percent(r.hit_rate), money(r.saved_micros), money(r.cost_micros), `${r.mean_first_token.toFixed(2)} s`]));
      }
      const c = all.cache;
      if (!c) return;
      const hits = c.local_hits + c.remote_hits;
      values.rate.set(hits + c.misses ? percent((100 * hits) / (hits + c.misses)) : '–', `${number(hits)} of ${number(hits + c.misses)}`);
      values.where.set(states[c.state] ?? c.state);
      values.local.set(bytes(c.local_bytes), `${number(c.local_entries)} values`);
      values.server.set(c.server ? bytes(c.server.memory_bytes) : '–', c.server?.max_memory_bytes ? `of ${bytes(c.server.max_memory_bytes)}` : '');
      values.errors.set(number(c.errors + c.skipped));
    },
  };
}
