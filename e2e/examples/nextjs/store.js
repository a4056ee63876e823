// In the browser: a channel as a store that React can subscribe to.
//
//   const store = channelStore(client, 'inbox#ann');              // once, outside of the component
//   const messages = useSyncExternalStore(store.subscribe, store.getSnapshot, store.getSnapshot);
//
// The channel is subscribed to while a component shows it, and stays where it was in between, so that nothing is missed.

// connect makes the page's one connection; getToken is called again whenever a token ends.
export function connect(Centrifuge, url, fetchToken) {
  const client = new Centrifuge(url, { getToken: fetchToken });
  client.connect();
  return client;
}

export function channelStore(client, channel, keep = 100) {
  const subscription = client.newSubscription(channel);
  const watchers = new Set();
  let messages = []; // a new array for each change: React compares

  const change = (next) => {
    messages = next.slice(-keep);
    watchers.forEach((watcher) => watcher());
  };
  subscription.on('publication', (p) => change([...messages, p.data]));
  subscription.on('subscribed', (c) => { if (c.wasRecovering && !c.recovered) change([]); }); // load your state anew here

  return {
    getSnapshot: () => messages,
    subscribe(watcher) {
      watchers.add(watcher);
      subscription.subscribe();
      return () => {
        watchers.delete(watcher);
        if (watchers.size === 0) subscription.unsubscribe();
      };
    },
  };
}

// ask yields an answer's text as the model says it.
export async function* ask(question, signal) {
  const response = await fetch('/api/ask', { method: 'POST', body: JSON.stringify({ question }), signal });
  if (!response.ok) throw new Error(`the model answered ${response.status}`);
  let rest = '';
  for (const reader = response.body.pipeThrough(new TextDecoderStream()).getReader(); ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split('\n');
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith('data: ') || line === 'data: [DONE]') continue;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new Error(event.error.message);
      yield event.choices[0]?.delta?.content ?? '';
    }
  }
}
