// The published client, unchanged, against a running cluster. It is run by TestNodeClient, which gives it the
// replicas' addresses and tokens in the environment, and prints what went wrong.
import assert from 'node:assert/strict'
import { Centrifuge } from 'centrifuge'
import WebSocket from 'ws'

const { A, B, API_KEY, TOKEN, EXPIRED } = process.env
const url = (address) => `ws://${address}/connection/websocket`
const clients = []

function connectTo(address, options = {}) {
  // The last socket is kept so that a test can cut it.
  const client = new Centrifuge(url(address), {
    websocket: class extends WebSocket {
      constructor(...args) {
        super(...args)
        client.socket = this
      }
    },
    minReconnectDelay: 20,
    maxReconnectDelay: 200,
    ...options,
  })
  clients.push(client)
  return client
}

function once(emitter, event, within = 10_000) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no ${event} within ${within} ms`)), within)
    emitter.once(event, (context) => {
      clearTimeout(timer)
      resolve(context)
    })
  })
}

async function publish(address, channel, data) {
  const response = await fetch(`http://${address}/api/publish`, {
    method: 'POST',
    headers: { 'X-API-Key': API_KEY, 'Content-Type': 'application/json' },
    body: JSON.stringify({ channel, data }),
  })
  const body = await response.json()
  assert.ok(body.result, JSON.stringify(body))
  return body.result
}

// Everything that a subscription is told, in order.
function record(subscription) {
  const seen = []
  subscription.on('publication', (p) => seen.push(p))
  return seen
}

async function until(condition, what, within = 10_000) {
  const end = Date.now() + within
  while (!condition()) {
    assert.ok(Date.now() < end, `${what} did not happen within ${within} ms`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

const tests = {
  async 'anonymous: subscribe, publish, history'() {
    const a = connectTo(A)
    a.connect()
    const connected = await once(a, 'connected')
    assert.ok(connected.client)
    const subscription = a.newSubscription('chat:node')
    const seen = record(subscription)
    subscription.subscribe()
    const subscribed = await once(subscription, 'subscribed')
    assert.equal(subscribed.recoverable, true)
    assert.ok(subscribed.streamPosition.epoch)
    assert.ok(Number.isSafeInteger(subscribed.streamPosition.offset))

    const there = await publish(B, 'chat:node', { text: 'from the other replica ✓' })
    await subscription.publish({ text: 'from the client' })
    await until(() => seen.length === 2, 'both messages')
    assert.equal(seen[0].data.text, 'from the other replica ✓')
    assert.equal(seen[0].offset, there.offset)
    assert.equal(seen[1].data.text, 'from the client')
    assert.equal(seen[1].info.client, connected.client)

    const history = await subscription.history({ limit: 10 })
    assert.deepEqual(history.publications.map((p) => p.offset), seen.map((p) => p.offset))
    const newest = await subscription.history({ limit: 1, reverse: true })
    assert.equal(newest.publications[0].offset, seen[1].offset)
    const later = await subscription.history({ limit: 10, since: { offset: seen[0].offset, epoch: subscribed.streamPosition.epoch } })
    assert.deepEqual(later.publications.map((p) => p.data.text), ['from the client'])
    await assert.rejects(a.publish('room:node', {}), { code: 103 })
    await assert.rejects(a.rpc('nothing', {}), { code: 108 })

    subscription.unsubscribe()
    await publish(A, 'chat:node', { text: 'unheard' })
    subscription.subscribe()
    await once(subscription, 'subscribed')
    await publish(A, 'chat:node', { text: 'heard' })
    await until(() => seen.at(-1).data.text === 'heard', 'the last message')
  },

  async 'token: who publishes is named'() {
    const a = connectTo(A, { token: TOKEN })
    const b = connectTo(B)
    const mine = a.newSubscription('dm#ann')
    const [seenA, seenB] = [a, b].map((client) => {
      const subscription = client.newSubscription('chat:named')
      const seen = record(subscription)
      subscription.subscribe()
      client.connect()
      return seen
    })
    mine.subscribe()
    await once(mine, 'subscribed')
    await Promise.all([a, b].map((client) => client.ready(10_000)))
    await Promise.all([a, b].map((client) => client.getSubscription('chat:named').ready(10_000)))
    await a.publish('chat:named', { hello: 'world' })
    await until(() => seenA.length === 1 && seenB.length === 1, 'the message')
    assert.equal(seenB[0].info.user, 'ann')
    const refused = b.newSubscription('dm#ann')
    refused.subscribe()
    assert.equal((await once(refused, 'unsubscribed')).code, 103)
  },

  async 'expired token: the client gets a new one'() {
    let asked = 0
    const client = connectTo(A, { token: EXPIRED, getToken: async () => { asked++; return TOKEN } })
    client.connect()
    await once(client, 'connected')
    assert.equal(asked, 1)
  },

  async 'wrong token: disconnected for good'() {
    const client = connectTo(A, { token: 'nonsense' })
    client.connect()
    assert.equal((await once(client, 'disconnected')).code, 3500)
  },

  async 'cut and resumed, nothing lost'() {
    const client = connectTo(A)
    const subscription = client.newSubscription('chat:cut')
    const seen = record(subscription)
    subscription.subscribe()
    client.connect()
    await once(subscription, 'subscribed')
    const sent = []
    for (let round = 0; round < 5; round++) {
      const back = once(subscription, 'subscribed')
      client.socket.terminate()
      for (let i = 0; i < 20; i++) {
        sent.push((await publish(i % 2 ? A : B, 'chat:cut', { round, i })).offset)
      }
      const context = await back
      assert.equal(context.wasRecovering, true)
      assert.equal(context.recovered, true)
    }
    await until(() => seen.length >= sent.length, 'all messages')
    assert.deepEqual(seen.map((p) => p.offset), sent)
  },
}

let failed = 0
for (const [name, test] of Object.entries(tests)) {
  try {
    await test()
    console.log(`ok   ${name}`)
  } catch (error) {
    failed++
    console.log(`FAIL ${name}\n${error.stack}`)
  }
  for (const client of clients.splice(0)) client.disconnect()
}
process.exit(failed ? 1 : 0)
