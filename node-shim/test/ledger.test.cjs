'use strict';

// Keep-alive clients that account for every request, without a retry, while workers are replaced. A client
// commits to a request, then its bytes travel for some milliseconds: exactly the race that a server which
// closes idle connections loses. The negative controls must lose, or the test is blind.

const assert = require('node:assert');
const net = require('node:net');
const { test, afterEach } = require('node:test');
const { fleet, waitUntil } = require('./primary.cjs');

const CLIENTS = 16;
const REPLACEMENTS = 6;

const workers = fleet();
afterEach(() => workers.clean());

const sleep = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

/** One request on `socket`; the bytes leave after `latency` whatever has happened to the socket meanwhile. */
async function request(socket, id, latency) {
  await sleep(latency);
  const body = `id=${id}`;
  return new Promise((resolve, reject) => {
    let text = '';
    const fail = (why) => () => reject(new Error(`${why} after ${text.length} bytes`));
    const [onEnd, onError] = [fail('FIN'), fail('error')];
    const done = (error, close) => {
      socket.off('data', onData).off('end', onEnd).off('error', onError);
      if (error) reject(error);
      else resolve(close);
    };
    function onData(data) {
      text += data;
      const head = text.indexOf('\r\n\r\n');
      if (head < 0 || text.length < head + 4 + body.length) return;
      const right = text.startsWith('HTTP/1.1 200 ') && text.slice(head + 4) === body;
      done(right ? null : new Error(`wrong answer: ${text}`), /\r\nConnection: close\r\n/i.test(text));
    }
    socket.on('data', onData).on('end', onEnd).on('error', onError);
    if (socket.destroyed || socket.readableEnded) onEnd();
    else socket.write(`POST / HTTP/1.1\r\nHost: x\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
  });
}

/** Runs the clients while `replace` is called again and again. Returns the ledger. */
async function run(options, latency, replace) {
  const ledger = { ok: 0, lost: [], refused: 0 };
  let stop = false;
  let worker = workers.start('ledger.cjs', options);
  const port = await worker.listening();
  const clients = Array.from({ length: CLIENTS }, async (_, n) => {
    let socket = null;
    for (let i = 0; !stop; i++) {
      if (!socket || socket.destroyed || socket.readableEnded) {
        socket = net.connect(port, '127.0.0.1').on('error', () => {});
        const opened = await new Promise((resolve) => { socket.once('connect', () => resolve(true)).once('error', () => resolve(false)); });
        if (!opened) {
          ledger.refused += 1;
          continue;
        }
        socket.setNoDelay(true);
      }
      try {
        const close = await request(socket, `${n}-${i}`, latency);
        ledger.ok += 1;
        if (close) socket = void socket.end();
      } catch (err) {
        ledger.lost.push(err.message);
        socket.destroy();
      }
      await sleep(Math.random() * 10);
    }
    if (socket) socket.destroy();
  });
  for (let i = 0; i < REPLACEMENTS; i++) {
    await sleep(100);
    const next = workers.start('ledger.cjs', options);
    await next.listening();
    const old = worker;
    worker = next;
    replace(old);
    await waitUntil(() => !old.child.connected || old.exited, 'the old one has gone');
  }
  stop = true;
  await Promise.all(clients);
  return ledger;
}

for (const latency of [0, 5, 20]) {
  test(`no request is lost over ${REPLACEMENTS} replacements, latency ${latency} ms`, async () => {
    const drained = [];
    const ledger = await run({}, latency, (worker) => {
      drained.push(worker);
      worker.drain(10000);
    });
    assert.deepStrictEqual(ledger.lost, []);
    assert.strictEqual(ledger.refused, 0);
    assert.ok(ledger.ok > CLIENTS * REPLACEMENTS, `${ledger.ok} requests are too few`);
    assert.deepStrictEqual(drained.map((worker) => worker.sent('drained').cut), drained.map(() => 0));
  });
}

test('negative control: Node\'s own disconnect loses requests', async (t) => {
  const ledger = await run({ shim: false }, 20, (worker) => {
    worker.post({ cmd: 'NODE_CLUSTER', act: 'disconnect' });
    // It may never end: keep-alive clients go on being served.
    setTimeout(() => worker.kill('SIGTERM'), 1000);
  });
  t.diagnostic(`${ledger.lost.length} lost, ${ledger.ok} ok`);
  assert.ok(ledger.lost.length > 0, 'this test would not see a loss');
});

test('negative control: SIGTERM loses requests', async () => {
  const ledger = await run({}, 5, (worker) => worker.kill('SIGTERM'));
  assert.ok(ledger.lost.length > 0, 'this test would not see a loss');
});
