// app/api/ask/route.js: asks the model, and passes its stream on as it comes. The key stays on the server; an answer that
// somebody has asked for before comes from the cache, with the same events.
const forgewire = process.env.FORGEWIRE ?? 'localhost:8080';

export async function POST(request) {
  const { question } = await request.json();
  const answer = await fetch(`http://${forgewire}/v1/chat/completions`, {
    method: 'POST',
    headers: { Authorization: `Bearer ${process.env.FORGEWIRE_API_KEY}`, 'Content-Type': 'application/json' },
    body: JSON.stringify({ model: process.env.MODEL ?? 'imitation', stream: true, messages: [{ role: 'user', content: String(question) }] }),
    signal: request.signal,
  });
  return new Response(answer.body, { status: answer.status, headers: {
    'Content-Type': answer.headers.get('content-type'), 'Cache-Control': 'no-store', 'Cache-Status': answer.headers.get('cache-status') ?? '',
  } });
}
