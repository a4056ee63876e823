// The Next.js example in a real Chromium: a token from the route handler, a store that follows, a stream that is passed on.
import { close, fail, open, until } from './browser.mjs';

const publish = (text) => fetch(process.env.API, {
  method: 'POST', headers: { 'X-API-Key': process.env.API_KEY },
  body: JSON.stringify({ channel: 'inbox#ann', data: { text } }),
});

try {
  const page = await open();
  const messages = () => page.locator('#messages li').allInnerTexts();
  await until('the store follows the channel, which needs the token', async () => {
    await publish('hello ann'); // it may not have subscribed yet
    return (await messages()).includes('hello ann');
  });
  const answer = page.locator('#answer');
  const ask = async () => {
    await page.locator('#ask input').fill('What is new?');
    await page.locator('#ask input').press('Enter');
  };
  await ask();
  await until('an answer grows while the model speaks', async () => / 3\b/.test(await answer.innerText()) && !(await answer.getAttribute('data-whole')));
  await until('and becomes whole', async () => (await answer.getAttribute('data-whole')) === 'true' && / 39$/.test(await answer.innerText()));
  const first = await answer.innerText();
  await ask();
  await until('asked again, it is the same', async () => (await answer.getAttribute('data-whole')) === 'true' && (await answer.innerText()) === first);
} catch (e) {
  fail(e.stack);
} finally {
  await close();
}
