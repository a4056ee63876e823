// Serves the page. Any web server would do: nothing here knows of messages.
import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';

const forgewire = process.env.FORGEWIRE ?? 'localhost:8080';
const at = (path) => readFile(new URL(path, import.meta.url));
const files = {
  '/': ['text/html', () => at('index.html')],
  '/chat.js': ['text/javascript', () => at('chat.js')],
  '/centrifuge.js': ['text/javascript', () => at('../../node_modules/centrifuge/dist/centrifuge.js')],
  '/config.js': ['text/javascript', () => `window.FORGEWIRE_WS = 'ws://${forgewire}/connection/websocket'`],
};

createServer(async (request, response) => {
  const [type, read] = files[request.url] ?? [];
  if (!read) return response.writeHead(404).end();
  response.writeHead(200, { 'Content-Type': `${type}; charset=utf-8` }).end(await read());
}).listen(process.env.WEB_PORT ?? 3000, 'localhost', function () {
  console.log(`http://localhost:${this.address().port}`);
});
