// The page: two panes on two replicas, whether they agree, the prompt box, and the lines to try.
import { Pane } from './pane.js';
import { startPrompt } from './prompt.js';

const panes = ['a', 'b'].map((replica) => new Pane(replica, showAgreement));
document.getElementById('panes').append(...panes.map((p) => p.element));
for (const pane of panes) pane.connect();

showLines();
for (const button of document.querySelectorAll('[data-copies]')) {
  button.addEventListener('click', () => copy(button));
}

// showAgreement compares what both panes saw of the part of the log that both could see.
function showAgreement() {
  const [a, b] = panes;
  const label = document.getElementById('agreement');
  if (a.start === null || b.start === null) {
    return say('waiting', 'Connecting…');
  }
  if (!a.live || !b.live) {
    return say('waiting', 'One pane is away. It will catch up.');
  }
  const start = Math.max(a.start, b.start);
  const end = Math.min(a.last, b.last);
  const seen = (pane) => pane.offsets.filter((o) => o > start && o <= end);
  const [left, right] = [seen(a), seen(b)];
  if (left.length !== right.length || left.some((o, i) => o !== right[i])) {
    return say('differ', 'The panes differ');
  }
  if (left.length === 0) {
    return say('same', 'Both replicas are connected');
  }
  say('same', left.length === 1 ? '1 message, on both' : `${left.length} messages, in the same order on both`);

  function say(state, text) {
    label.dataset.state = state;
    label.textContent = text;
  }
}

async function showLines() {
  const lines = { psql: 'not available', curl: 'not available', key: '', model: '' };
  try {
    const response = await fetch('/demo/config.json');
    if (response.ok) Object.assign(lines, await response.json());
  } catch {
    // The panes say already that the server is away.
  }
  for (const id of ['psql', 'curl']) document.getElementById(id).textContent = lines[id];
  startPrompt(lines);
}

async function copy(button) {
  const source = document.getElementById(button.dataset.copies);
  const status = document.getElementById('copied');
  try {
    await navigator.clipboard.writeText(source.textContent);
    status.textContent = 'Copied.';
    button.textContent = 'Copied';
  } catch {
    // Not allowed, or not on a secure page: leave it selected, so that the keyboard copies it.
    getSelection().selectAllChildren(source);
    status.textContent = 'Selected: press Ctrl-C to copy.';
    button.textContent = 'Selected';
  }
  setTimeout(() => {
    button.textContent = 'Copy';
    status.textContent = '';
  }, 2000);
}
