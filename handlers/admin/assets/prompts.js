// Prompts and evaluations of a tenant, the newest first, to look at.
import { tenants } from './tenants.js';
import { ask, card, el, number, percent, report, table, when } from './dom.js';

const shown = 50; // of each

export function prompts() {
  const tenant = tenants('prompts-tenant', () => load());
  const problem = el('p', { class: 'problem', role: 'alert' });
  const list = table('Prompts', ['Name', '#Newest version', 'Labels', 'Variables', 'Changed', 'Id'], 'No prompt yet: POST /v1/prompts makes one.');
  const evaluations = table('Evaluations', ['Id', 'Prompt', 'Model', 'State', '#Done', '#Passed', '#Mean score', 'Made'], 'No evaluation yet: POST /v1/evaluations starts one.');
  const load = () => report(problem, async () => {
    const path = `tenants/${encodeURIComponent(tenant.element.value)}`;
    const [p, e] = await Promise.all([ask(`${path}/prompts?limit=${shown}`), ask(`${path}/evaluations?limit=${shown}`)]);
    list.set(p.data.map((r) => [r.name, number(r.newest_version), Object.entries(r.labels ?? {}).map(([name, v]) => `${name}: ${v}`).join(', ') || '–', (r.variables ?? []).join(', ') || '–', when(r.updated_at), r.id]));
    evaluations.set(e.data.map((r) => [r.id, `${r.prompt_id}, version ${r.prompt_version}`, r.model, el('span', { class: r.error ? 'bad' : null }, r.error ? `${r.status}: ${r.error}` : r.status),
      `${number(r.done)} of ${number(r.cases)}`, r.done ? percent((100 * r.passed) / r.done) : '–', r.mean_score === null ? '–' : r.mean_score.toFixed(2), when(r.created_at)]));
  });
  return {
    title: 'Prompts',
    element: el('section', {}, card('Prompts', tenant.row, problem, list.element), card('Evaluations', evaluations.element)),
    shown: () => report(problem, async () => {
      await tenant.load();
      await load();
    }),
  };
}
