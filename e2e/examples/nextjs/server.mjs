// Stands in for Next.js, so that the example runs without it: a route handler takes a Request and returns a Response.
import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import { Readable } from 'node:stream';
import * as token from './token.js';
import * as ask from './ask.js';

const forgewire = process.env.FORGEWIRE ?? 'localhost:8080';
const at = async (path, type) => new Response(await readFile(new URL(path, import.meta.url)), { headers: { 'Content-Type': type } });
const routes = {
  'GET /': () => at('index.html', 'text/html; charset=utf-8'),
  'GET /store.js': () => at('store.js', 'text/javascript'),
  'GET /centrifuge.js': () => at('../../node_modules/centrifuge/dist/centrifuge.js', 'text/javascript'),
  'GET /config.json': () => Response.json({ url: `ws://${forgewire}/connection/websocket`, user: 'ann' }),
  'GET /api/token': token.GET,
  'POST /api/ask': ask.POST,
};

createServer(async (incoming, outgoing) => {
  const left = new AbortController();
  outgoing.on('close', () => left.abort());
  const handler = routes[`${incoming.method} ${incoming.url}`] ?? (() => new Response('', { status: 404 }));
  const request = new Request(`http://localhost${incoming.url}`, { method: incoming.method, headers: incoming.headers, signal: left.signal,
    ...(incoming.method === 'POST' ? { body: Readable.toWeb(incoming), duplex: 'half' } : {}) });
  const response = await handler(request);
  outgoing.writeHead(response.status, Object.fromEntries(response.headers));
  if (!response.body) return outgoing.end();
  Readable.fromWeb(response.body).on('error', () => outgoing.destroy()).pipe(outgoing);
}).listen(process.env.WEB_PORT ?? 3000, 'localhost', function () {
  console.log(`http://localhost:${this.address().port}`);
});
