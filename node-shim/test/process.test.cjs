'use strict';

// The shim as a guest: what the app can see of it, errors, signals, the end of the channel.

const assert = require('node:assert');
const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { test, afterEach } = require('node:test');
const { APPS, Client, SHIM, fleet, waitUntil } = require('./primary.cjs');

const workers = fleet();
afterEach(() => workers.clean());

const appSaid = (worker, key, times = 1) => waitUntil(() => worker.app.filter((m) => m && key in m).length >= times, key);
const fact = async (worker, key) => {
  await appSaid(worker, key);
  return worker.app.find((m) => m[key])[key];
};

// ------------------------------------------------------------------------------------------- a quiet guest

const link = path.join(fs.mkdtempSync(path.join(os.tmpdir(), 'rcluster-shim-')), 'link.cjs');
fs.symlinkSync(SHIM, link);
process.on('exit', () => fs.rmSync(path.dirname(link), { recursive: true }));

for (const [name, shimArgs] of [
  ['--require PATH', ['--require', SHIM]],
  ['--require=PATH', [`--require=${SHIM}`]],
  ['-r PATH', ['-r', SHIM]],
  ['a symlink', ['--require', link]],
]) {
  test(`hidden from execArgv and from the environment: ${name}`, async () => {
    const worker = workers.start('facts.cjs', { shimArgs, nodeArgs: ['--no-warnings', '--require', path.join(APPS, 'empty.cjs')], args: ['a', '--b'] });
    const main = await fact(worker, 'main');
    assert.deepStrictEqual(main.execArgv, ['--no-warnings', '--require', path.join(APPS, 'empty.cjs')]);
    assert.strictEqual(main.shim, undefined);
    const plain = await fact(workers.start('facts.cjs', { shim: false }), 'main');
    assert.strictEqual(main.message, plain.message);
    assert.deepStrictEqual(main.argv, ['a', '--b']);
    assert.strictEqual(main.main, true);
    assert.strictEqual(main.monitor, 1, 'the shim is at work here');
  });
}

test('inert in forked children and in threads', async () => {
  const worker = workers.start('facts.cjs');
  const thread = await fact(worker, 'thread');
  const child = await fact(worker, 'child');
  assert.deepStrictEqual([thread.shim, thread.monitor, thread.hup], [undefined, 0, 0]);
  assert.deepStrictEqual([child.shim, child.internal, child.hup, child.execArgv], [undefined, 0, 0, []]);
  await worker.exit;
  assert.strictEqual(worker.messages.filter((m) => m.act === 'hello').length, 1);
});

test('inert in a process that is no cluster worker, whatever the environment says', () => {
  const code = 'console.log(process.listenerCount("SIGHUP"), require("net").Server.prototype._listen2.name)';
  for (const RCLUSTER_SHIM of ['{"v":1}', 'not JSON', undefined]) {
    const env = { ...process.env, RCLUSTER_SHIM };
    if (RCLUSTER_SHIM === undefined) delete env.RCLUSTER_SHIM;
    const run = spawnSync(process.execPath, ['--require', SHIM, '-e', code], { env, encoding: 'utf8' });
    assert.strictEqual(run.stdout, '0 setupListenHandle\n');
    assert.strictEqual(run.stderr, '');
  }
});

test('settings that are not JSON: plain Node', async () => {
  const worker = workers.start('http.cjs', { env: { RCLUSTER_SHIM: '{' } });
  const client = new Client(await worker.listening());
  client.get('/one');
  await client.has('/one');
  assert.strictEqual(worker.messages.length, 0);
});

test('the event loop: ends, or is held, as without the shim', async () => {
  for (const shim of [true, false]) {
    const ends = workers.start('loop.cjs', { shim, env: { UNREF: '1' } });
    assert.deepStrictEqual(await ends.exit, { code: 0, signal: null });
    assert.strictEqual(ends.stdout, 'exit 0\n');
    const waits = workers.start('loop.cjs', { shim });
    await waitUntil(() => waits.cluster.some((m) => m.act === 'online'));
    assert.strictEqual(waits.exited, null);
    waits.post({ cmd: 'NODE_CLUSTER', act: 'disconnect' });
    assert.deepStrictEqual(await waits.exit, { code: 0, signal: null });
  }
});

test('no warnings, no leftovers on stderr', async () => {
  const worker = workers.start('http.cjs', { nodeArgs: ['--trace-warnings'] });
  const client = new Client(await worker.listening());
  client.get('/one', 'Connection: close\r\n');
  await client.end();
  worker.drain();
  await worker.exit;
  assert.strictEqual(worker.stderr, '');
});

test('unknown and malformed messages of the master change nothing', async () => {
  const worker = workers.start('http.cjs');
  const client = new Client(await worker.listening());
  for (const message of [{}, { act: 'toString' }, { act: '__proto__' }, { act: null }, { act: 'future', x: 1 }]) {
    worker.post({ cmd: 'NODE_RCLUSTER', ...message });
  }
  client.get('/one');
  await client.has('/one');
  worker.post({ cmd: 'NODE_RCLUSTER', act: 'drain', deadline_ms: 'soon' });
  assert.strictEqual((await worker.said('draining')).connections, 1);
  client.socket.end();
  assert.strictEqual((await worker.said('drained')).cut, 0);
});

test('servers in ESM, subclassed, listening again', async () => {
  const worker = workers.start('esm.mjs');
  await worker.listening(2);
  const ports = worker.cluster.filter((m) => m.act === 'listening').map((m) => m.port);
  const [first, second] = [new Client(ports[1]), new Client(ports[2])];
  await first.get('/').has('first');
  await second.get('/').has('second');
  worker.drain();
  assert.strictEqual((await worker.said('draining')).connections, 2);
  await first.get('/').has('first', 2);
  await second.get('/').has('second', 2);
  assert.match(first.text, /Connection: close/);
  assert.strictEqual((await worker.said('drained')).cut, 0);
});

// -------------------------------------------------------------------------------------------------- errors

for (const [app, HOW, name, message, origin, stack] of [
  ['error.cjs', 'top', 'TypeError', /^top level$/, 'uncaughtException', /error\.cjs/],
  ['error.cjs', 'rejection', 'RangeError', /^rejected$/, 'unhandledRejection', /error\.cjs/],
  ['error.cjs', 'reason', /UnhandledPromiseRejection|Error/, /code|#<Object>/, 'unhandledRejection', /./],
  ['error.cjs', 'later', 'Error', /^later$/, 'uncaughtException', /error\.cjs/],
  ['error.cjs', 'string', 'Uncaught', /^'just a string'$/, 'uncaughtException', /^$/],
  ['error.cjs', 'nothing', 'Uncaught', /^undefined$/, 'uncaughtException', /^$/],
  ['error.cjs', 'hostile', 'Uncaught', /./, 'uncaughtException', /^$/],
  ['error.cjs', 'module', 'Error', /Cannot find module '\.\/does-not-exist\.cjs'/, 'uncaughtException', /error\.cjs/],
  ['error.cjs', 'emitter', 'Error', /^no listener$/, 'uncaughtException', /error\.cjs/],
  ['missing.cjs', '', 'Error', /Cannot find module .*missing\.cjs/, 'uncaughtException', /./],
  ['syntax.cjs', '', 'SyntaxError', /Unexpected token/, 'uncaughtException', /syntax\.cjs:2/],
  ['syntax.mjs', '', 'SyntaxError', /Unexpected token/, /./, /./],
  ['throws.mjs', '', 'SyntaxError', /^from ESM$/, /./, /throws\.mjs:3/],
  ['imports.mjs', '', 'Error', /Cannot find module .*does-not-exist\.mjs/, /./, /./],
]) {
  test(`an error that kills is reported: ${app} ${HOW}`, async () => {
    const worker = workers.start(app, { env: { HOW } });
    const { code } = await worker.exit;
    assert.notStrictEqual(code, 0);
    const error = worker.sent('error');
    assert.ok(error, 'reported before the death');
    if (name instanceof RegExp) assert.match(error.name, name);
    else assert.strictEqual(error.name, name);
    assert.match(error.message, message);
    if (origin instanceof RegExp) assert.match(error.origin, origin);
    else assert.strictEqual(error.origin, origin);
    assert.match(error.stack, stack);
    assert.ok(!('handled' in error));
  });
}

test('a huge error is bounded', async () => {
  const worker = workers.start('error.cjs', { env: { HOW: 'huge' } });
  await worker.exit;
  const error = worker.sent('error');
  assert.ok(Buffer.byteLength(error.message) <= 2048 && error.message.length > 600);
  assert.ok(Buffer.byteLength(error.stack) <= 8192);
  assert.match(error.message, /^\u20ac+$/);
});

test('an error that the app survives is marked, and does not flood the channel', async () => {
  const worker = workers.start('error.cjs', { env: { HOW: 'handled' } });
  await appSaid(worker, 'survived', 30);
  const errors = worker.messages.filter((m) => m.act === 'error');
  assert.strictEqual(errors.length, 20);
  assert.ok(errors.every((m) => m.handled === true));
});

test('process.exit() is no error', async () => {
  const worker = workers.start('error.cjs', { env: { HOW: 'exit' } });
  assert.strictEqual((await worker.exit).code, 3);
  assert.strictEqual(worker.sent('error'), undefined);
});

// ------------------------------------------------------------------------------------------------- signals

test('SIGHUP acts as in plain Node: it kills, unless the app listens', async () => {
  for (const shim of [true, false]) {
    const plain = workers.start('http.cjs', { shim });
    await plain.listening();
    plain.child.kill('SIGHUP');
    assert.deepStrictEqual(await plain.exit, { code: null, signal: 'SIGHUP' }, `shim: ${shim}`);
  }
  const listens = workers.start('held.cjs');
  await listens.listening();
  listens.child.kill('SIGHUP');
  await appSaid(listens, 'hup');
});

test('after the drain the app\'s SIGTERM handler closes as in plain Node; its process.send() does no harm', async () => {
  const worker = workers.start('held.cjs', { env: { NOISY: '1' } });
  await worker.listening();
  worker.drain();
  await worker.said('drained');
  await waitUntil(() => !worker.child.connected, 'the channel is closed');
  worker.child.kill('SIGTERM');
  assert.deepStrictEqual(await worker.exit, { code: 0, signal: null });
  assert.strictEqual(worker.stdout, 'closed ok\nexit 0\n');
  assert.strictEqual(worker.stderr, '');
});

// ------------------------------------------------------------------------------------- the end of the channel

test('the master is gone: what is in flight is served, then exit 0', async () => {
  const worker = workers.start('held.cjs', { env: { NOISY: '1' } });
  const port = await worker.listening();
  const client = new Client(port).get('/hold');
  const other = new Client(port).get('/one');
  await appSaid(worker, 'held');
  await other.has('/one');
  worker.hangUp();
  await waitUntil(async () => { // it takes no connections any more, so the port of this one worker is silent
    const probe = new Client(port);
    await probe.opened;
    probe.get('/probe');
    await new Promise((resolve) => { setTimeout(resolve, 50); });
    const silent = probe.text === '';
    probe.destroy();
    return silent;
  });
  other.get('/release');
  await other.end();
  await client.end();
  assert.match(client.text, /Connection: close\r\n[^]*done/);
  assert.match(other.text, /Connection: close\r\n[^]*released/);
  assert.deepStrictEqual(await worker.exit, { code: 0, signal: null });
  assert.strictEqual(worker.stderr, '');
});

test('the master is gone, and a request hangs: exit 0 at the deadline', async () => {
  const worker = workers.start('held.cjs', { drainMs: 300 });
  const client = new Client(await worker.listening()).get('/hold');
  await appSaid(worker, 'held');
  worker.hangUp();
  assert.deepStrictEqual(await worker.exit, { code: 0, signal: null });
  assert.strictEqual(client.text, '');
});

for (const [handler, code] of [[true, 7], [false, 0]]) {
  test(`the master is gone, and nothing holds the event loop: ${handler ? 'the handler of the stop signal runs' : 'exit 0'}`, async () => {
    const worker = workers.start('mute.cjs', { drainMs: 300, env: handler ? { HANDLER: '1' } : {} });
    const client = new Client(await worker.listening());
    client.socket.end('x');
    await appSaid(worker, 'mute');
    worker.hangUp();
    assert.deepStrictEqual(await worker.exit, { code, signal: null });
  });
}

test('nothing holds the event loop in a drain: it goes on to its deadline', async () => {
  const worker = workers.start('mute.cjs', { drainMs: 300, env: { UNREF: '1' } });
  const client = new Client(await worker.listening());
  client.socket.end('x');
  await appSaid(worker, 'mute');
  worker.drain(300);
  assert.strictEqual((await worker.said('drained')).cut, 1);
  assert.deepStrictEqual(await worker.exit, { code: 0, signal: null });
});

test('the master is gone during a drain: the drain goes on', async () => {
  const worker = workers.start('held.cjs');
  const port = await worker.listening();
  const client = new Client(port).get('/hold');
  const other = new Client(port).get('/one');
  await appSaid(worker, 'held');
  await other.has('/one');
  worker.drain();
  await worker.said('draining');
  worker.hangUp();
  other.get('/release');
  await client.end();
  assert.match(client.text, /Connection: close\r\n[^]*done/);
  assert.deepStrictEqual(await worker.exit, { code: 0, signal: null });
});

test('negative control: without the shim the end of the channel loses what is in flight', async () => {
  const worker = workers.start('held.cjs', { shim: false });
  const client = new Client(await worker.listening()).get('/hold');
  await appSaid(worker, 'held');
  worker.hangUp();
  await client.end();
  assert.strictEqual(client.text, '');
  assert.deepStrictEqual(await worker.exit, { code: 0, signal: null });
});

for (const what of ['process.disconnect', 'worker.disconnect', 'worker.kill']) {
  test(`${what}() of the app does what it does without the shim`, async () => {
    const ends = [];
    for (const shim of [true, false]) {
      const worker = workers.start('held.cjs', { shim });
      await worker.listening();
      worker.child.send(what);
      ends.push([await worker.exit, worker.stdout, worker.messages.filter((m) => !['hello', 'leaving'].includes(m.act))]);
    }
    assert.deepStrictEqual(ends[0], ends[1]);
  });
}

test('an error in a domain leaves process.domain null, as in plain Node', async () => {
  for (const shim of [false, true]) {
    const worker = workers.start('domain.cjs', { shim });
    const told = await waitUntil(() => worker.app[0], 'its domain');
    assert.strictEqual(told.domain, null, `shim: ${shim}`);
  }
});
