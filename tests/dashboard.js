'use strict';
// Drives the dashboard in a real browser: node dashboard.js CHROMIUM CONTROL-SOCKET APP-PORT FOLDER
const assert = require('node:assert');
const http = require('node:http');
const net = require('node:net');
const path = require('node:path');
const fs = require('node:fs');
const puppeteer = require('puppeteer-core');

const [chromium, control, appPort, folder] = process.argv.slice(2);
const axe = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');

// A browser opens no Unix socket: this is all that stands between.
function doorway() {
  return new Promise((resolve) => {
    const server = net.createServer((client) => {
      const master = net.connect(control);
      client.pipe(master).pipe(client);
      client.on('error', () => master.destroy());
      master.on('error', () => client.destroy());
    });
    server.listen(0, '127.0.0.1', () => resolve(server.address().port));
  });
}

function ask(options) {
  return new Promise((resolve) => {
    const request = http.request({ agent: false, ...options }, (response) => {
      // A stream has no end: its head is all that is asked for.
      if (/event-stream/.test(response.headers['content-type'])) {
        resolve(response.statusCode);
        return response.destroy();
      }
      response.resume();
      return response.on('end', () => resolve(response.statusCode));
    });
    request.on('error', () => resolve(0));
    request.end();
  });
}
const toApp = (url) => ask({ host: '127.0.0.1', port: appPort, path: url });
const toMaster = (url) => ask({ socketPath: control, path: url, method: 'POST' });

async function accessible(page, name) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }));
  const found = violations.map((v) => `${v.id}: ${v.help}: ${v.nodes.map((n) => n.html).slice(0, 3).join(' ')}`);
  if (found.length) throw new Error(`${name}: axe-core finds\n${found.join('\n')}`);
}

(async () => {
  const origin = `http://127.0.0.1:${await doorway()}`;
  const browser = await puppeteer.launch({ executablePath: chromium, headless: true, args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'] });
  const page = await browser.newPage();
  page.setDefaultTimeout(45_000);
  const strangers = [];
  const errors = [];
  page.on('request', (request) => { if (!request.url().startsWith(origin) && !request.url().startsWith('data:')) strangers.push(request.url()); });
  page.on('pageerror', (error) => errors.push(String(error)));
  const until = (what, probe, ...args) => page.waitForFunction(probe, { polling: 50 }, ...args).catch(async (error) => {
    await page.screenshot({ path: path.join(folder, 'failed.png'), fullPage: true });
    throw new Error(`waited in vain for ${what}: ${error.message}\n${await page.evaluate(() => document.body.innerText)}`);
  });
  const text = (id, word) => until(`${JSON.stringify(word)} in #${id}`, (i, w) => document.getElementById(i).textContent.includes(w), id, word);

  await page.setViewport({ width: 1280, height: 900 });
  await page.goto(origin);
  await until('two ready workers', () => [...document.querySelectorAll('#workers tr')].filter((row) => row.children[4].textContent === 'ready').length === 2);
  await text('state', 'serving');
  await text('facts', '2 of 2 ready');

  // Events as they come where the master sends them, else by asking again and again.
  const streams = await ask({ socketPath: control, path: '/v1/events' }) === 200;
  await text('link', streams ? 'live' : 'polling');

  // Requests move the curve.
  let loading = true;
  const load = (async () => { while (loading) await Promise.all([toApp('/'), toApp('/'), toApp('/')]); })();
  await until('a rate of requests', () => parseFloat(document.querySelector('#charts .now').textContent) > 0);
  await until('a share', () => [...document.querySelectorAll('#workers meter')].some((meter) => meter.value > 0));

  // What is shown of the rate from here on.
  await page.evaluate(() => {
    const shown = document.querySelector('#charts .now');
    window.rates = [];
    new MutationObserver(() => window.rates.push(shown.textContent)).observe(shown, { childList: true, characterData: true, subtree: true });
  });

  // A reload, slot by slot.
  const reload = toMaster('/v1/reload');
  await until('both generations', () => /generation 1[^]*generation 2/.test(document.getElementById('slots').textContent));
  await text('reload', 'Reload to generation 2');
  await page.screenshot({ path: path.join(folder, 'reload-light.png'), fullPage: true });
  assert.equal(await reload, 200);
  await text('facts', 'generation 2');
  await text('activity', 'generation 2 serves');
  await until('only the new generation', () => !document.getElementById('slots').textContent.includes('generation 1'));
  await until('figures of the new workers', () => [...document.querySelectorAll('#workers tr')].every((row) => parseFloat(row.children[7].textContent) > 0));
  assert.deepEqual((await page.evaluate(() => window.rates)).filter((rate) => !(parseFloat(rate) > 0)), []);
  loading = false;
  await load;

  // What a worker says is text, whatever it looks like; what hung has its stack.
  toApp('/throw');
  await text('incidents', 'crashed');
  toApp('/hang');
  await text('incidents', 'spinForEver');
  await until('all summaries', () => { document.querySelectorAll('#incidents details').forEach((d) => { d.open = true; }); return true; });
  await text('incidents', '<img src=x');
  assert.deepEqual(await page.evaluate(() => [document.images.length, window.owned]), [0, undefined]);

  // A script that somebody slips in does not run.
  await page.evaluate(() => { const script = document.createElement('script'); script.textContent = 'window.owned = 1'; document.body.append(script); });
  assert.equal(await page.evaluate(() => window.owned), undefined);

  // By keyboard: the first stop is the way past the head; charts tell older values.
  await page.evaluate(() => document.activeElement.blur());
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement.className), 'skip');
  await page.keyboard.press('Enter');
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement.tagName), 'svg');
  await page.keyboard.press('ArrowLeft');
  await page.keyboard.press('ArrowLeft');
  await until('an older value', () => document.querySelector('#charts .now').textContent.endsWith('ago'));
  await page.keyboard.press('Escape');

  // In the light, in the dark, on a phone.
  const back = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const looks = [];
  for (const scheme of ['light', 'dark']) {
    await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
    looks.push(await back());
    await accessible(page, scheme);
    const fits = () => [...document.querySelectorAll('figure, figcaption, #slots li')].every((box) => box.scrollWidth <= box.clientWidth);
    assert.equal(await page.evaluate(fits), true, 'a text is wider than its box');
    await page.screenshot({ path: path.join(folder, `${scheme}.png`), fullPage: true });
  }
  assert.notEqual(looks[0], looks[1]);
  await page.setViewport({ width: 360, height: 780, hasTouch: true, isMobile: true });
  await text('facts', '2 of 2 ready');
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360, 'nothing sticks out to the right');
  await accessible(page, 'phone');
  await page.screenshot({ path: path.join(folder, 'phone.png'), fullPage: true });

  // The end of the master is said, and the last picture stays.
  assert.deepEqual([strangers, errors], [[], []]);
  toMaster('/v1/stop');
  await text('link', 'no answer');
  assert.equal(await page.evaluate(() => document.querySelectorAll('#workers tr').length > 0), true);
  await browser.close();
  process.exit(0);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
