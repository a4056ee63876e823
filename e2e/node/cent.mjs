// A published SDK of Centrifugo's server API, unchanged, against a cluster: what it does on one replica holds
// for clients of the other.
import cent from 'cent.js';
import { Centrifuge } from 'centrifuge';
import WebSocket from 'ws';

const api = new cent.CentClient({ url: `http://${process.env.A}/api`, apiKey: process.env.API_KEY });
const channel = 'here:1';

const client = new Centrifuge(`ws://${process.env.B}/connection/websocket`, { websocket: WebSocket, token: process.env.TOKEN });
const subscription = client.newSubscription(channel);
const got = [];
const events = [];
subscription.on('publication', ({ data }) => got.push(data.n));
subscription.on('unsubscribed', ({ code }) => events.push(`unsubscribed ${code}`));
client.on('publication', ({ channel: c, data }) => got.push(`${c} ${data.n}`));
client.on('subscribed', ({ channel: c }) => events.push(`server subscribed ${c}`));
client.on('disconnected', ({ code }) => events.push(`disconnected ${code}`));

const until = async (what, ok) => {
  for (const end = Date.now() + 15000; !(await ok());) {
    if (Date.now() > end) throw new Error(`${what}: got ${JSON.stringify(got)}, events ${JSON.stringify(events)}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  console.log(`ok   ${what}`);
};

const refused = (call) => call.then(() => null, (error) => error);

try {
  subscription.subscribe();
  client.connect();
  await subscription.ready(10000);
  await api.publish({ channel, data: { n: 1 } });
  await api.broadcast({ channels: [channel, 'other'], data: { n: 2 } });
  await until('publish and broadcast arrive', () => got.join() === '1,2');
  await until('presence', async () => Object.values((await api.getPresence({ channel })).presence)[0]?.user === 'ann');
  await until('presence_stats', async () => (await api.getPresenceStats({ channel })).num_users === 1);
  await until('history', async () => (await api.getHistory({ channel, limit: 10 })).publications.length === 2);
  await api.removeHistory({ channel });
  await until('history_remove', async () => (await api.getHistory({ channel, limit: 10 })).publications.length === 0);
  await until('channels', async () => (await api.getChannels()).channels[channel]?.num_clients === 1);
  await until('info', async () => (await api.getInfo()).nodes.length >= 1);
  await api.subscribe({ user: 'ann', channel: 'server:1' });
  await until('subscribe', () => events.includes('server subscribed server:1'));
  await api.publish({ channel: 'server:1', data: { n: 3 } });
  await until('what is published there arrives', () => got.includes('server:1 3'));
  await api.unsubscribe({ user: 'ann', channel });
  await until('unsubscribe', () => events.includes('unsubscribed 2000'));
  const wrong = await refused(api.publish({ channel: '', data: {} }));
  await until('an error is thrown', () => wrong instanceof Error);
  await api.disconnect({ user: 'ann' });
  await until('disconnect', () => events.includes('disconnected 3503'));
  process.exit(0);
} catch (e) {
  console.error(e);
  process.exit(1);
}
