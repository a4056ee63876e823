// The pad: where the pointer is, told to everybody through an ephemeral channel. It rides in NOTIFY alone, so
// nothing of it is written, and who is away misses it.

const channel = 'cursor:1';
const every = 40; // ms between two publishes
const fade = 3000; // ms after which a pointer that does not move is gone
const step = 0.04; // of the pad, for one press of an arrow key

const arrows = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };

export class Pad {
  #element;
  #replica;
  #client;
  #subscription;
  #ours = null; // the connection's id: what comes back from it is not shown
  #at = { x: 0.5, y: 0.5 };
  #timer = null;
  #others = new Map(); // by client: { dot, timer }

  constructor(element, replica, client) {
    this.#element = element;
    this.#replica = replica;
    this.#client = client;
    client.on('connected', (context) => { this.#ours = context.client; });
    this.#subscription = client.newSubscription(channel);
    this.#subscription.on('publication', ({ data, info }) => this.#show(data, info?.client));
    this.#subscription.subscribe();
    element.addEventListener('pointermove', (event) => {
      const box = element.getBoundingClientRect();
      this.#move((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    });
    element.addEventListener('keydown', (event) => {
      const by = arrows[event.key];
      if (!by) return;
      event.preventDefault();
      this.#move(this.#at.x + by[0], this.#at.y + by[1]);
    });
  }

  #move(x, y) {
    const inside = (v) => Math.min(1, Math.max(0, v));
    this.#at = { x: inside(x), y: inside(y) };
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      if (this.#client.state !== 'connected') return;
      // One that is lost is followed by the next.
      this.#subscription.publish({ ...this.#at, from: this.#replica.toUpperCase() }).catch(() => {});
    }, every);
  }

  #show({ x, y, from }, client) {
    if (!client || typeof x !== 'number' || typeof y !== 'number' || client === this.#ours) return;
    let other = this.#others.get(client);
    if (!other) {
      other = { dot: document.createElement('span') };
      other.dot.className = 'pointer';
      this.#element.append(other.dot);
      this.#others.set(client, other);
    }
    other.dot.dataset.from = String(from).slice(0, 8);
    // The policy allows no style attributes; the object model is not one.
    other.dot.style.setProperty('left', `${x * 100}%`);
    other.dot.style.setProperty('top', `${y * 100}%`);
    clearTimeout(other.timer);
    other.timer = setTimeout(() => {
      other.dot.remove();
      this.#others.delete(client);
    }, fade);
  }
}
