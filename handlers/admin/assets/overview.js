// What all replicas do now.
import { card, el, ms, number, percent, rate, table, tile } from './dom.js';
import { Chart } from './chart.js';

export function overview() {
  const tiles = { replicas: tile('Replicas'), connections: tile('Connections'), messages: tile('Messages a second'), lag: tile('Publish to deliver'), hits: tile('Cache hit rate'), requests: tile('Requests a second') };
  const charts = {
    connections: new Chart('Connections', ['open', 'subscriptions'], number),
    messages: new Chart('Messages a second', ['published', 'delivered'], rate),
    lag: new Chart('From publish to replica', ['p50', 'p95', 'p99'], ms),
    latency: new Chart('HTTP requests', ['p50', 'p95', 'p99'], ms),
  };
  const replicas = table('Replicas', ['Name', '#Connections', '#Channels', '#Sent', '#Memory', 'Database', 'Version'], 'No replica has answered yet.');
  return {
    title: 'Overview',
    element: el('section', {},
      el('dl', { class: 'tiles' }, ...Object.values(tiles).map((t) => t.element)),
      el('div', { class: 'grid' }, ...Object.values(charts).map((c) => c.element)),
      card('Replicas', replicas.element)),
    figures(all, rates) {
      const sum = (f) => all.replicas.reduce((n, r) => n + f(r.realtime), 0);
      const connections = sum((r) => r.connections.total);
      tiles.replicas.set(number(all.replicas.length));
      tiles.connections.set(number(connections), `of ${number(sum((r) => r.connections.limit))}`);
      charts.connections.add(connections, sum((r) => r.connections.subscriptions));
      charts.latency.add(all.latency.p50_ms, all.latency.p95_ms, all.latency.p99_ms);
      tiles.hits.set(hitRate(all), all.models ? 'of models' : 'of the cache');
      if (rates) {
        tiles.messages.set(rate(rates.published), `${rate(rates.sent)} delivered`);
        tiles.requests.set(rate(rates.requests), `p95 ${ms(all.latency.p95_ms)}`);
        charts.messages.add(rates.published, rates.sent);
        const lag = [0.5, 0.95, 0.99].map(rates.lag);
        if (lag[0] !== null) tiles.lag.set(`≤ ${ms(lag[0])}`, `p99 ≤ ${ms(lag[2])}`);
        charts.lag.add(...lag);
      }
      replicas.set(all.replicas.map((r) => [r.id === all.mine ? `${r.name} (this one)` : r.name, number(r.realtime.connections.total), number(r.realtime.connections.channels),
        number(r.realtime.messages.sent), r.memory.limit_bytes ? percent(r.memory.percent) : '–', r.realtime.listener.connected ? 'connected' : 'away', r.version]));
    },
  };
}

function hitRate(all) {
  if (all.models?.total.requests) return percent(all.models.total.hit_rate);
  const c = all.cache;
  const looked = c ? c.local_hits + c.remote_hits + c.misses : 0;
  return looked ? percent((100 * (c.local_hits + c.remote_hits)) / looked) : '–';
}
