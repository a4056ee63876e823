// An answer of /v1 as it comes: the events of a response, and what its headers say of the cache.

// events yields { id, data } for each server-sent event. id is the number that the answer can be resumed after.
export async function* events(response) {
  let id = null;
  let data = [];
  for await (const line of lines(response)) {
    if (line === '') {
      if (data.length > 0) yield { id, data: data.join('\n') };
      data = [];
    } else if (line.startsWith('data:')) {
      data.push(line.slice(5).trimStart());
    } else if (line.startsWith('id:')) {
      id = Number(line.slice(3));
    }
  }
}

async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return; // a line that has no end is half of one
    const parts = (rest + value).split('\n');
    rest = parts.pop();
    yield* parts;
  }
}

// outcome is what Cache-Status (RFC 9211) says, in one word.
export function outcome(status) {
  if (/;\s*hit\b/.test(status)) return 'hit';
  if (/;\s*collapsed\b/.test(status)) return 'joined';
  return /fwd=bypass/.test(status) ? 'bypass' : 'miss';
}

// problemOf reads an error as OpenAI has it.
export async function problemOf(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error.message;
  } catch {
    return text.slice(0, 300) || `status ${response.status}`;
  }
}
