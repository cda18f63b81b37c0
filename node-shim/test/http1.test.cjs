'use strict';

// drain.md, rules 1 to 5 and 10: HTTP/1.

const assert = require('node:assert');
const { test, afterEach } = require('node:test');
const { Client, fleet, waitUntil } = require('./primary.cjs');

const workers = fleet();
const start = (options) => workers.start('http.cjs', options);
afterEach(() => workers.clean());

const appSaid = (worker, key, times = 1) => waitUntil(() => worker.app.filter((m) => m && key in m).length >= times, key);

async function draining(worker, ms) {
  worker.drain(ms);
  return worker.said('draining');
}

async function uncut(worker) {
  assert.strictEqual((await worker.said('drained')).cut, 0);
}

const answers = (client) => client.text.split(/(?=HTTP\/1\.1 \d)/);

test('hello; a drain with nothing open ends at once; the process ends by itself', async () => {
  const worker = start();
  await worker.listening();
  assert.deepStrictEqual(worker.sent('hello'), { cmd: 'NODE_RCLUSTER', act: 'hello', v: 1, node: process.version, queues: true, stack: false });
  const before = Date.now();
  assert.strictEqual((await draining(worker, 5000)).connections, 0);
  await uncut(worker);
  assert.deepStrictEqual(await worker.exit, { code: 0, signal: null });
  const event = worker.app.find((m) => m.drainEvent).drainEvent;
  assert.ok(event.deadline >= before + 4000 && event.deadline <= Date.now() + 5000, 'the app heard of the deadline');
  assert.ok(worker.cluster.some((m) => m.act === 'close'), 'the handle was given back');
});

test('in flight, header not sent: Connection: close, FIN', async () => {
  const worker = start();
  const client = new Client(await worker.listening());
  client.get('/hold');
  await appSaid(worker, 'held');
  assert.strictEqual((await draining(worker)).connections, 1);
  worker.child.send('release');
  await client.end();
  assert.match(client.text, /^HTTP\/1.1 200 OK\r\n[^]*Connection: close\r\n[^]*done/);
  assert.doesNotMatch(client.text, /Keep-Alive/i);
  assert.strictEqual(client.error, null);
  await uncut(worker);
});

test('in flight on a socket that the app unref\'ed: counted and waited for', async () => {
  const worker = start();
  const client = new Client(await worker.listening());
  client.get('/unref');
  await appSaid(worker, 'held');
  assert.strictEqual((await draining(worker)).connections, 1);
  worker.child.send('release');
  await client.end();
  assert.match(client.text, /^HTTP\/1.1 200 OK\r\n[^]*Connection: close\r\n[^]*done/);
  await uncut(worker);
});

test('in flight, header made but still here: Connection: close', async () => {
  const worker = start();
  const client = new Client(await worker.listening());
  client.get('/unsent');
  await appSaid(worker, 'held');
  await draining(worker);
  worker.child.send('release');
  await client.end();
  assert.match(client.text, /\r\nConnection: close\r\n[^]*done$/);
  assert.doesNotMatch(client.text, /keep-alive/i);
  await uncut(worker);
});

test('in flight, header sent: finishes, the socket stays, its next request closes it', async () => {
  const worker = start();
  const client = new Client(await worker.listening());
  client.get('/early');
  await client.has('first');
  await draining(worker);
  worker.child.send('release');
  await client.has('done');
  assert.match(client.text, /Connection: keep-alive/);
  client.get('/next');
  await client.end();
  assert.match(answers(client).pop(), /Connection: close\r\n[^]*\/next/);
  await uncut(worker);
});

test('idle: kept, its next request is answered and closes it', async () => {
  const worker = start();
  const client = new Client(await worker.listening());
  client.get('/one');
  await client.has('/one');
  await draining(worker);
  assert.strictEqual(client.ended, false);
  client.get('/two');
  await client.end();
  assert.match(client.text, /Connection: keep-alive[^]*\/one[^]*Connection: close\r\n[^]*\/two/);
  await uncut(worker);
});

for (const url of ['/own', '/flat', '/set', '/removed']) {
  test(`our Connection: close wins over the app's own header: ${url}`, async () => {
    const worker = start();
    const client = new Client(await worker.listening());
    client.get('/one');
    await client.has('/one');
    await draining(worker);
    client.get(url);
    await client.end();
    const answer = answers(client).pop();
    assert.strictEqual(answer.match(/^connection:/gim).length, 1);
    assert.match(answer, /\r\nConnection: close\r\n[^]*done/);
    assert.doesNotMatch(answer, /keep-alive/i);
    if (url !== '/removed') assert.match(answer, /\r\nX-Own: 1\r\n/);
    await uncut(worker);
  });
}

test('pipelined: only the newest outstanding request says close; all are answered in order', async () => {
  const worker = start();
  const client = new Client(await worker.listening());
  client.get('/hold').get('/hold').get('/hold');
  await appSaid(worker, 'held', 3);
  await draining(worker);
  worker.child.send('release last'); // the newest first: it waits for its turn
  worker.child.send('release');
  await client.end();
  const got = answers(client);
  assert.deepStrictEqual(got.map((a) => /Connection: ([a-z-]+)/.exec(a)[1]), ['keep-alive', 'keep-alive', 'close']);
  assert.ok(got.every((a) => /done/.test(a)));
  await uncut(worker);
});

test('pipelined behind a response that said close: never dispatched', async () => {
  const worker = start();
  const client = new Client(await worker.listening());
  client.get('/zero');
  await client.has('/zero');
  await draining(worker);
  client.write('GET /now?1 HTTP/1.1\r\nHost: x\r\n\r\nGET /now?2 HTTP/1.1\r\nHost: x\r\n\r\n');
  await client.end();
  await uncut(worker);
  await worker.exit;
  assert.match(client.text, /Connection: close\r\n[^]*now\?1$/);
  assert.deepStrictEqual(worker.app.filter((m) => m.seen).map((m) => m.seen), ['/zero', '/now?1']);
});

test('a socket that has sent nothing is served, and closed by its first response', async () => {
  const worker = start();
  const client = new Client(await worker.listening());
  await client.opened;
  new Client(await worker.listening()).get('/probe'); // accepted in order: the silent one is in
  await appSaid(worker, 'seen');
  await draining(worker);
  client.get('/first');
  await client.end();
  assert.match(client.text, /Connection: close\r\n[^]*\/first/);
  assert.strictEqual(client.error, null);
});

test('half a request: served', async () => {
  const worker = start();
  const client = new Client(await worker.listening());
  client.get('/zero');
  await client.has('/zero');
  client.write('GET /half HTTP/1.1\r\nHo');
  await draining(worker);
  client.write('st: x\r\n\r\n');
  await client.end();
  assert.match(client.text, /Connection: close\r\n[^]*\/half/);
  await uncut(worker);
});

test('slow-loris: Node\'s header timeout still works and bounds the drain', async () => {
  const worker = start({ env: { HTTP_OPTIONS: '{"headersTimeout":300,"connectionsCheckingInterval":50}' } });
  const client = new Client(await worker.listening());
  client.write('GET /half HTTP/1.1\r\nHo');
  await client.opened;
  new Client(await worker.listening()).get('/probe', 'Connection: close\r\n');
  await appSaid(worker, 'seen');
  await draining(worker, 15000);
  await client.end();
  assert.match(client.text, /^HTTP\/1.1 408 /);
  await uncut(worker);
});

test('slow-loris without a header timeout: cut at the deadline, and counted', async () => {
  const worker = start({ env: { HTTP_OPTIONS: '{"headersTimeout":0,"requestTimeout":0}' } });
  const client = new Client(await worker.listening());
  client.get('/zero');
  await client.has('/zero');
  client.write('GET /half HTTP/1.1\r\nHo');
  new Client(await worker.listening()).get('/probe', 'Connection: close\r\n');
  await appSaid(worker, 'seen', 2);
  await draining(worker, 200);
  await client.end();
  assert.strictEqual((await worker.said('drained')).cut, 1);
});

test('upload in flight finishes', async () => {
  const worker = start();
  const client = new Client(await worker.listening());
  client.write('POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345');
  await appSaid(worker, 'upload');
  await draining(worker);
  client.write('67890');
  await client.end();
  assert.match(client.text, /Connection: close\r\n[^]*got 10/);
  await uncut(worker);
});

test('Expect: 100-continue is in flight', async () => {
  const worker = start();
  const client = new Client(await worker.listening());
  client.write('POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n');
  await client.has('100 Continue');
  await draining(worker);
  client.write('12345');
  await client.end();
  assert.match(client.text, /100 Continue\r\n\r\nHTTP\/1.1 200 OK[^]*Connection: close\r\n[^]*got 5/);
  await uncut(worker);
});

test('Expect: 100-continue that comes during the drain', async () => {
  const worker = start();
  const client = new Client(await worker.listening());
  client.get('/zero');
  await client.has('/zero');
  await draining(worker);
  client.write('POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n');
  await client.has('100 Continue');
  client.write('12345');
  await client.end();
  assert.match(client.text, /Connection: close\r\n[^]*got 5/);
  await uncut(worker);
});

test('an app that answers before it has read the upload gets the whole upload', async () => {
  const worker = start();
  const client = new Client(await worker.listening(), { allowHalfOpen: true });
  client.get('/zero');
  await client.has('/zero');
  await draining(worker);
  client.write('POST /hasty HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345');
  await client.has('accepted');
  assert.match(client.text, /Connection: close/);
  client.write('67890');
  await appSaid(worker, 'complete');
  client.socket.end();
  assert.strictEqual(client.error, null);
  await uncut(worker);
});

test('download in flight to a slow reader arrives whole', async () => {
  const worker = start();
  const client = new Client(await worker.listening());
  client.get('/big?chunks=200', 'Connection: keep-alive\r\n');
  await client.has('HTTP/1.1 200');
  client.socket.pause();
  await draining(worker);
  client.socket.resume();
  await client.has('END');
  assert.ok(client.text.length > 200 * 65536);
  client.socket.end();
  await uncut(worker);
});

test('a client that never reads is cut at the deadline', async () => {
  const worker = start();
  const client = new Client(await worker.listening());
  client.get('/big?chunks=1000');
  await client.has('HTTP/1.1 200');
  client.socket.pause();
  await draining(worker, 300);
  assert.strictEqual((await worker.said('drained')).cut, 1);
});

test('lingering close: what comes after the last response is read, no reset', async () => {
  const worker = start();
  const client = new Client(await worker.listening(), { allowHalfOpen: true });
  client.get('/zero');
  await client.has('/zero');
  await draining(worker);
  client.get('/last');
  await client.end();
  for (let i = 0; i < 20; i++) { // with a plain close() the kernel answers these with RST
    client.get('/ignored');
    await new Promise((resolve) => { setTimeout(resolve, 5); });
  }
  assert.strictEqual(client.error, null);
  assert.strictEqual(worker.sent('drained'), undefined);
  client.socket.end();
  await uncut(worker);
  assert.strictEqual(client.error, null);
  assert.ok(!worker.app.some((m) => m.seen === '/ignored'));
});

test('lingering close: a client that never says FIN is destroyed, long before the deadline', async () => {
  const worker = start();
  const client = new Client(await worker.listening(), { allowHalfOpen: true });
  client.get('/zero');
  await client.has('/zero');
  await draining(worker, 19000);
  client.get('/last');
  await client.end();
  await uncut(worker);
  client.destroy();
});

test('at the deadline what is in flight is cut, with FIN first', async () => {
  const worker = start();
  const client = new Client(await worker.listening());
  const idle = new Client(await worker.listening());
  client.get('/hold');
  idle.get('/zero');
  await idle.has('/zero');
  await appSaid(worker, 'held');
  await draining(worker, 200);
  await client.end();
  await idle.end();
  assert.strictEqual(client.text, '');
  assert.strictEqual(client.error, null);
  assert.strictEqual((await worker.said('drained')).cut, 1, 'an idle connection is no loss');
  assert.deepStrictEqual(await worker.exit, { code: 0, signal: null });
});

test('drain twice is one drain', async () => {
  const worker = start();
  const client = new Client(await worker.listening());
  client.get('/hold');
  await appSaid(worker, 'held');
  await draining(worker);
  worker.drain(1);
  worker.child.send('release');
  await client.end();
  await uncut(worker);
  await worker.exit;
  assert.strictEqual(worker.messages.filter((m) => m.act === 'draining').length, 1);
  assert.strictEqual(worker.messages.filter((m) => m.act === 'drained').length, 1);
});

test('a server that begins to listen during a drain accepts nothing', async () => {
  const worker = start();
  const client = new Client(await worker.listening());
  client.get('/hold');
  await appSaid(worker, 'held');
  await draining(worker);
  worker.child.send('listen');
  await waitUntil(() => worker.cluster.filter((m) => m.act === 'close').length === 2, 'given back');
  assert.ok(!worker.app.some((m) => m.late));
  worker.child.send('release');
  await uncut(worker);
});

test('keepAliveTimeout above the drain timeout: the advertised one is lowered, idle sockets end by it', async () => {
  const worker = start({ drainMs: 3000, env: { KEEP_ALIVE: '60000' } });
  const client = new Client(await worker.listening());
  client.get('/zero');
  await client.has('/zero');
  assert.match(client.text, /\r\nKeep-Alive: timeout=1\r\n/);
  await draining(worker, 15000);
  await client.end();
  await uncut(worker);
});

test('keepAliveTimeout 0 (for ever): the same', async () => {
  const worker = start({ drainMs: 3000, env: { KEEP_ALIVE: '0' } });
  const client = new Client(await worker.listening());
  client.get('/zero');
  await client.has('/zero');
  assert.match(client.text, /\r\nKeep-Alive: timeout=1\r\n/);
  await draining(worker, 15000);
  await client.end();
  await uncut(worker);
});

test('keepAliveTimeout below the drain timeout stays as it is', async () => {
  const worker = start({ env: { KEEP_ALIVE: '7000' } });
  const client = new Client(await worker.listening());
  client.get('/zero');
  await client.has('/zero');
  assert.match(client.text, /\r\nKeep-Alive: timeout=7\r\n/);
});

test('an app that closes its server on the shutdown message loses no idle connection', async () => {
  const worker = start({ settings: { shutdown_message: true } });
  const client = new Client(await worker.listening());
  client.get('/one');
  await client.has('/one');
  await draining(worker);
  client.get('/two');
  await client.end();
  assert.match(client.text, /Connection: close\r\n[^]*\/two/);
  await appSaid(worker, 'closed');
  assert.strictEqual(worker.app.find((m) => m.closed).closed, 'ok');
  await uncut(worker);
});
