// The published client, unchanged but for its address: a stream that breaks off in the middle goes on where it was, and the
// same question again is answered from the cache.
import OpenAI from 'openai';

const client = new OpenAI({ baseURL: `http://${process.env.FORGEWIRE ?? 'localhost:8080'}/v1`, apiKey: process.env.FORGEWIRE_API_KEY });
const model = process.env.MODEL ?? 'imitation';
const input = process.argv[2] ?? 'Why is the sky blue?';

let text = '', id, last;
const collect = (event) => {
  id = event.response?.id ?? id;
  last = event.sequence_number;
  if (event.type === 'response.output_text.delta') text += event.delta;
  return event.type !== 'response.completed';
};

for await (const event of await client.responses.create({ model, input, stream: true })) {
  collect(event);
  if (text.length > 40) break; // the train enters a tunnel
}
console.log('cut at   ', text);

// On any replica, also from another process: the id and the last event's number are all that is needed.
for await (const event of await client.responses.retrieve(id, { stream: true, starting_after: last })) {
  if (!collect(event)) break;
}
console.log('whole    ', text);

const { data, response } = await client.responses.create({ model, input }).withResponse();
console.log('again    ', data.output_text === text ? 'the same' : 'another one', '-', response.headers.get('cache-status'));
