// One pane: a connection of its own to one replica, and what came through it.

import { Pad } from './pad.js';

const channel = 'room:1';
const kept = 200; // messages that a pane shows and compares
const past = 20; // messages from before the page was opened

export class Pane {
  // What the two panes are compared by.
  start = null; // the position from which on this pane misses nothing
  last = 0; // the last offset that it knows to have been told of
  offsets = [];
  live = false;

  #replica;
  #id = crypto.randomUUID?.() ?? String(Math.random()).slice(2); // randomUUID needs a secure page
  #changed;
  #subscription;
  #client;
  #parts;
  #pad;
  #counting = false;
  #resume = null; // while the messages of a resume come in: { missed }

  constructor(replica, changed) {
    this.#replica = replica;
    this.#changed = changed;
    this.element = document.getElementById('pane').content.firstElementChild.cloneNode(true);
    const part = (selector) => this.element.querySelector(selector);
    this.#parts = {
      title: part('h2'), state: part('.state-text'), cut: part('.cut'), scroll: part('.scroll'),
      empty: part('.empty'), messages: part('.messages'), form: part('form'), label: part('label'),
      input: part('input'), problem: part('.problem'), count: part('.count'), pad: part('.pad'),
    };
    this.#name();
    this.#parts.form.addEventListener('submit', (event) => this.#submit(event));
    this.#parts.cut.addEventListener('click', () => this.#cut());
  }

  connect() {
    const url = new URL('/connection/websocket', location.href);
    url.protocol = url.protocol.replace('http', 'ws');
    url.search = new URLSearchParams({ replica: this.#replica, pane: this.#id });
    // The pause before it reconnects is long, so that there is time to type in the other pane.
    this.#client = new Centrifuge(url.href, { minReconnectDelay: 2500, maxReconnectDelay: 5000, timeout: 10000 });
    this.#pad = new Pad(this.#parts.pad, this.#replica, this.#client);
    this.#subscription = this.#client.newSubscription(channel, { joinLeave: true });
    this.#subscription
      .on('subscribing', () => this.#away())
      .on('subscribed', (context) => this.#arrived(context))
      .on('publication', (publication) => this.#receive(publication))
      .on('join', () => this.#countSoon())
      .on('leave', () => this.#countSoon())
      .on('unsubscribed', (context) => this.#setState('down', `Not subscribed: ${context.reason}`));
    this.#client.on('disconnected', (context) => this.#setState('down', `Disconnected: ${context.reason}`));
    this.#subscription.subscribe();
    this.#client.connect();
  }

  #name() {
    const { title, label, input, scroll, messages, cut, pad } = this.#parts;
    const name = `Replica ${this.#replica.toUpperCase()}`;
    this.element.dataset.replica = this.#replica;
    title.textContent = name;
    title.id = `title-${this.#replica}`;
    this.element.setAttribute('aria-labelledby', title.id);
    for (const part of [scroll, messages]) part.setAttribute('aria-label', `Messages on replica ${this.#replica.toUpperCase()}`);
    cut.setAttribute('aria-describedby', title.id);
    pad.setAttribute('aria-label', `Pointer on ${name}: move with the arrow keys`);
    input.id = `input-${this.#replica}`;
    input.placeholder = `Type on ${name}`;
    label.htmlFor = input.id;
    label.textContent = `Message to publish on replica ${this.#replica.toUpperCase()}`;
  }

  #setState(state, text) {
    this.live = state === 'up';
    this.element.dataset.state = state;
    this.#parts.state.textContent = text;
    this.#parts.cut.setAttribute('aria-disabled', String(state !== 'up'));
    this.#changed();
  }

  #away() {
    if (this.start === null) return this.#setState('away', 'Connecting…');
    if (this.live) this.#divide('cut', 'connection lost');
    this.#setState('away', 'Reconnecting…');
  }

  // The messages that were missed are delivered right after this event, in the same task.
  #arrived({ wasRecovering, recovered, streamPosition }) {
    const returned = this.start !== null;
    const resumed = wasRecovering && recovered;
    if (!resumed) {
      this.start = streamPosition?.offset ?? 0;
      this.offsets = [];
    }
    const divider = returned ? this.#divide(resumed ? 'resumed' : 'lost', '') : null;
    this.#resume = { missed: 0 };
    queueMicrotask(() => {
      const { missed } = this.#resume;
      this.#resume = null;
      this.last = Math.max(this.last, streamPosition?.offset ?? 0);
      if (!returned) this.#showPast();
      this.#countSoon();
      if (divider) divider.textContent = resumed ? resumeText(missed) : 'back, but what was missed is no longer there';
      this.#setState('up', 'Connected');
      this.#scrollDown(true);
    });
  }

  #receive({ data, offset }) {
    const now = performance.timeOrigin + performance.now();
    const took = typeof data?.sent === 'number' ? now - data.sent : null;
    const recovered = this.#resume !== null;
    if (recovered) this.#resume.missed++;
    this.offsets.push(offset);
    this.last = Math.max(this.last, offset);
    this.#add(messageRow({ data, offset, took, recovered }));
    while (this.offsets.length > kept) this.start = this.offsets.shift();
    this.#changed();
  }

  // What was published before the page was opened, so that it does not begin empty.
  async #showPast() {
    const start = this.start;
    try {
      const { publications } = await this.#subscription.history({ limit: past, reverse: true });
      const before = publications.filter(({ offset }) => offset <= start);
      this.#parts.messages.prepend(...before.reverse().map(({ data, offset }) => messageRow({ data, offset, took: null, recovered: false, old: true })));
      if (before.length > 0) this.#parts.empty.hidden = true;
      this.#scrollDown(true);
    } catch {
      // The past is a courtesy: without it the pane begins with what comes.
    }
  }

  // Joins and leaves come in crowds; the count of the moment is asked for once after each.
  async #countSoon() {
    if (this.#counting) return;
    this.#counting = true;
    await new Promise((resolve) => setTimeout(resolve, 200));
    this.#counting = false;
    try {
      const { numClients } = await this.#subscription.presenceStats();
      this.#parts.count.textContent = numClients;
    } catch {
      this.#parts.count.textContent = '–';
    }
  }

  #divide(kind, text) {
    const row = document.createElement('li');
    row.className = `divider ${kind}`;
    const label = document.createElement('span');
    label.textContent = text;
    row.append(label);
    this.#add(row);
    return label;
  }

  #add(row) {
    const { messages, empty } = this.#parts;
    const wasAtEnd = this.#isAtEnd();
    empty.hidden = true;
    messages.append(row);
    while (messages.children.length > kept) messages.firstElementChild.remove();
    this.#scrollDown(wasAtEnd);
  }

  // Whoever scrolled up to read is left there.
  #isAtEnd() {
    const { scroll } = this.#parts;
    return scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 40;
  }

  #scrollDown(wanted) {
    if (wanted) this.#parts.scroll.scrollTop = this.#parts.scroll.scrollHeight;
  }

  async #submit(event) {
    event.preventDefault();
    const { input, problem } = this.#parts;
    const text = input.value.trim();
    if (text === '') return;
    input.value = '';
    problem.textContent = '';
    this.#scrollDown(true);
    const sent = performance.timeOrigin + performance.now();
    try {
      await this.#subscription.publish({ text, from: this.#replica.toUpperCase(), sent });
    } catch (error) {
      problem.textContent = `“${text}” was not confirmed: ${error.message}.`;
      if (input.value === '') input.value = text;
    }
  }

  async #cut() {
    if (!this.live) return;
    const { problem } = this.#parts;
    problem.textContent = '';
    try {
      const response = await fetch(`/dev/cut?${new URLSearchParams({ pane: this.#id })}`, { method: 'POST' });
      if (!response.ok) throw new Error(await response.text());
    } catch (error) {
      problem.textContent = `The connection was not cut: ${error.message}`;
    }
  }
}

function messageRow({ data, offset, took, recovered, old }) {
  const row = document.createElement('li');
  row.className = recovered ? 'message recovered' : old ? 'message old' : 'message';
  const from = typeof data?.from === 'string' && data.from !== '' ? data.from.slice(0, 8) : null;
  const origin = cell('origin', from ?? 'SQL/API', from ? `typed on replica ${from}` : 'published from SQL or over HTTP');
  origin.dataset.from = from ?? '';
  row.append(
    origin,
    cell('text', typeof data?.text === 'string' ? data.text : JSON.stringify(data)),
    cell('took', duration(took), recovered ? 'recovered after a cut' : old ? 'from the history' : 'from publish to receive'),
    cell('offset', shortened(offset), `offset ${offset}`),
  );
  return row;
}

function cell(name, text, title) {
  const element = document.createElement('span');
  element.className = name;
  element.textContent = text;
  if (title) element.title = title;
  return element;
}

export function duration(ms) {
  if (ms === null) return '–';
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms.toFixed(ms < 10 ? 1 : 0)} ms`;
}

// Offsets are large, because no number is ever given out twice; their ends tell them apart.
function shortened(offset) {
  const digits = String(offset);
  return digits.length > 6 ? `…${digits.slice(-6)}` : digits;
}

function resumeText(missed) {
  if (missed === 0) return 'resumed, nothing was missed';
  return `resumed, ${missed} missed ${missed === 1 ? 'message' : 'messages'} recovered`;
}
