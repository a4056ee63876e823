// The pools of connections to the database, memory, and queues.
import { bytes, card, el, number, percent, table } from './dom.js';

export function resources() {
  const pools = table('Pools of connections to the database', ['Pool', '#In use', '#Idle', '#Ceiling', '#Waiting', '#Waited', '#Refused'], 'No figures yet.');
  const memory = table('Memory', ['Replica', '#Used', '#Limit', '#Share', 'Level', '#Refused'], 'No figures yet.');
  const queues = table('Queues', ['Replica', '#Publishes waiting', '#Notifications waiting', '#Presence to write', '#Slow clients'], 'No figures yet.');
  return {
    title: 'Database and memory',
    element: el('section', {}, card('Connections to the database, all replicas', pools.element), card('Memory', memory.element), card('Queues', queues.element)),
    figures(all) {
      pools.set(Object.entries(all.pools).sort().map(([name, p]) => [name, number(p.in_use), number(p.idle), number(p.ceiling), number(p.waiting), number(p.waited), number(p.refused + p.timed_out)]));
      memory.set(all.replicas.map((r) => [r.name, bytes(r.memory.used_bytes), r.memory.limit_bytes ? bytes(r.memory.limit_bytes) : 'none', r.memory.limit_bytes ? percent(r.memory.percent) : '–', r.memory.level, number(r.memory.refused)]));
      queues.set(all.replicas.map(({ name, realtime: { queues: q, connections: c } }) => [name, `${number(q.publisher_waiting)} of ${number(q.publisher_limit)}`,
        `${number(q.shard_events)} of ${number(q.shard_limit)}`, number(q.presence_dirty), number(c.slow_disconnects)]));
    },
  };
}
