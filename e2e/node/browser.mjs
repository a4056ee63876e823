// What the scripts of pages share: a Chromium, and waiting.
import { chromium } from 'playwright-core';

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
});
export const close = () => browser.close();

// open opens the page that the test names; what it complains of fails the script.
export async function open() {
  const page = await browser.newPage();
  page.on('pageerror', (e) => fail(e.message));
  await page.goto(process.env.URL);
  return page;
}

export function fail(why) {
  console.log(`FAIL ${why}`);
  process.exitCode = 1;
}

export async function until(what, ok) {
  for (const end = Date.now() + 20000; !(await ok());) {
    if (Date.now() > end) throw new Error(`${what}: not within 20 s`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  console.log(`ok   ${what}`);
}
