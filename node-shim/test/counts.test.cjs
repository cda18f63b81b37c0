'use strict';

// What a worker counts: answers by class, over HTTP/2 as over HTTP/1.

const assert = require('node:assert');
const http2 = require('node:http2');
const { test, afterEach } = require('node:test');
const { Client, fleet, waitUntil } = require('./primary.cjs');

const workers = fleet();
afterEach(() => workers.clean());

/** The last figures of a worker, after its drain. */
async function figures(worker) {
  worker.drain();
  await worker.said('drained');
  return worker.sent('figures');
}

for (const [mode, api] of [['plain', 'stream'], ['plain', 'compat'], ['secure', 'stream'], ['secure', 'compat']]) {
  test(`HTTP/2 answers by class: ${mode}, ${api}`, async () => {
    const worker = workers.start('h2.cjs', { env: { MODE: mode, API: api } });
    const scheme = mode === 'plain' ? 'http' : 'https';
    const session = http2.connect(`${scheme}://127.0.0.1:${await worker.listening()}`, { rejectUnauthorized: false });
    const ask = (path, more) => new Promise((resolve, reject) => {
      let status;
      session.request({ ':path': path, ...more }).on('response', (head) => { status = head[':status']; }).resume()
        .on('error', reject).on('close', () => resolve(status));
    });
    for (const [path, status] of [['/', 200], ['/file', 200], ['/204', 204], ['/301', 301], ['/404', 404], ['/500', 500], ['/503', 503]]) {
      assert.strictEqual(await ask(path), status);
    }
    assert.strictEqual(await ask('/404', { ':method': 'HEAD' }), 404);
    // One that the client gives up was not answered.
    const given = session.request({ ':path': '/hold' });
    await waitUntil(() => worker.app.some((m) => m.held));
    given.on('error', () => {}).close(http2.constants.NGHTTP2_CANCEL);
    await new Promise((resolve) => { given.on('close', resolve); });
    await ask('/');
    session.close();
    const { requests, classes } = await figures(worker);
    assert.deepStrictEqual([requests, classes], [9, [0, 4, 1, 2, 2]]);
  });
}

test('HTTP/1 on the port of an HTTP/2 server counts, too', async () => {
  const worker = workers.start('h2.cjs', { env: { MODE: 'allow', API: 'compat' } });
  const port = await worker.listening();
  const socket = require('node:tls').connect({ port, host: '127.0.0.1', rejectUnauthorized: false, ALPNProtocols: ['http/1.1'] });
  const client = new Client(port, socket);
  await client.opened;
  client.get('/404');
  await client.has('404 Not Found');
  client.destroy();
  const { requests, classes } = await figures(worker);
  assert.deepStrictEqual([requests, classes], [1, [0, 0, 0, 1, 0]]);
});
