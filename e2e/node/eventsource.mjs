// Node has no EventSource of its own yet: this one does what the standard says of parsing, and nothing about
// coming back, which the tests do themselves.
export class EventSource {
  constructor(url, { headers = {} } = {}) {
    this.abort = new AbortController()
    this.lastEventId = ''
    this.run(url, headers).catch(() => {}).finally(() => {
      if (!this.abort.signal.aborted) this.onerror?.(new Event('error'))
    })
  }

  async run(url, headers) {
    const response = await fetch(url, { headers: { Accept: 'text/event-stream', ...headers }, signal: this.abort.signal })
    if (response.status !== 200 || !response.headers.get('content-type').startsWith('text/event-stream')) return
    this.onopen?.(new Event('open'))
    let rest = ''
    for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
      const blocks = (rest + text).split(/\r?\n\r?\n/)
      rest = blocks.pop()
      for (const block of blocks) this.dispatch(block)
    }
  }

  dispatch(block) {
    const data = []
    let type = 'message'
    for (const line of block.split(/\r?\n/)) {
      const [, field, value] = /^([^:]*):? ?(.*)$/.exec(line)
      if (field === 'data') data.push(value)
      if (field === 'event') type = value
      if (field === 'id') this.lastEventId = value
    }
    if (data.length === 0) return
    const event = { type, data: data.join('\n'), lastEventId: this.lastEventId }
    if (type === 'message') this.onmessage?.(event)
    else this.onevent?.(event)
  }

  close() {
    this.abort.abort()
  }
}
