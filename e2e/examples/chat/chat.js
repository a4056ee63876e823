// A chat room: what was said before, what is said now, and what was said while this page was away.
'use strict';

const client = new Centrifuge(window.FORGEWIRE_WS);
const room = client.newSubscription('room:chat', { joinLeave: true });
const $ = (id) => document.getElementById(id);

function line(text, className) {
  const li = document.createElement('li');
  li.textContent = text; // never innerHTML: anybody may say anything
  li.className = className;
  $('messages').append(li);
}
const show = (publication) => line(publication.data.text, 'message');

async function count() {
  const { numUsers, numClients } = await room.presenceStats();
  $('here').value = Math.max(numUsers, numClients);
}

room.on('publication', show);
room.on('subscribed', async (context) => {
  $('state').value = 'connected';
  // After a cut, what was missed comes by itself, as publications. Only at the start, and where too much was missed, there is a
  // past to fetch: up to where the subscription began, so that nothing comes twice.
  if (!context.recovered) {
    const { publications } = await room.history({ limit: 50, reverse: true });
    $('messages').replaceChildren();
    publications.filter((p) => p.offset <= context.streamPosition.offset).reverse().forEach(show);
  }
  count();
});
room.on('subscribing', () => { $('state').value = 'away'; });
room.on('join', count);
room.on('leave', count);

$('say').addEventListener('submit', async (event) => {
  event.preventDefault();
  const input = event.target.elements.text;
  await room.publish({ text: input.value });
  input.value = '';
});

room.subscribe();
client.connect();
