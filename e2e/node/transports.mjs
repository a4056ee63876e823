// The published JavaScript client over each of its transports: connects to replica A, sends its commands to
// replica B where they travel apart, and must see every message once and in order over a reconnect.
// A and B are the replicas' URLs. Prints "ok   NAME" for each, or throws.
import assert from 'node:assert/strict'
import WebSocket from 'ws'
import { Centrifuge } from 'centrifuge'
import { Centrifuge as ProtobufCentrifuge } from 'centrifuge/build/protobuf'
import { EventSource } from './eventsource.mjs'

const { A, B } = process.env
const options = {
  websocket: WebSocket,
  eventsource: EventSource,
  emulationEndpoint: `${B}/emulation`,
  minReconnectDelay: 10,
  maxReconnectDelay: 100,
}
const bytes = (v) => new TextEncoder().encode(JSON.stringify(v))
const plain = (v) => (v instanceof Uint8Array ? JSON.parse(new TextDecoder().decode(v)) : v)

const until = async (what, ok) => {
  const deadline = Date.now() + 20_000
  while (!ok()) {
    if (Date.now() > deadline) throw new Error(`${what}: not within 20 s`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

const publisher = new Centrifuge(`${B.replace('http', 'ws')}/connection/websocket`, { websocket: WebSocket })
publisher.connect()
await publisher.ready(10_000)

async function follow(name, Client, transport, endpoint, wrap) {
  const client = new Client([{ transport, endpoint }], options)
  const channel = `open:${name.replaceAll(' ', '-')}`
  const sub = client.newSubscription(channel)
  const got = []
  const subscribed = []
  sub.on('publication', (ctx) => got.push(plain(ctx.data).n))
  sub.on('subscribed', (ctx) => subscribed.push(ctx))
  sub.on('error', (ctx) => { throw new Error(`${name}: ${JSON.stringify(ctx)}`); })
  sub.subscribe()
  client.connect()
  await sub.ready(10_000)
  await client.publish(channel, wrap({ n: 0 }))
  for (let n = 1; n < 20; n++) await publisher.publish(channel, { n })
  await until(`${name}: messages`, () => got.length >= 20)

  client.disconnect()
  for (let n = 20; n < 40; n++) await publisher.publish(channel, { n })
  client.connect()
  await until(`${name}: recovery`, () => got.length >= 40)
  assert.deepEqual(got, Array.from({ length: 40 }, (_, n) => n))
  assert.equal(subscribed.at(-1).recovered, true)

  const history = await sub.history({ limit: 100 })
  assert.deepEqual(history.publications.map((p) => plain(p.data).n), got)
  await assert.rejects(client.rpc('none', wrap({})), (e) => e.code === 108 || e.code === 104)
  sub.unsubscribe()
  await publisher.publish(channel, { n: 99 })
  sub.subscribe()
  await sub.ready(10_000)
  client.disconnect()
  console.log(`ok   ${name}`)
}

const ws = `${A.replace('http', 'ws')}/connection/websocket`
await follow('websocket', Centrifuge, 'websocket', ws, (v) => v)
await follow('websocket protobuf', ProtobufCentrifuge, 'websocket', ws, bytes)
await follow('http_stream', Centrifuge, 'http_stream', `${A}/connection/http_stream`, (v) => v)
await follow('http_stream protobuf', ProtobufCentrifuge, 'http_stream', `${A}/connection/http_stream`, bytes)
await follow('sse', Centrifuge, 'sse', `${A}/connection/sse`, (v) => v)

// Plain events, read and taken up again where they stopped.
async function events() {
  const url = `${A}/v1/channels/${encodeURIComponent('open:events')}/events`
  const got = []
  let source = new EventSource(url)
  source.onmessage = (e) => got.push(JSON.parse(e.data).n)
  await until('events: open', () => source.lastEventId !== '')
  for (let n = 0; n < 10; n++) await publisher.publish('open:events', { n })
  await until('events: messages', () => got.length >= 10)
  source.close()
  for (let n = 10; n < 20; n++) await publisher.publish('open:events', { n })
  source = new EventSource(url.replace(A, B), { headers: { 'Last-Event-ID': source.lastEventId } })
  source.onmessage = (e) => got.push(JSON.parse(e.data).n)
  await until('events: recovery', () => got.length >= 20)
  source.close()
  assert.deepEqual(got, Array.from({ length: 20 }, (_, n) => n))
  console.log('ok   events')
}
await events()
publisher.disconnect()
