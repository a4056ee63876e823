// Whose things a panel shows: the server's own key's tenant, and all that have keys.
import { ask, el } from './dom.js';

export function tenants(id, changed) {
  const element = el('select', { id, onchange: changed });
  return {
    element,
    row: el('div', { class: 'row' }, el('label', { for: id }, 'Tenant'), element),
    async load() {
      const { keys, default_tenant: first } = await ask('keys');
      const chosen = element.value;
      const all = [...new Set([first, ...keys.map((k) => k.tenant)])];
      element.replaceChildren(...all.map((t) => el('option', { value: t }, t)));
      if (all.includes(chosen)) element.value = chosen;
    },
  };
}
