// The dashboard: which panel is shown, and the figures that come in.
import { Live } from './live.js';
import { el } from './dom.js';
import { overview } from './overview.js';
import { channels } from './channels.js';
import { requests } from './requests.js';
import { cache } from './cache.js';
import { resources } from './resources.js';
import { keys } from './keys.js';
import { prompts } from './prompts.js';
import { runs } from './runs.js';

// A panel has a title, an element, and what it wants of: figures(all, rates), shown(), hidden().
const live = new Live();
const panels = { overview: overview(), channels: channels(live), requests: requests(), cache: cache(), resources: resources(), prompts: prompts(), keys: keys(), runs: runs() };
const main = document.getElementById('main');
const links = new Map();
let current = null;

for (const [name, panel] of Object.entries(panels)) {
  const link = el('a', { href: `#${name}` }, panel.title);
  links.set(name, link);
  document.getElementById('nav').append(el('li', {}, link));
  panel.element.id = `panel-${name}`;
  panel.element.setAttribute('aria-label', panel.title);
  panel.element.hidden = true;
  main.append(panel.element);
}

function show() {
  const name = panels[location.hash.slice(1)] ? location.hash.slice(1) : 'overview';
  if (current === name) return;
  if (current) {
    panels[current].element.hidden = true;
    panels[current].hidden?.();
    links.get(current).removeAttribute('aria-current');
  }
  current = name;
  panels[name].element.hidden = false;
  links.get(name).setAttribute('aria-current', 'page');
  document.title = `${panels[name].title} · Forgewire`;
  panels[name].shown?.();
}

addEventListener('hashchange', () => { show(); main.focus({ preventScroll: true }); });
live.onState((state, text) => {
  const label = document.getElementById('live');
  label.dataset.state = state;
  label.lastElementChild.textContent = text;
});
live.onFigures((all, rates) => { for (const panel of Object.values(panels)) panel.figures?.(all, rates); });
live.onVersion((version) => { document.getElementById('version').textContent = version; });
show();
live.connect();
