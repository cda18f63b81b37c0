'use strict';

// drain.md, rules 1 to 5: HTTP/1.

const assert = require('node:assert');
const { test, afterEach } = require('node:test');
const { Primary, Client, waitUntil } = require('./primary.cjs');

let primary;
let workers = [];

function start(options, app = 'http.cjs') {
  primary ||= new Primary();
  const worker = primary.spawn(app, options);
  workers.push(worker);
  return worker;
}

afterEach(async () => {
  await Promise.all(workers.map((worker) => worker.kill()));
  workers = [];
  if (primary) primary.close();
  primary = undefined;
});

test('hello, a drain with nothing open ends at once, the process ends by itself', async () => {
  const worker = start();
  await worker.listening();
  assert.deepStrictEqual(worker.sent('hello'), { cmd: 'NODE_RCLUSTER', act: 'hello', v: 1, node: process.version });
  worker.child.removeAllListeners('message');
  worker.drain();
  assert.strictEqual((await worker.said('draining')).connections, 0);
  assert.strictEqual((await worker.said('drained')).cut, 0);
  assert.deepStrictEqual(await worker.exit, { code: 0, signal: null });
});

test('in flight: Connection: close, FIN, then the process ends', async () => {
  const worker = start();
  const client = new Client(await worker.listening());
  client.get('/hold');
  await waitUntil(() => worker.app.some((m) => m.held));
  worker.drain();
  assert.strictEqual((await worker.said('draining')).connections, 1);
  worker.child.send('release');
  await client.end();
  assert.match(client.text, /^HTTP\/1.1 200 OK\r\n[^]*Connection: close\r\n[^]*done/);
  assert.doesNotMatch(client.text, /Keep-Alive/i);
  assert.strictEqual(client.error, null);
  assert.strictEqual((await worker.said('drained')).cut, 0);
});

test('idle keep-alive socket: kept, its next request is answered and closes it', async () => {
  const worker = start();
  const client = new Client(await worker.listening());
  client.get('/one');
  await client.has('/one');
  worker.drain();
  await worker.said('draining');
  client.get('/two');
  await client.end();
  assert.match(client.text, /Connection: keep-alive[^]*\/one[^]*Connection: close\r\n[^]*\/two$/);
  assert.strictEqual((await worker.said('drained')).cut, 0);
});
