// The connection: figures every two seconds, and channels that are tailed.
import { ask } from './dom.js';

export class Live {
  #client = null;
  #heard = { figures: [], state: [], version: [] };
  #last = null;

  onFigures(f) { this.#heard.figures.push(f); }
  onState(f) { this.#heard.state.push(f); }
  onVersion(f) { this.#heard.version.push(f); }

  async connect() {
    let session;
    try {
      session = await ask('session');
    } catch {
      this.#tell('state', 'away', 'Reconnecting…');
      setTimeout(() => this.connect(), 2000);
      return;
    }
    this.#tell('version', session.version);
    setTimeout(() => location.reload(), Math.max(1000, new Date(session.expires) - Date.now())); // to the login
    const url = new URL('/connection/websocket', location.href);
    url.protocol = url.protocol.replace('http', 'ws');
    this.#client = new Centrifuge(url.href, { token: session.token, getToken: async () => (await ask('session')).token });
    this.#client.on('connected', () => this.#tell('state', 'up', 'Live'));
    this.#client.on('connecting', () => { this.#last = null; this.#tell('state', 'away', 'Reconnecting…'); });
    this.#client.on('disconnected', ({ reason }) => this.#tell('state', 'down', `Disconnected: ${reason}`));
    this.#client.newSubscription(session.channel).on('publication', ({ data }) => this.#receive(data)).subscribe();
    this.#client.connect();
  }

  // tail subscribes to a channel; heard gets its publications. It returns what ends it.
  tail(channel, heard, failed) {
    if (!this.#client) throw new Error('Not connected yet: try again in a moment.');
    const s = this.#client.newSubscription(channel);
    s.on('publication', heard);
    s.on('error', ({ error }) => failed(error.message));
    s.on('unsubscribed', ({ code, reason }) => { if (code) failed(reason); });
    s.subscribe();
    return () => { s.unsubscribe(); this.#client.removeSubscription(s); };
  }

  #receive(data) {
    const all = data.cluster;
    all.at = new Date(data.at);
    all.mine = data.replica;
    const rates = this.#last ? compare(this.#last, all) : null;
    this.#last = all;
    this.#tell('figures', all, rates);
  }

  #tell(what, ...values) { for (const f of this.#heard[what]) f(...values); }
}

// compare says what happened between two figures, a second. A replica that is new, or began anew, counts from 0.
function compare(before, now) {
  const seconds = (now.at - before.at) / 1000 || 1;
  const was = new Map(before.replicas.map((r) => [r.id, r]));
  const sums = { published: 0, received: 0, sent: 0, requests: Math.max(0, now.http.count - before.http.count) / seconds };
  const lag = new Map();
  for (const r of now.replicas) {
    const old = was.get(r.id)?.realtime;
    if (!old) continue;
    for (const name of ['published', 'received', 'sent']) sums[name] += Math.max(0, r.realtime.messages[name] - old.messages[name]) / seconds;
    addHistogram(lag, old.listener.lag_seconds, r.realtime.listener.lag_seconds);
  }
  return { ...sums, lag: (q) => percentile(lag, q) };
}

function addHistogram(sum, before, now) {
  const buckets = [...now.buckets, { upper: Infinity, count: now.count }];
  const old = [...before.buckets, { count: before.count }];
  buckets.forEach((b, i) => sum.set(b.upper, (sum.get(b.upper) ?? 0) + b.count - (old[i]?.count ?? 0)));
}

// percentile is the upper end, in milliseconds, of the bucket that the q-th share falls into; null if there was nothing.
function percentile(histogram, q) {
  const all = [...histogram.entries()];
  const total = all.at(-1)?.[1] ?? 0;
  if (total === 0) return null;
  const found = all.find(([, count]) => count >= q * total);
  const upper = found[0] === Infinity ? all.at(-2)[0] * 2 : found[0];
  return upper * 1000;
}
