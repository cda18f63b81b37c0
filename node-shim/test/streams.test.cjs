'use strict';

// drain.md, rules 7 to 10: HTTP/2, WebSocket, server-sent events, raw TCP, TLS, unix paths, UDP.

const assert = require('node:assert');
const crypto = require('node:crypto');
const dgram = require('node:dgram');
const http2 = require('node:http2');
const os = require('node:os');
const path = require('node:path');
const tls = require('node:tls');
const { test, afterEach } = require('node:test');
const { Client, fleet, waitUntil } = require('./primary.cjs');

const workers = fleet();
const start = (KIND, options) => workers.start('streams.cjs', { env: { KIND }, ...options });
const http = (options) => workers.start('http.cjs', options);
const h2 = (MODE, API) => workers.start('h2.cjs', { env: { MODE, API } });
afterEach(() => workers.clean());

const appSaid = (worker, key, times = 1) => waitUntil(() => worker.app.filter((m) => m && key in m).length >= times, key);
const cut = async (worker) => (await worker.said('drained')).cut;

async function draining(worker, ms) {
  worker.drain(ms);
  return worker.said('draining');
}

function tlsClient(port, options) {
  return new Client(port, tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false, ...options }));
}

/** One HTTP/2 session that notes what it sees. */
function connect(port, mode) {
  const session = http2.connect(`${mode === 'plain' ? 'http' : 'https'}://127.0.0.1:${port}`, { rejectUnauthorized: false });
  const seen = { session, goaway: [], closed: false, errors: [] };
  session.on('goaway', (code, last) => seen.goaway.push([code, last]));
  session.on('close', () => { seen.closed = true; });
  session.on('error', (err) => seen.errors.push(err.code));
  seen.get = (url) => {
    const stream = session.request({ ':path': url });
    const answer = { text: '', status: 0, done: false, error: null };
    stream.setEncoding('utf8').on('data', (data) => { answer.text += data; });
    stream.on('response', (headers) => { answer.status = headers[':status']; });
    stream.on('error', (err) => { answer.error = err; });
    stream.on('close', () => { answer.done = true; });
    return answer;
  };
  return seen;
}

for (const [mode, api] of [['plain', 'stream'], ['plain', 'compat'], ['secure', 'stream'], ['secure', 'compat'], ['allow', 'compat']]) {
  test(`HTTP/2 ${mode} ${api}: open streams end, GOAWAY without error, then the session closes`, async () => {
    const worker = h2(mode, api);
    const client = connect(await worker.listening(), mode);
    const idle = connect(await worker.listening(), mode);
    const first = idle.get('/first');
    await waitUntil(() => first.done);
    const answer = client.get('/hold');
    await appSaid(worker, 'held');
    assert.strictEqual((await draining(worker)).connections, 2);
    await waitUntil(() => idle.closed, 'the idle session closes');
    await waitUntil(() => client.goaway.length > 0, 'GOAWAY');
    // Over plain TCP one that refuses nothing comes first.
    assert.deepStrictEqual(client.goaway[0], [0, mode === 'plain' ? 2 ** 31 - 1 : 1]);
    assert.strictEqual(answer.done, false);
    worker.child.send('release');
    await waitUntil(() => answer.done && client.closed);
    assert.strictEqual(answer.text, 'done');
    assert.strictEqual(answer.error, null);
    assert.deepStrictEqual(client.errors.concat(idle.errors), []);
    assert.strictEqual(await cut(worker), 0);
  });
}

test('HTTP/2: a stream that comes after GOAWAY is refused, not lost', async () => {
  const worker = h2('plain', 'stream');
  const client = connect(await worker.listening(), 'plain');
  const hold = client.get('/hold');
  await appSaid(worker, 'held');
  await draining(worker);
  const answers = [];
  await waitUntil(() => { // until the client itself has seen the GOAWAY
    if (client.session.closed || client.session.destroyed) return true;
    answers.push(client.get(`/n${answers.length}`));
    return false;
  });
  worker.child.send('release');
  await waitUntil(() => answers.every((a) => a.done) && hold.done);
  assert.strictEqual(hold.text, 'done');
  for (const answer of answers) {
    const retryable = answer.error && /REFUSED_STREAM|GOAWAY/.test(answer.error.code + answer.error.message);
    assert.ok(answer.status === 200 || retryable, String(answer.error));
  }
  assert.strictEqual(await cut(worker), 0);
});

test('HTTP/2: a stream that never ends is cut at the deadline, and counted', async () => {
  const worker = h2('secure', 'compat');
  const client = connect(await worker.listening(), 'secure');
  const answer = client.get('/hold');
  await appSaid(worker, 'held');
  await draining(worker, 300);
  await waitUntil(() => answer.done);
  assert.strictEqual(await cut(worker), 1);
});

test('HTTP/1.1 on an HTTP/2 server: as on any other', async () => {
  const worker = h2('allow', 'compat');
  const client = tlsClient(await worker.listening(), { ALPNProtocols: ['http/1.1'] });
  client.get('/one');
  await client.has('/one');
  await draining(worker);
  client.get('/two');
  await client.end();
  assert.match(client.text, /Connection: close\r\n[^]*\/two/);
  assert.strictEqual(await cut(worker), 0);
});

test('https: idle keep-alive, and a lingering close', async () => {
  const worker = start('https');
  const client = tlsClient(await worker.listening());
  client.get('/one');
  await client.has('/one');
  await draining(worker);
  client.get('/two');
  await client.end();
  assert.match(client.text, /Connection: keep-alive[^]*Connection: close\r\n[^]*\/two/);
  assert.strictEqual(client.error, null);
  assert.strictEqual(await cut(worker), 0);
});

test('https: a connection whose handshake comes during the drain is served', async () => {
  const worker = start('https');
  const raw = new Client(await worker.listening());
  await raw.opened;
  const probe = tlsClient(await worker.listening());
  probe.get('/probe', 'Connection: close\r\n');
  await appSaid(worker, 'seen');
  assert.ok((await draining(worker)).connections >= 1);
  raw.socket.removeAllListeners('data');
  const client = new Client(0, tls.connect({ socket: raw.socket, rejectUnauthorized: false }));
  client.get('/late');
  await client.has('/late');
  assert.match(client.text, /Connection: close/);
  client.destroy();
  assert.strictEqual(await cut(worker), 0);
});

for (const kind of ['tcp', 'tls']) {
  test(`${kind}: works until the deadline, then FIN`, async () => {
    const worker = start(kind);
    const client = kind === 'tls' ? tlsClient(await worker.listening()) : new Client(await worker.listening());
    client.write('one');
    await client.has('echo one');
    await draining(worker, 600);
    client.write('two');
    await client.has('echo two');
    await client.end();
    assert.strictEqual(client.error, null);
    assert.strictEqual(await cut(worker), 1);
    assert.deepStrictEqual(await worker.exit, { code: 0, signal: null });
  });

  test(`${kind}: a client that goes by itself ends the drain`, async () => {
    const worker = start(kind);
    const client = kind === 'tls' ? tlsClient(await worker.listening()) : new Client(await worker.listening());
    client.write('one');
    await client.has('echo one');
    await draining(worker);
    client.socket.end();
    assert.strictEqual(await cut(worker), 0);
  });
}

for (const kind of ['ws', 'wss']) {
  test(`${kind}: close code 1012, clean close`, async () => {
    const { WebSocket } = require('ws');
    const worker = start(kind);
    const ws = new WebSocket(`${kind}://127.0.0.1:${await worker.listening()}`, { rejectUnauthorized: false });
    const got = [];
    ws.on('message', (data) => got.push(String(data)));
    const closed = new Promise((resolve) => { ws.on('close', (code, reason) => resolve([code, String(reason)])); });
    await new Promise((resolve) => { ws.on('open', resolve); });
    ws.send('one');
    await waitUntil(() => got.length === 1);
    assert.strictEqual((await draining(worker)).connections, 1);
    ws.send('two');
    assert.deepStrictEqual(await closed, [1012, 'service restart']);
    assert.deepStrictEqual(got, ['echo one', 'echo two']);
    assert.strictEqual(await cut(worker), 0);
  });
}

test('a WebSocket peer that does not answer the close frame gets FIN and is destroyed', async () => {
  const worker = start('ws');
  const client = new Client(await worker.listening(), { allowHalfOpen: true });
  const key = crypto.randomBytes(16).toString('base64');
  client.get('/', `Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${key}\r\n`);
  await client.has('101 Switching');
  await draining(worker, 15000);
  await client.end();
  assert.ok(client.text.includes('\x88\x11\x03\xf4service restart'));
  assert.strictEqual(await cut(worker), 0);
});

test('a WebSocket server that is not `ws` is raw TCP: nothing is written into its stream, FIN at the deadline', async () => {
  const worker = start('bare');
  const client = new Client(await worker.listening());
  client.get('/', 'Connection: Upgrade\r\nUpgrade: websocket\r\n');
  await appSaid(worker, 'connected');
  await draining(worker, 1000);
  await client.end();
  assert.match(client.text, /^HTTP\/1.1 101 [^]*\r\n\r\n$/);
  assert.strictEqual(await cut(worker), 1);
});

test('an upgrade that is accepted during the drain is closed as well', async () => {
  const { WebSocket } = require('ws');
  const worker = start('ws');
  const client = new Client(await worker.listening());
  await client.opened;
  const probe = new WebSocket(`ws://127.0.0.1:${await worker.listening()}`);
  await new Promise((resolve) => { probe.on('open', resolve); });
  await draining(worker);
  const key = crypto.randomBytes(16).toString('base64');
  client.get('/', `Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${key}\r\n`);
  await client.has('service restart');
  assert.match(client.text, /^HTTP\/1.1 101 [^]*Connection: Upgrade/);
  client.destroy();
  assert.strictEqual(await cut(worker), 0);
});

test('Socket.IO: clients are told and come back by themselves', async () => {
  const { io } = require('socket.io-client');
  const worker = start('io');
  const socket = io(`http://127.0.0.1:${await worker.listening()}`, { transports: ['websocket'], reconnection: false });
  const reason = new Promise((resolve) => { socket.on('disconnect', (why) => resolve(why)); });
  await new Promise((resolve) => { socket.on('connect', resolve); });
  assert.strictEqual(await socket.timeout(5000).emitWithAck('ping', 7), 7);
  await draining(worker);
  assert.strictEqual(await reason, 'transport close'); // on which the client reconnects; not 'io server disconnect'
  assert.strictEqual(await cut(worker), 0);
});

test('thousands of WebSockets are not closed in one moment', async () => {
  const worker = start('ws', { drainMs: 15000, settings: { long_grace_ms: 5000 } });
  const port = await worker.listening();
  const key = crypto.randomBytes(16).toString('base64');
  const upgrade = `Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${key}\r\n`;
  const clients = Array.from({ length: 200 }, () => new Client(port).get('/', upgrade));
  for (const client of clients) await client.has('101 Switching');
  const at = [];
  for (const client of clients) {
    client.socket.on('data', () => { at.push(Date.now()); client.socket.end(); });
  }
  await draining(worker, 15000);
  assert.strictEqual(await cut(worker), 0);
  assert.strictEqual(at.length, 200);
  // 10 ms apart is two seconds in all; only a process that stands still for most of it could bunch them.
  assert.ok(Math.max(...at) - Math.min(...at) > 200, 'they come apart');
});

test('CONNECT tunnels are raw: nothing is written into them', async () => {
  const worker = start('connect');
  const client = new Client(await worker.listening());
  client.write('CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n');
  await client.has('established');
  await draining(worker, 500);
  client.write('one');
  await client.has('echo one');
  await client.end();
  assert.match(client.text, /\r\n\r\necho one$/);
  assert.strictEqual(await cut(worker), 1);
});

test('a unix path', async () => {
  const LISTEN = path.join(os.tmpdir(), `rcluster-shim-${process.pid}.sock`);
  const worker = http({ env: { LISTEN } });
  const client = new Client(await worker.listening());
  client.get('/one');
  await client.has('/one');
  await draining(worker);
  client.get('/two');
  await client.end();
  assert.match(client.text, /Connection: close\r\n[^]*\/two/);
  assert.strictEqual(await cut(worker), 0);
});

test('several servers: ports, a unix path, an abstract path', async () => {
  const LISTEN = path.join(os.tmpdir(), `rcluster-several-${process.pid}.sock`);
  const worker = start('several', { env: { KIND: 'several', LISTEN } });
  await worker.listening(4);
  const places = worker.cluster.filter((m) => m.act === 'listening');
  const clients = places.filter((m) => m.addressType !== -1).map((m) => new Client(m.port));
  for (const client of clients) await client.get('/').has('server');
  const raw = new Client(LISTEN);
  raw.write('x');
  await raw.has('echo x');
  assert.strictEqual((await draining(worker)).connections, 4);
  for (const client of clients) await client.get('/').has('server', 2);
  raw.socket.end();
  assert.strictEqual(await cut(worker), 0);
  assert.strictEqual(worker.cluster.filter((m) => m.act === 'close').length, 5);
});

test('UDP: the old worker leaves the shared socket to others, and still answers', async () => {
  const worker = start('udp');
  const port = await worker.listening();
  const client = dgram.createSocket('udp4');
  const got = [];
  client.on('message', (data) => got.push(String(data)));
  client.send('one', port, '127.0.0.1');
  await appSaid(worker, 'datagram');
  const other = start('udp');
  await other.listening();
  worker.drain();
  await worker.said('drained');
  for (let i = 0; i < 20; i++) client.send(`more ${i}`, port, '127.0.0.1');
  await appSaid(other, 'datagram', 20);
  assert.strictEqual(worker.app.filter((m) => m.datagram).length, 1);
  await waitUntil(() => got.includes('late one'), 'the answer of the drained worker');
  client.close();
  assert.deepStrictEqual(await worker.exit, { code: 0, signal: null });
});

test('connections that the app gave to a child process are not waited for', async () => {
  const worker = start('detached');
  const client = new Client(await worker.listening());
  await appSaid(worker, 'taken');
  await draining(worker);
  assert.strictEqual(await cut(worker), 0);
  client.destroy();
});
