// API keys of /v1: list, make, revoke.
import { ask, card, el, money, number, report, table, when } from './dom.js';

export function keys() {
  const problem = el('p', { class: 'problem', role: 'alert' });
  const note = el('p', { class: 'note' });
  const list = table('API keys', ['Id', 'Tenant', 'Name', 'State', '#Requests a minute', '#Budget a month', 'Models', 'Made', ''], 'There is no key.');
  const load = () => report(problem, async () => {
    const all = await ask('keys');
    note.textContent = all.total > all.keys.length ? `The newest ${all.keys.length} of ${number(all.total)}.` : '';
    list.set(all.keys.map((k) => [k.id, k.tenant, k.name || '–', state(k), k.requests_per_minute === null ? 'no limit' : number(k.requests_per_minute),
      k.budget_micros === null ? 'no limit' : money(k.budget_micros), k.models?.length ? k.models.join(', ') : 'all', when(k.created), k.revoked ? '' : revoke(k)]));
  });

  // Revoking is for good, so it takes a second press.
  function revoke(k) {
    let sure = false;
    const button = el('button', { type: 'button', class: 'quiet danger', 'aria-label': `Revoke ${k.id}`, onblur: () => { sure = false; say('Revoke'); }, onclick: () => {
      if (!sure) {
        sure = true;
        return say('For good?');
      }
      return report(problem, async () => { await ask(`keys/${k.id}`, { method: 'DELETE' }); await load(); });
    } }, 'Revoke');
    const say = (text) => { button.textContent = text; button.setAttribute('aria-label', `${text} ${k.id}`); };
    return button;
  }

  return {
    title: 'API keys',
    element: el('section', {}, card('API keys', problem, list.element, note), maker(load)),
    shown: load,
  };
}

function state(k) {
  if (k.revoked) return el('span', { class: 'bad' }, 'revoked');
  if (!k.expires) return el('span', { class: 'good' }, 'good');
  return new Date(k.expires) <= new Date() ? el('span', { class: 'bad' }, 'expired') : `until ${when(k.expires)}`;
}

function maker(made) {
  const field = (id, label, attributes = {}) => {
    const input = el('input', { id: `key-${id}`, autocomplete: 'off', ...attributes });
    return { input, element: el('div', { class: 'field' }, el('label', { for: `key-${id}` }, label), input) };
  };
  const tenant = field('tenant', 'Tenant', { required: true });
  const name = field('name', 'What it is for');
  const models = field('models', 'Models, by comma', { placeholder: 'all' });
  const requests = field('requests', 'Requests a minute', { type: 'number', min: '1', placeholder: 'no limit' });
  const budget = field('budget', 'Budget a month', { type: 'number', min: '0', step: '0.01', placeholder: 'no limit' });
  const problem = el('p', { class: 'problem', role: 'alert' });
  const shown = el('p', { class: 'secret', role: 'status' });
  const form = el('form', { class: 'fields', onsubmit: (event) => {
    event.preventDefault();
    shown.replaceChildren();
    report(problem, async () => {
      const optional = (f) => (f.input.value === '' ? null : Number(f.input.value));
      const { key } = await ask('keys', { method: 'POST', body: JSON.stringify({ tenant: tenant.input.value, name: name.input.value,
        models: models.input.value.split(',').map((m) => m.trim()).filter(Boolean), requests_per_minute: optional(requests), budget: optional(budget) }) });
      shown.append('Copy it now, it is shown this once: ', el('code', {}, key));
      form.reset();
      await made();
    });
  } }, ...[tenant, name, models, requests, budget].map((f) => f.element), el('button', { type: 'submit' }, 'Make a key'));
  return card('Make a key', form, problem, shown);
}
