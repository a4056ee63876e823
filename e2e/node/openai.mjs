// The published SDK, unchanged, against a model or what stands in front of it. It is run by TestLLMNodeSDK, which
// gives it two addresses and the key in the environment, and prints what went wrong.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import OpenAI from 'openai'

const { A, B, API_KEY, FORGEWIRE } = process.env
const a = new OpenAI({ baseURL: A, apiKey: API_KEY, maxRetries: 0 })
const b = new OpenAI({ baseURL: B, apiKey: API_KEY, maxRetries: 0 })

const ask = (model, question, more = {}) => ({ model, messages: [{ role: 'user', content: question }], ...more })

// The answer to this question, every token once and in order. Returns its nonce.
function check(text, question, tokens = 10) {
  const words = text.split(/\s+/)
  assert.equal(words[0], 're:' + createHash('sha256').update(question).digest('hex').slice(0, 12), text)
  assert.deepEqual(words.slice(2), Array.from({ length: tokens - 1 }, (_, i) => String(i + 1)), text)
  return words[1]
}

const tools = [
  { type: 'function', function: { name: 'weather', parameters: { type: 'object', properties: { city: { type: 'string' } } } } },
]

const tests = {
  async 'chat'() {
    const out = await a.chat.completions.create(ask('m', 'node chat'))
    check(out.choices[0].message.content, 'node chat')
    assert.equal(out.usage.completion_tokens, 10)
  },

  async 'stream'() {
    let text = ''
    let usage
    const stream = await a.chat.completions.create(ask('m', 'node stream', { stream: true, stream_options: { include_usage: true } }))
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta?.content ?? ''
      usage = chunk.usage ?? usage
    }
    check(text, 'node stream')
    assert.equal(usage.completion_tokens, 10)
  },

  async 'stream helper'() {
    const runner = a.chat.completions.stream(ask('m', 'node helper'))
    check(await runner.finalContent(), 'node helper')
  },

  async 'tools'() {
    const out = await a.chat.completions.create(ask('m', 'node tools', { tools }))
    const call = out.choices[0].message.tool_calls[0]
    assert.equal(call.function.name, 'weather')
    JSON.parse(call.function.arguments)
    const runner = a.chat.completions.stream(ask('m', 'node tools', { tools }))
    const streamed = (await runner.finalMessage()).tool_calls[0]
    JSON.parse(streamed.function.arguments)
    assert.equal(streamed.function.name, 'weather')
    const messages = [{ role: 'user', content: 'node tools' }, out.choices[0].message, { role: 'tool', tool_call_id: call.id, content: 'sunny' }]
    const last = await a.chat.completions.create({ model: 'm', messages, tools })
    check(last.choices[0].message.content, 'sunny')
  },

  async 'JSON mode'() {
    const out = await a.chat.completions.create(ask('m', 'node json', { response_format: { type: 'json_object' } }))
    assert.equal(JSON.parse(out.choices[0].message.content).ok, true)
  },

  async 'responses'() {
    const out = await a.responses.create({ model: 'm', input: 'node responses' })
    check(out.output_text, 'node responses')
    const runner = a.responses.stream({ model: 'm', input: 'node responses' })
    check((await runner.finalResponse()).output_text, 'node responses')
  },

  async 'embeddings and models'() {
    const out = await a.embeddings.create({ model: 'm', input: ['one', 'two'] }) // base64 on the wire
    assert.equal(out.data.length, 2)
    assert.equal(out.data[1].embedding.length, 8)
    assert.ok((await a.models.list()).data.some((m) => m.id === 'm'))
  },

  async 'errors and retries'() {
    await assert.rejects(a.chat.completions.create(ask('nobody', 'node errors')), (e) => e instanceof OpenAI.NotFoundError && !!e.message)
    await assert.rejects(a.chat.completions.create(ask('refuses', 'node errors')), OpenAI.BadRequestError)
    await assert.rejects(a.chat.completions.create(ask('broken', 'node errors')), OpenAI.InternalServerError)
    const out = await a.chat.completions.create(ask('busy', 'node retries'), { maxRetries: 3 })
    check(out.choices[0].message.content, 'node retries')
    await assert.rejects(async () => {
      const stream = await a.chat.completions.create(ask('breaks', 'node breaks', { stream: true }))
      for await (const _ of stream);
    }, 'an answer that breaks was taken for a whole one')
    const stranger = new OpenAI({ baseURL: A, apiKey: 'wrong-key-0123456789', maxRetries: 0 })
    await assert.rejects(stranger.chat.completions.create(ask('m', 'node key')), OpenAI.AuthenticationError)
  },

  async 'abort'() {
    const stream = await a.chat.completions.create(ask('slow', 'node abort', { stream: true }))
    let n = 0
    for await (const _ of stream) if (++n === 3) stream.controller.abort()
    assert.ok(n < 20, `${n} events came`)
  },
}

const behindForgewire = {
  async 'replay is the first answer'() {
    const first = await a.chat.completions.create(ask('m', 'node replay', { tools, tool_choice: 'none' })).withResponse()
    const again = await a.chat.completions.create(ask('m', 'node replay', { tools, tool_choice: 'none' })).withResponse()
    assert.deepEqual(again.data, first.data)
    assert.match(again.response.headers.get('cache-status'), /hit/)
    check(await a.chat.completions.stream(ask('m', 'node replay', { tools, tool_choice: 'none' })).finalContent(), 'node replay')
  },

  async 'resume on the other replica'() {
    let text = ''
    let id
    let at
    const stream = await a.responses.create({ model: 'paced', input: 'node resume', stream: true })
    for await (const e of stream) {
      id = e.response?.id ?? id
      at = e.sequence_number
      if (e.type === 'response.output_text.delta') text += e.delta
      if (at === 12) break
    }
    const rest = await b.responses.retrieve(id, { stream: true, starting_after: at })
    for await (const e of rest) {
      assert.equal(e.sequence_number, ++at)
      if (e.type === 'response.output_text.delta') text += e.delta
    }
    check(text, 'node resume', 40)
  },
}

for (const [name, test] of Object.entries({ ...tests, ...(FORGEWIRE ? behindForgewire : {}) })) {
  try {
    await test()
    console.log(`ok   ${name}`)
  } catch (e) {
    process.exitCode = 1
    console.log(`FAIL ${name}\n${e.stack}`)
  }
}
