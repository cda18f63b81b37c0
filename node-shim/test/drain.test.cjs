'use strict';

// drain.md, rules 7 to 10: what runs on, what is cut and when, and what the app hears of it.

const assert = require('node:assert');
const fs = require('node:fs');
const http2 = require('node:http2');
const os = require('node:os');
const path = require('node:path');
const { test, afterEach } = require('node:test');
const { Client, fleet, waitUntil } = require('./primary.cjs');

const workers = fleet();
const start = (KIND, settings, env) => workers.start('drain.cjs', { env: { KIND, ...env }, settings });
afterEach(() => workers.clean());

const appSaid = (worker, key, times = 1) => waitUntil(() => worker.app.filter((m) => m && key in m).length >= times, key);
const nothingThrown = (worker) => assert.deepStrictEqual(worker.app.filter((m) => m && (m.uncaught || m.resError)), []);

async function draining(worker, ms, closingMs = 1000) {
  worker.drain(ms, closingMs);
  return worker.said('draining');
}

/** One HTTP/2 stream, and what its client sees of it. */
function stream(session, url) {
  const seen = { text: '', done: false, error: null, status: 0, rst: null, ended: false };
  const request = session.request({ ':path': url });
  request.setEncoding('utf8').on('data', (data) => { seen.text += data; });
  request.on('response', (headers) => { seen.status = headers[':status']; });
  request.on('error', (err) => { seen.error = err.code; });
  request.on('end', () => { seen.ended = true; });
  request.on('close', () => { seen.done = true; seen.rst = request.rstCode; });
  return seen;
}

function connect(port, kind) {
  const session = http2.connect(`${kind === 'h2' ? 'https' : 'http'}://127.0.0.1:${port}`, { rejectUnauthorized: false });
  session.on('error', () => {});
  return session;
}

test('a finite event stream runs to its end', async () => {
  const worker = start('http');
  const client = new Client(await worker.listening());
  client.get('/events');
  await client.has('data: 0');
  await draining(worker, 20000);
  for (let i = 1; i <= 5; i++) {
    worker.child.send('more');
    await client.has('data: more', i);
  }
  worker.child.send('end');
  await client.has('data: [DONE]\n\n\r\n0\r\n\r\n');
  client.get('/next'); // its connection was told nothing, and is kept
  await client.has('/next');
  assert.match(client.text, /Connection: close\r\n[^]*\/next$/);
  assert.strictEqual((await worker.said('drained')).cut, 0);
});

for (const kind of ['h2c', 'h2']) {
  test(`a finite event stream runs to its end: ${kind}`, async () => {
    const worker = start(kind);
    const session = connect(await worker.listening(), kind);
    const events = stream(session, '/events');
    await waitUntil(() => events.text.includes('data: 0'));
    await draining(worker, 20000);
    await waitUntil(() => session.closed, 'GOAWAY'); // its effect on the client
    for (let i = 1; i <= 5; i++) {
      worker.child.send('more');
      await waitUntil(() => events.text.split('data: more').length > i);
    }
    assert.strictEqual(events.done, false);
    worker.child.send('end');
    await waitUntil(() => events.done);
    assert.match(events.text, /data: \[DONE\]\n\n$/);
    assert.deepStrictEqual([events.error, events.rst, events.ended], [null, 0, true]);
    assert.strictEqual((await worker.said('drained')).cut, 0);
  });

  test(`what does not end is cut at the deadline, as the client sees: ${kind}`, async () => {
    const worker = start(kind);
    const session = connect(await worker.listening(), kind);
    const events = stream(session, '/events');
    const text = stream(session, '/text');
    await waitUntil(() => events.text.includes('data: 0') && text.text.includes('half'));
    await draining(worker, 500);
    await waitUntil(() => events.done && text.done);
    for (const seen of [events, text]) assert.deepStrictEqual([seen.error, seen.rst], ['ERR_HTTP2_STREAM_ERROR', 2]);
    assert.strictEqual((await worker.said('drained')).cut, 1);
    nothingThrown(worker);
  });
}

test('streams of an app without the compat layer and without an error handler are cut and raise nothing', async () => {
  const worker = start('h2streams');
  const session = connect(await worker.listening(), 'h2c');
  const seen = stream(session, '/');
  await appSaid(worker, 'text');
  await draining(worker, 300);
  await waitUntil(() => seen.done);
  assert.strictEqual(seen.rst, 2);
  assert.strictEqual((await worker.said('drained')).cut, 1);
  nothingThrown(worker);
});

test('an event stream that does not end is cut without its last chunk, and counted', async () => {
  const worker = start('http');
  const client = new Client(await worker.listening());
  client.get('/events');
  await client.has('data: 0');
  await draining(worker, 500);
  await client.end();
  assert.doesNotMatch(client.text, /\r\n0\r\n\r\n/);
  const { cut, silent } = await worker.said('drained');
  assert.deepStrictEqual([cut, silent], [1, 0]);
  nothingThrown(worker);
});

test('half a body that ends with its connection is no whole one: RST', async () => {
  const worker = start('http');
  const client = new Client(await worker.listening());
  client.write('GET /raw HTTP/1.0\r\n\r\n');
  await client.has('half');
  await draining(worker, 300);
  await waitUntil(() => client.closed);
  assert.strictEqual(client.error && client.error.code, 'ECONNRESET');
  assert.strictEqual((await worker.said('drained')).cut, 1);
});

test('an event stream that has been silent for long is closed before the deadline; one that speaks is not', async () => {
  const worker = start('http', { silent_ms: 1500, long_grace_ms: 100 });
  const port = await worker.listening();
  const silent = new Client(port);
  silent.get('/events');
  await silent.has('data: 0');
  const flood = new Client(port);
  flood.get('/flood');
  await flood.has('data: x');
  await draining(worker, 30000);
  await silent.end();
  assert.doesNotMatch(silent.text, /\r\n0\r\n\r\n/);
  assert.strictEqual(flood.ended || flood.closed, false);
  flood.destroy();
  const said = await worker.said('drained');
  assert.deepStrictEqual([said.cut, said.silent], [0, 1]);
  nothingThrown(worker);
});

test('a client that never reads does not crash the worker beside it', async () => {
  const worker = start('http');
  const port = await worker.listening();
  const deaf = new Client(port);
  deaf.socket.pause();
  deaf.get('/flood');
  await appSaid(worker, 'flood');
  const slow = new Client(port);
  slow.get('/slow');
  await new Client(port).get('/seen', 'Connection: close\r\n').has('/seen');
  await draining(worker, 2500);
  worker.child.send('end');
  await slow.has('slow');
  await worker.said('drained');
  nothingThrown(worker);
  assert.strictEqual(worker.sent('drained').cut, 1);
});

test('an app that writes on into what is being cut hears no error', async () => {
  const worker = start('http');
  const client = new Client(await worker.listening(), { allowHalfOpen: true });
  client.get('/text');
  await client.has('half');
  await draining(worker, 300);
  await client.end();
  await worker.said('drained');
  nothingThrown(worker);
});

test('nothing is cut before the deadline, and what ends in its last moment is whole', async () => {
  const worker = start('http');
  const client = new Client(await worker.listening());
  client.get('/slow');
  await new Client(await worker.listening()).get('/seen', 'Connection: close\r\n').has('/seen');
  const ms = 4000; // long enough for a quarter of it to be seen
  const begun = Date.now();
  await draining(worker, ms);
  await waitUntil(() => Date.now() - begun > ms * 0.85);
  assert.strictEqual(client.ended, false);
  worker.child.send('end');
  await client.has('slow');
  assert.strictEqual((await worker.said('drained')).cut, 0);
});

test('a gateway: no byte of ours in a stream whose framing is not ours', async () => {
  const worker = start('gateway');
  const client = new Client(await worker.listening());
  client.get('/', 'Connection: Upgrade\r\nUpgrade: websocket\r\n');
  await client.has('a'.repeat(2048));
  await draining(worker, 1500);
  await waitUntil(() => worker.messages.some((m) => m.act === 'left')); // it has looked at its connections
  worker.child.send('end');
  await client.end();
  assert.strictEqual(client.text.split('\r\n\r\n')[1], `\x82\x7e\x10\x00${'a'.repeat(2048)}${'b'.repeat(2048)}`);
  assert.strictEqual((await worker.said('drained')).cut, 1);
});

// ------------------------------------------------------------------------------ the handlers of the stop signal

function out() {
  return path.join(fs.mkdtempSync(path.join(os.tmpdir(), 'rcluster-shim-')), 'out');
}

test('the handlers of the stop signal run after the drain, although nothing else holds the process', async () => {
  const OUT = out();
  const worker = start('handler', {}, { OUT });
  const client = new Client(await worker.listening());
  client.get('/slow');
  await new Client(await worker.listening()).get('/seen', 'Connection: close\r\n').has('/seen');
  await draining(worker, 20000);
  assert.strictEqual(fs.existsSync(OUT), false);
  worker.child.send('end');
  await client.has('slow');
  const said = await worker.said('drained');
  assert.deepStrictEqual([said.cut, said.stopping], [0, true]);
  assert.deepStrictEqual(await worker.exit, { code: 7, signal: null });
  assert.strictEqual(fs.readFileSync(OUT, 'utf8'), 'SIGTERM,15 true\n');
});

test('another stop signal than SIGTERM: its handlers, and only those', async () => {
  const OUT = out();
  const worker = start('handler', { stop_signal: 'SIGINT' }, { OUT });
  await worker.listening();
  await draining(worker, 20000);
  assert.strictEqual((await worker.said('drained')).stopping, false);
  assert.deepStrictEqual(await worker.exit, { code: 0, signal: null });
  assert.strictEqual(fs.existsSync(OUT), false);
});

test('a handler that takes its time is given it', async () => {
  const OUT = out();
  const worker = start('slowly', {}, { OUT });
  await worker.listening();
  await draining(worker, 20000);
  await worker.said('drained');
  assert.deepStrictEqual(await worker.exit, { code: 0, signal: null });
  assert.strictEqual(fs.readFileSync(OUT, 'utf8'), 'closed\n');
});

test('a signal that came meanwhile is not given again', async () => {
  const OUT = out();
  const worker = start('slowly', {}, { OUT });
  const client = new Client(await worker.listening());
  client.get('/slow');
  await new Client(await worker.listening()).get('/seen', 'Connection: close\r\n').has('/seen');
  await draining(worker, 20000);
  worker.child.kill('SIGTERM');
  await waitUntil(() => worker.exited === null && !fs.existsSync(OUT));
  worker.child.send('end');
  await client.has('slow');
  assert.deepStrictEqual(await worker.exit, { code: 0, signal: null });
  assert.strictEqual(fs.readFileSync(OUT, 'utf8'), 'closed\n');
});

test('what a handler throws is the app\'s, and is told', async () => {
  const worker = start('throws');
  await worker.listening();
  await draining(worker, 20000);
  await worker.exit;
  assert.notStrictEqual(worker.exited.code, 0);
  assert.strictEqual((await worker.said('error')).message, 'in the handler');
});

test('when the master is gone the handlers run, too', async () => {
  const OUT = out();
  const worker = start('handler', {}, { OUT });
  await worker.listening();
  worker.hangUp();
  assert.deepStrictEqual(await worker.exit, { code: 7, signal: null });
  assert.strictEqual(fs.readFileSync(OUT, 'utf8'), 'SIGTERM,15 false\n');
});

test('a worker that ends in the middle of its drain says how much that cuts', async () => {
  const worker = start('exits');
  const port = await worker.listening();
  const [slow, idle] = [new Client(port), new Client(port)];
  slow.get('/slow');
  idle.get('/idle');
  await idle.has('/idle');
  await draining(worker, 20000);
  assert.deepStrictEqual(await worker.exit, { code: 3, signal: null });
  const left = worker.messages.filter((m) => m.act === 'left');
  assert.strictEqual(left[left.length - 1].connections, 1); // not the idle one
});

// ------------------------------------------------------------------------------------------------- HTTP/2, rule 7

const NOTICE = [0, 2 ** 31 - 1];

/** The GOAWAYs that a client sees. */
function goaways(session) {
  const seen = [];
  session.on('goaway', (code, last) => seen.push([code, last]));
  return seen;
}

test('HTTP/2 over plain TCP: two GOAWAYs, the first of which refuses nothing', async () => {
  const worker = start('h2c');
  const session = connect(await worker.listening(), 'h2c');
  const seen = goaways(session);
  const slow = stream(session, '/slow');
  const first = stream(session, '/first');
  await waitUntil(() => first.done);
  await draining(worker, 20000);
  await waitUntil(() => seen.length === 2);
  assert.deepStrictEqual(seen, [NOTICE, [0, 3]]);
  worker.child.send('end');
  await waitUntil(() => slow.done && session.destroyed);
  assert.deepStrictEqual([slow.text, slow.error], ['slow', null]);
  assert.strictEqual((await worker.said('drained')).cut, 0);
});

for (const kind of ['h2c', 'h2']) {
  // The client asks for the next as soon as it has an answer, on many streams at once, until it hears of the GOAWAY.
  test(`HTTP/2: of many streams at once none is refused: ${kind}`, async () => {
    const worker = start(kind);
    const session = connect(await worker.listening(), kind);
    const all = [];
    const ask = () => {
      if (session.closed || session.destroyed) return;
      const request = session.request({ ':path': '/x' });
      const seen = { status: 0, error: null, done: false };
      all.push(seen);
      request.on('response', (headers) => { seen.status = headers[':status']; });
      request.on('error', (err) => { seen.error = err.code; });
      request.on('close', () => { seen.done = true; ask(); });
      request.resume();
    };
    for (let i = 0; i < 10; i++) ask();
    await waitUntil(() => all.length > 200);
    await draining(worker, 20000);
    await waitUntil(() => session.destroyed && all.every((seen) => seen.done));
    assert.deepStrictEqual(all.filter((seen) => seen.error || seen.status !== 200), []);
    assert.strictEqual((await worker.said('drained')).cut, 0);
  });
}
