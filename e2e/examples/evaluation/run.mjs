// A prompt with two versions, a data set, and an evaluation of each version: which one is better?
const base = `http://${process.env.FORGEWIRE ?? 'localhost:8080'}/v1`;
const model = process.env.MODEL ?? 'imitation';

async function call(method, path, body, type = 'application/json') {
  const response = await fetch(base + path, {
    method, body: body === undefined ? undefined : typeof body === 'string' ? body : JSON.stringify(body),
    headers: { Authorization: `Bearer ${process.env.FORGEWIRE_API_KEY}`, ...(body === undefined ? {} : { 'Content-Type': type }) },
  });
  const text = await response.text();
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
  return response.headers.get('content-type')?.includes('ndjson') ? text.trim().split('\n').map((line) => JSON.parse(line)) : text && JSON.parse(text);
}

const name = `example-${Date.now()}`;
const prompt = await call('POST', '/prompts', { name, template: 'Classify: {{text}}' });
const second = await call('POST', `/prompts/${prompt.id}/versions`, { template: 'Classify, in one word: {{text}}' });

const dataset = await call('POST', '/datasets', { name });
const cases = ['good', 'bad', 'so so'].map((text) => JSON.stringify({ variables: { text }, expected: text }));
await call('POST', `/datasets/${dataset.id}/cases`, cases.join('\n'), 'application/x-ndjson');

const evaluations = [];
for (const version of [prompt.version, second.version]) {
  evaluations.push(await call('POST', '/evaluations', {
    prompt_id: prompt.id, prompt_version: version, dataset_id: dataset.id, model, scoring: { type: 'regex', pattern: '^re:[0-9a-f]{12} ' },
  }));
}
for (const { id } of evaluations) {
  let now;
  do {
    await new Promise((resolve) => setTimeout(resolve, 200)); // or subscribe to $evaluations:TENANT
    now = await call('GET', `/evaluations/${id}`);
  } while (now.status === 'queued' || now.status === 'running');
  const results = await call('GET', `/evaluations/${id}/results`);
  console.log(`version ${now.prompt_version}: ${now.status}, ${results.filter((r) => r.score === 1).length} of ${results.length} right`);
}
