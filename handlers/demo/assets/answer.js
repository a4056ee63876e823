// One answer: what a model says through one replica, what the cache did, and how long it took. It outlives a
// reload: what was received so far is in sessionStorage, and the rest is asked for by the answer's id.
import { duration } from './pane.js';
import { events, outcome, problemOf } from './stream.js';

const patience = 5; // how often we try again, where the network failed or a stream broke off
const pause = 1000; // ms before that, and between looks at the runs
const looks = 8; // at the runs, which are written a little after the answer

const now = () => performance.timeOrigin + performance.now();
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

class Refused extends Error {}

export class Answer {
  #replica;
  #key;
  #parts;
  #work = null; // ends what is under way
  #state = null; // what survives a reload
  #frame = null; // in which it is shown next

  constructor(replica, key) {
    this.#replica = replica;
    this.#key = key;
    this.element = document.getElementById('answer').content.firstElementChild.cloneNode(true);
    this.element.dataset.replica = replica;
    const part = (selector) => this.element.querySelector(selector);
    this.#parts = {
      badge: part('.badge'), first: part('.first'), whole: part('.whole'), saved: part('.saved'),
      said: part('.said'), note: part('.note'), problem: part('.problem'),
    };
    const title = part('h3');
    title.textContent = `Replica ${replica.toUpperCase()}`;
    title.id = `answer-${replica}`;
    this.element.setAttribute('aria-labelledby', title.id);
    this.#parts.said.setAttribute('aria-label', `Answer through replica ${replica.toUpperCase()}`);
    addEventListener('pagehide', () => {
      this.#save();
      this.#work?.abort(); // what fails while the page goes is no failure
    });
    addEventListener('pageshow', ({ persisted }) => persisted && this.#restore());
    this.#restore();
  }

  // ask begins a new answer in place of the old one.
  ask(model, question) {
    this.#state = { model, question, asked: now(), id: null, last: null, text: '', cache: null, status: '', age: null,
      first: null, whole: null, saved: null, ended: false, note: '', problem: '' };
    this.#save();
    this.#go();
  }

  #restore() {
    try {
      this.#state = JSON.parse(sessionStorage.getItem(this.#place));
    } catch {
      return; // not ours, or not allowed
    }
    if (!this.#state) return this.#show();
    if (this.#state.ended) {
      this.#show();
      if (this.#state.saved === null) this.#countSaved(this.#state);
      return;
    }
    this.#go();
  }

  get #place() {
    return `forgewire.answer.${this.#replica}`;
  }

  #save() {
    try {
      if (this.#state) sessionStorage.setItem(this.#place, JSON.stringify(this.#state));
    } catch {
      // Without storage, or with a full one, a reload forgets the answer.
    }
  }

  // go brings the answer to its end: it asks, or goes on where a reload or a broken connection ended.
  async #go() {
    this.#work?.abort();
    const { signal } = (this.#work = new AbortController());
    const state = this.#state;
    for (let tries = 0; !state.ended; tries++) {
      this.#show();
      try {
        await (state.id === null ? this.#begin(state, signal) : this.#resume(state, signal));
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof Refused) && tries < patience) {
          // Asking twice costs nothing: the second joins what the first began.
          await wait(pause);
          continue;
        }
        state.ended = true;
        state.problem = error.message;
      }
      if (signal.aborted) return;
    }
    this.#save();
    this.#show();
    this.#countSaved(state);
  }

  async #begin(state, signal) {
    const response = await this.#fetch(`/v1/chat/completions?replica=${this.#replica}`, {
      method: 'POST', signal, headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ model: state.model, messages: [{ role: 'user', content: state.question }], stream: true }),
    });
    state.id = response.headers.get('Forgewire-Id');
    state.text = ''; // what has no id begins again
    state.status = response.headers.get('Cache-Status') ?? '';
    state.cache = outcome(state.status);
    state.age = response.headers.get('Age');
    this.#save();
    await this.#read(response, state, signal);
  }

  // Any replica has it, so none is asked for.
  async #resume(state, signal) {
    const query = new URLSearchParams({ stream: 'true' });
    if (state.last !== null) query.set('starting_after', state.last);
    const response = await this.#fetch(`/v1/responses/${encodeURIComponent(state.id)}?${query}`, { signal });
    const by = response.headers.get('Forgewire-Replica')?.toUpperCase();
    const after = state.last === null ? 'from its beginning' : `after event ${state.last}`;
    state.note = `Went on ${after}${by ? `, through replica ${by}` : ''}.`;
    await this.#read(response, state, signal);
  }

  // The browser's own cache is left to what the responses say: an option here would be sent to ours as a wish.
  async #fetch(url, { headers, ...options }) {
    const response = await fetch(url, { ...options, headers: { ...headers, Authorization: `Bearer ${this.#key}` } });
    if (!response.ok) throw new Refused(await problemOf(response));
    return response;
  }

  async #read(response, state, signal) {
    for await (const { id, data } of events(response)) {
      if (signal.aborted) return;
      if (data === '[DONE]') {
        state.ended = true;
        state.whole = now() - state.asked;
        return;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Refused(chunk.error.message);
      const delta = chunk.choices?.[0]?.delta;
      const text = delta?.content ?? delta?.refusal ?? '';
      if (text !== '') state.first ??= now() - state.asked;
      state.text += text;
      if (id !== null) state.last = id;
      this.#showSoon();
    }
    throw new Error('The stream broke off.');
  }

  // What was saved is how long the model took for this answer, as its run says, less how long we waited.
  async #countSaved(state) {
    if (state.problem || !state.id || (state.cache !== 'hit' && state.cache !== 'joined')) return;
    const query = new URLSearchParams({ answer_id: state.id, cache: 'miss', limit: '1' });
    for (let look = 0; look < looks && state === this.#state; look++) {
      try {
        const { data } = await (await this.#fetch(`/v1/runs?${query}`, {})).json();
        if (data.length > 0) {
          state.saved = Math.max(0, data[0].duration_ms - state.whole);
          this.#save();
          if (state === this.#state) this.#show();
          return;
        }
      } catch {
        return; // a courtesy
      }
      await wait(pause);
    }
  }

  // A hit's tokens come all at once, and are shown so.
  #showSoon() {
    this.#frame ??= requestAnimationFrame(() => this.#show());
  }

  #show() {
    this.#frame = null;
    const { badge, first, whole, saved, said, note, problem } = this.#parts;
    const state = this.#state;
    this.element.dataset.state = !state ? 'idle' : state.problem ? 'failed' : state.ended ? 'whole' : 'coming';
    said.setAttribute('aria-busy', String(Boolean(state && !state.ended)));
    if (!state) return;
    this.element.dataset.cache = state.cache ?? '';
    const label = state.cache ?? (state.ended ? '' : 'asking…');
    if (badge.textContent !== label) badge.textContent = label; // it is read out when it is set
    badge.title = state.status;
    first.textContent = state.first === null ? '' : `first token ${duration(state.first)}`;
    whole.textContent = state.whole === null ? '' : `whole ${duration(state.whole)}`;
    saved.textContent = state.saved === null ? '' : `saved ${duration(state.saved)}`;
    const atEnd = said.scrollHeight - said.scrollTop - said.clientHeight < 40;
    said.textContent = state.text;
    if (atEnd) said.scrollTop = said.scrollHeight;
    note.textContent = [state.age === null ? '' : `From the cache, ${state.age} s old.`, state.note].join(' ').trim();
    problem.textContent = state.problem;
  }
}
