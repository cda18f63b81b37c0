'use strict';

// A small foreign primary: what the master does on the channel, in JavaScript, so that the shim is tested
// against Node alone. It binds, hands the shared socket out and writes down every internal message.

const { spawn } = require('node:child_process');
const dgram = require('node:dgram');
const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');

const SHIM = path.join(__dirname, '..', 'shim.cjs');
const APPS = path.join(__dirname, 'apps');
const LIMIT_MS = 20000;

/** Polls a condition; the limit only bounds a failing test. */
async function waitUntil(condition, what = condition.toString(), limit = LIMIT_MS) {
  const end = Date.now() + limit;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`timed out: ${what}`);
    await new Promise((resolve) => { setTimeout(resolve, 5); });
  }
}

const running = new Set();
process.on('exit', () => { for (const child of running) child.kill('SIGKILL'); });

/** A bound UDP handle, or an errno. */
function udpHandle(address, port, type, flags) {
  const socket = dgram.createSocket(type);
  const symbol = Object.getOwnPropertySymbols(socket).find((s) => s.description === 'state symbol');
  const { handle } = socket[symbol];
  return handle.bind(address || '0.0.0.0', port, flags || 0) || handle;
}

class Primary {
  constructor() {
    this.handles = new Map(); // key -> { handle, data }
    this.hold = false; // withhold the answers to queryServer
    this.nextId = 1;
  }

  /** Starts one worker. `app` is a file in apps/ or an absolute path. */
  spawn(app, { shim = true, drainMs = 10000, settings = {}, env = {}, nodeArgs = [], args = [], shimArgs } = {}) {
    const preload = shim ? shimArgs || ['--require', SHIM] : [];
    const script = path.isAbsolute(app) ? app : path.join(APPS, app);
    const child = spawn(process.execPath, [...nodeArgs, ...preload, script, ...args], {
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      env: {
        ...process.env,
        NODE_UNIQUE_ID: String(this.nextId++),
        ...(shim ? { RCLUSTER_SHIM: JSON.stringify({ v: 1, drain_ms: drainMs, shutdown_message: false, ...settings }) } : {}),
        ...env,
      },
    });
    return new Worker(this, child);
  }

  answer(worker, message) {
    const { seq, port, addressType, fd, index, flags } = message;
    // Node resolves a path before it asks: the abstract path \0name comes as /working/folder/\0name.
    const address = addressType === -1 ? message.address.replace(/^.*\/\0/s, '\0') : message.address;
    const key = `${address}:${port}:${addressType}:${fd}${port === 0 ? `:${index}` : ''}`;
    let entry = this.handles.get(key);
    if (!entry) {
      if (addressType === -1 && address[0] !== '\0') fs.rmSync(address, { force: true });
      const handle = /^udp/.test(addressType)
        ? udpHandle(address, port, addressType, flags)
        : net._createServerHandle(address, port, addressType, fd, flags);
      if (typeof handle === 'number') {
        worker.post({ cmd: 'NODE_CLUSTER', ack: seq, key, errno: handle });
        return;
      }
      entry = { handle, data: message.data };
      this.handles.set(key, entry);
    }
    const reply = { cmd: 'NODE_CLUSTER', ack: seq, key, errno: 0, data: entry.data };
    if (worker.child.connected) worker.child.send(reply, entry.handle, { keepOpen: true }, () => {});
  }

  close() {
    for (const { handle } of this.handles.values()) handle.close();
    this.handles.clear();
  }
}

class Worker {
  constructor(primary, child) {
    this.child = child;
    this.messages = []; // of the shim
    this.cluster = []; // of Node
    this.app = []; // of the app
    this.stdout = '';
    this.stderr = '';
    running.add(child);
    child.stdout.on('data', (data) => { this.stdout += data; });
    child.stderr.on('data', (data) => { this.stderr += data; });
    child.on('error', () => {});
    child.on('message', (message) => this.app.push(message));
    child.on('internalMessage', (message) => {
      if (message.cmd === 'NODE_RCLUSTER') this.messages.push(message);
      if (message.cmd !== 'NODE_CLUSTER') return;
      this.cluster.push(message);
      if (message.act === 'queryServer' && !primary.hold) primary.answer(this, message);
      if (message.act === 'exitedAfterDisconnect') this.post({ cmd: 'NODE_CLUSTER', ack: message.seq });
    });
    this.exited = null;
    this.exit = new Promise((resolve) => {
      // Not 'close': it never comes after child.disconnect().
      let left = 3;
      let end;
      const part = () => {
        left -= 1;
        if (left > 0) return;
        running.delete(child);
        this.exited = end;
        resolve(end);
      };
      child.on('exit', (code, signal) => {
        end = { code, signal };
        part();
      });
      child.stdout.on('close', part);
      child.stderr.on('close', part);
    });
  }

  post(message) {
    if (this.child.connected) this.child.send(message, () => {});
  }

  sent(act) {
    return this.messages.find((message) => message.act === act);
  }

  /** The next (or an earlier) message of the shim with that act. */
  said(act) {
    return waitUntil(() => this.sent(act) || (this.exited && this.lost(act)), `message ${act}`);
  }

  lost(act) {
    if (this.sent(act)) return this.sent(act);
    throw new Error(`exited ${JSON.stringify(this.exited)} without ${act}: ${this.stderr}`);
  }

  /** Resolves with the n-th listening port (or path). */
  async listening(n = 0) {
    const found = await waitUntil(() => {
      if (this.exited) throw new Error(`exited before it listened: ${this.stderr}`);
      return this.cluster.filter((message) => message.act === 'listening')[n];
    }, 'listening');
    return found.addressType === -1 ? found.address : found.port;
  }

  drain(ms = 10000, closingMs) {
    this.post({ cmd: 'NODE_RCLUSTER', act: 'drain', deadline_ms: ms, closing_ms: closingMs });
  }

  /** The master's death, as the worker sees it: end of file on the channel. */
  hangUp() {
    this.child.disconnect();
  }

  kill(signal = 'SIGKILL') {
    if (!this.exited) this.child.kill(signal);
    return this.exit;
  }
}

/** A raw client that keeps every byte it gets. */
class Client {
  /** `options` are those of net.connect(); or a socket that is already there. */
  constructor(target, options = {}) {
    const socket = options instanceof net.Socket ? options : undefined;
    const place = typeof target === 'string' ? { path: target } : { port: target, host: '127.0.0.1' };
    this.socket = socket || net.connect({ ...place, ...options });
    this.text = '';
    this.ended = false; // FIN seen
    this.closed = false;
    this.error = null;
    this.socket.on('data', (data) => { this.text += data.toString('latin1'); });
    this.socket.on('end', () => { this.ended = true; });
    this.socket.on('error', (err) => { this.error = err; });
    this.socket.on('close', () => { this.closed = true; });
    this.opened = new Promise((resolve) => { this.socket.once(socket && socket.encrypted ? 'secureConnect' : 'connect', resolve); });
  }

  write(text) {
    this.socket.write(text);
    return this;
  }

  get(url, headers = '') {
    return this.write(`GET ${url} HTTP/1.1\r\nHost: x\r\n${headers}\r\n`);
  }

  /** Waits until `text` has been received `times` times. */
  has(text, times = 1) {
    return waitUntil(() => this.text.split(text).length > times || (this.closed && this.missing(text)), `received ${text}`);
  }

  missing(text) {
    throw new Error(`closed (${this.error && this.error.code}) without ${JSON.stringify(text)}: ${JSON.stringify(this.text)}`);
  }

  end() {
    return waitUntil(() => this.ended || this.closed, 'FIN');
  }

  destroy() {
    this.socket.destroy();
  }
}

/** Workers of one test file, with a clean-up for afterEach. */
function fleet() {
  let primary = new Primary();
  let workers = [];
  return {
    get primary() { return primary; },
    start(app, options) {
      const worker = primary.spawn(app, options);
      workers.push(worker);
      return worker;
    },
    async clean() {
      await Promise.all(workers.map((worker) => worker.kill()));
      primary.close();
      primary = new Primary();
      workers = [];
    },
  };
}

module.exports = { fleet, Primary, Client, waitUntil, SHIM, APPS };
