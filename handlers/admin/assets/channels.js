// Channels, who is on one, its tail, and a message to try.
import { ask, card, clock, el, number, report, table } from './dom.js';

const kept = 200; // messages of a tail

export function channels(live) {
  const problem = el('p', { class: 'problem', role: 'alert' });
  const filter = el('input', { id: 'channel-filter', type: 'search', placeholder: 'part of a name, or a pattern with *', autocomplete: 'off' });
  const count = el('p', { class: 'note' });
  const list = table('Channels with subscribers', ['Channel', '#Subscribers', ''], 'No channel has a subscriber.');
  const one = oneChannel(live);
  let timer = null;

  const load = () => report(problem, async () => {
    const all = await ask(`channels?${new URLSearchParams({ pattern: filter.value.trim() })}`);
    count.textContent = all.total > all.channels.length ? `The ${all.channels.length} with the most subscribers, of ${number(all.total)}.` : '';
    list.set(all.channels.map((c) => [c.channel, number(c.clients), el('button', { type: 'button', class: 'quiet', 'aria-label': `Open ${c.channel}`, onclick: () => one.open(c.channel) }, 'Open')]));
  });
  return {
    title: 'Channels',
    element: el('section', {},
      card('Channels',
        el('form', { class: 'row', onsubmit: (e) => { e.preventDefault(); load(); } }, el('label', { for: 'channel-filter' }, 'Find'), filter, el('button', { class: 'quiet' }, 'Look')),
        problem, list.element, count),
      one.element),
    shown() { load(); timer = setInterval(load, 5000); },
    hidden() { clearInterval(timer); },
  };
}

function oneChannel(live) {
  const name = el('input', { id: 'tail-channel', autocomplete: 'off', required: true, maxlength: '255', placeholder: 'room:1' });
  const state = el('p', { class: 'note', role: 'status' });
  const problem = el('p', { class: 'problem', role: 'alert' });
  const who = table('Who is there', ['User', 'Connection'], 'Nobody, or its namespace has no presence.');
  const messages = el('ol', { class: 'messages', tabindex: '0', 'aria-label': 'Messages, the newest first' });
  const data = el('textarea', { id: 'publish-data', rows: '3', spellcheck: 'false' });
  data.value = '{"text":"hello"}';
  const said = el('p', { class: 'note', role: 'status' });
  const refused = el('p', { class: 'problem', role: 'alert' });
  const details = el('div', { class: 'grid two' },
    el('div', {}, el('h3', {}, 'Tail'), messages),
    el('div', {}, el('h3', {}, 'Who is there'), who.element,
      el('h3', {}, 'Publish'), el('form', { class: 'stack', onsubmit: publish }, el('label', { for: 'publish-data' }, 'Message, as JSON'), data, el('button', { type: 'submit' }, 'Publish'), said, refused)));
  details.hidden = true;
  let stop = () => {};
  let current = '';

  function add(offset, text, user, old) {
    messages.prepend(el('li', { class: old ? 'old' : null }, el('span', { class: 'meta' }, [offset ? `#${offset}` : 'not stored', user, old ? '' : clock(new Date())].filter(Boolean).join(' · ')), el('code', {}, text)));
    while (messages.children.length > kept) messages.lastElementChild.remove();
  }

  async function open(channel) {
    name.value = current = channel;
    stop();
    messages.replaceChildren();
    details.hidden = false;
    await report(problem, async () => {
      stop = live.tail(channel, ({ offset, data: d, info }) => add(offset, JSON.stringify(d), info?.user, false), (why) => { problem.textContent = why; });
      state.textContent = `Following ${channel}. Others on it do not see you.`;
      const c = await ask(`channel?${new URLSearchParams({ channel })}`);
      who.set((c.presence ?? []).map((m) => [m.user || 'anonymous', m.client]));
      const seen = new Set([...messages.querySelectorAll('.meta')].map((m) => m.textContent.split(' ')[0]));
      for (const m of c.past ?? []) {
        if (!seen.has(`#${m.offset}`)) messages.append(el('li', { class: 'old' }, el('span', { class: 'meta' }, [`#${m.offset}`, m.user].filter(Boolean).join(' · ')), el('code', {}, JSON.stringify(m.data))));
      }
    });
  }

  function publish(event) {
    event.preventDefault();
    said.textContent = '';
    report(refused, async () => {
      let message;
      try {
        message = JSON.parse(data.value);
      } catch {
        throw new Error('This is not JSON. Text stands in quotes: "hello"');
      }
      const { offset } = await ask('publish', { method: 'POST', body: JSON.stringify({ channel: current, data: message }) });
      said.textContent = offset ? `Published as #${offset}.` : 'Published; the channel keeps nothing.';
    });
  }

  return {
    element: card('One channel',
      el('form', { class: 'row', onsubmit: (e) => { e.preventDefault(); open(name.value.trim()); } }, el('label', { for: 'tail-channel' }, 'Channel'), name, el('button', { type: 'submit' }, 'Follow')),
      state, problem, details),
    open(channel) { open(channel); name.focus(); },
  };
}
