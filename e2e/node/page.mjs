// The page of `forgewire dev` in a real Chromium: what is typed on one replica appears on both, in one order;
// a connection that is cut comes back without loss; a model is asked, joined, hit, and goes on after a reload;
// nothing is written to the console.
import { chromium } from 'playwright-core';

const page = await (async () => {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync'],
  });
  process.on('exit', () => browser.close());
  return browser.newPage({ viewport: { width: Number(process.env.WIDTH), height: 800 } });
})();

const complaints = [];
page.on('console', (m) => complaints.push(m.text()));
page.on('pageerror', (e) => complaints.push(e.message));

const pane = (replica) => page.locator(`.pane[data-replica=${replica}]`);
const type = async (replica, text) => {
  await pane(replica).locator('input').fill(text);
  await pane(replica).locator('input').press('Enter');
};
// What was there before the page was opened is told apart: an earlier run may have said the same.
const texts = (replica) => pane(replica).locator('.message:not(.old)').allInnerTexts();
const past = (replica) => pane(replica).locator('.message.old').allInnerTexts();
const until = async (what, ok) => {
  for (const end = Date.now() + 20000; !(await ok());) {
    if (Date.now() > end) throw new Error(`${what}: not within 20 s; a: ${await texts('a')}; b: ${await texts('b')}`);
    await page.waitForTimeout(50);
  }
  console.log(`ok   ${what}`);
};
const both = async (text, rows = texts) => (await Promise.all(['a', 'b'].map(rows))).every((list) => list.some((t) => t.includes(text)));
const state = (replica) => pane(replica).getAttribute('data-state');

const answer = (replica) => page.locator(`.answer[data-replica=${replica}]`);
const said = (replica) => answer(replica).locator('.said').innerText();
const badge = (replica) => answer(replica).locator('.badge').innerText();
const whole = async (replica) => (await answer(replica).getAttribute('data-state')) === 'whole';
const saved = (replica) => answer(replica).locator('.saved').innerText();
const ask = async (replica, question) => {
  await page.locator('#question').fill(question);
  await page.locator(`#prompt button[value=${replica}]`).click();
};
// recorded is the whole answer as the cache has it: the model is not asked.
const recorded = async (question) => {
  const response = await fetch(new URL('/v1/chat/completions', process.env.URL), {
    method: 'POST', headers: { Authorization: `Bearer ${process.env.API_KEY}`, 'Cache-Control': 'only-if-cached' },
    body: JSON.stringify({ model: 'imitation', messages: [{ role: 'user', content: question }] }),
  });
  return response.ok ? (await response.json()).choices[0].message.content : `status ${response.status}`;
};

try {
  await page.goto(process.env.URL);
  await until('the page says that the model imitates', async () =>
    (await page.locator('#model-note').innerText()).includes('set FORGEWIRE_UPSTREAM_URL') && (await page.locator('#model').inputValue()) === 'imitation');
  const first = `Why is the sky <b>blue</b>, at ${process.env.WIDTH} pixels?`;
  await ask('a', first);
  await until('A answers a question that is new', async () => (await badge('a')) === 'miss' && / 3\b/.test(await said('a')));
  await ask('b', first);
  await until('B joins what A has under way', async () => (await badge('b')) === 'joined' && !(await whole('a')));
  await until('both end with the same text, which is the whole', async () =>
    (await whole('a')) && (await whole('b')) && (await said('a')) === (await said('b')) && (await said('a')) === (await recorded(first)));
  await until('B says how much time that saved', async () => /^saved \d/.test(await saved('b')));

  const second = `And at night, at ${process.env.WIDTH}?`;
  await ask('a', second);
  await until('A answers another question', async () => (await badge('a')) === 'miss' && / 9\b/.test(await said('a')));
  await page.reload();
  await until('after a reload in mid-answer it goes on, from where it was', async () =>
    /^Went on after event \d+/.test(await answer('a').locator('.note').innerText()) && !(await whole('a')));
  await until('and ends with the whole text', async () => (await whole('a')) && / 99$/.test(await said('a')) && (await said('a')) === (await recorded(second)));
  await ask('b', second);
  await until('asked again, it is a hit on B, with the same text', async () =>
    (await whole('b')) && (await badge('b')) === 'hit' && (await said('b')) === (await said('a')));
  await until('B says how much time the hit saved: seconds', async () => /^saved \d+\.\d s$/.test(await saved('b')));

  await until('both are connected', async () => (await state('a')) === 'up' && (await state('b')) === 'up');
  const here = (replica) => pane(replica).locator('.count').innerText();
  await until('both know that two are here', async () => (await here('a')) === '2' && (await here('b')) === '2');
  await type('a', 'typed on A');
  await until('what is typed on A appears on both', () => both('typed on A'));
  await type('b', 'typed on B');
  await until('what is typed on B appears on both', () => both('typed on B'));
  await fetch(new URL('/api/publish', process.env.URL), {
    method: 'POST', headers: { 'X-API-Key': process.env.API_KEY },
    body: JSON.stringify({ channel: 'room:1', data: { text: '<b>from outside</b>' } }),
  });
  await until('what is published from outside appears on both, as text', () => both('<b>from outside</b>'));

  await pane('b').locator('.cut').click();
  await until('B is cut', async () => (await state('b')) === 'away');
  for (const n of [1, 2, 3]) await type('a', `missed ${n}`);
  await until('B resumes', async () => (await state('b')) === 'up' && both('missed 3'));
  await until('B says that it recovered them', async () => (await pane('b').locator('.divider.resumed').innerText()).includes('3 missed'));
  await until('both saw the same, in the same order', async () => (await page.locator('#agreement').innerText()).includes('in the same order on both'));

  await pane('a').locator('.pad').hover({ position: { x: 40, y: 20 } });
  await pane('a').locator('.pad').hover({ position: { x: 60, y: 30 } });
  await until('the pointer on A shows on B, and not on A', async () =>
    (await pane('b').locator('.pointer[data-from=A]').count()) === 1 && (await pane('a').locator('.pointer').count()) === 0);
  await pane('b').locator('.pad').press('ArrowLeft');
  await until('the arrow keys on B show on A', async () => (await pane('a').locator('.pointer[data-from=B]').count()) === 1);

  if (process.env.SHOT) await page.screenshot({ path: process.env.SHOT, fullPage: true });

  await page.reload();
  await until('a page that is opened later begins with the past', () => both('missed 3', past));

  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  if (wide > 0) throw new Error(`the page scrolls sideways by ${wide} pixels`);
  if (complaints.length) throw new Error(`the console says: ${complaints.join('; ')}`);
  console.log('ok   nothing on the console, nothing scrolls sideways');
  process.exit(0);
} catch (e) {
  console.error(e);
  process.exit(1);
}
