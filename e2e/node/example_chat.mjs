// The chat example in a real Chromium: two people, one of whom goes away and comes back.
import assert from 'node:assert/strict';
import { close, fail, open, until } from './browser.mjs';

const state = (page) => page.locator('#state').innerText();
const lines = (page) => page.locator('#messages .message').allInnerTexts();
const say = async (page, text) => {
  await page.locator('#say input').fill(text);
  await page.locator('#say input').press('Enter');
};
const shows = (page, ...texts) => async () => JSON.stringify(await lines(page)) === JSON.stringify(texts);

try {
  const [ann, bob] = [await open(), await open()];
  await until('both are connected', async () => (await state(ann)) === 'connected' && (await state(bob)) === 'connected');
  await until('both know that two are here', async () => (await ann.locator('#here').innerText()) === '2');
  await say(ann, '<b>hello</b>');
  await until('what one says, the other reads, as text', shows(bob, '<b>hello</b>'));
  await bob.evaluate('client.disconnect()');
  for (const [n, text] of ['one', 'two', 'three'].entries()) {
    await say(ann, text);
    await ann.locator('#messages .message').nth(n + 1).waitFor();
  }
  assert.deepEqual(await lines(bob), ['<b>hello</b>']);
  await bob.evaluate('client.connect()');
  await until('who comes back reads what was missed, once and in order', shows(bob, '<b>hello</b>', 'one', 'two', 'three'));
  await bob.reload();
  await until('a new page reads what was said before', shows(bob, '<b>hello</b>', 'one', 'two', 'three'));
  await say(bob, 'four');
  await until('and goes on', async () => (await shows(ann, '<b>hello</b>', 'one', 'two', 'three', 'four')()) && (await shows(bob, '<b>hello</b>', 'one', 'two', 'three', 'four')()));
} catch (e) {
  fail(e.stack);
} finally {
  await close();
}
