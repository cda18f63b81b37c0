'use strict';
// A server that closes doors behind the shim, as its arguments say. /hold is answered at SIGUSR2.
const fs = require('fs');
const http = require('http');
const Module = require('module');
const net = require('net');
const { Worker } = require('worker_threads');

const say = (event, more) => fs.writeSync(1, `${JSON.stringify({ event, pid: process.pid, ...more })}\n`);
const who = () => JSON.stringify({ pid: process.pid });
let held = [];

const server = http.createServer((req, res) => {
  if (req.url === '/hold') {
    held.push(res);
    say('held');
  } else if (req.url === '/eat') {
    const eaten = [];
    try {
      for (;;) eaten.push(fs.openSync('/dev/null'));
    } catch (err) {
      res.end(JSON.stringify({ code: err.code, eaten: eaten.length }));
    }
  } else if (req.url === '/thread') {
    const thread = new Worker('require("worker_threads").parentPort.postMessage("hello")', { eval: true });
    thread.on('message', (message) => res.end(message)).on('error', (err) => res.end(String(err)));
  } else {
    res.end(who());
  }
});
process.on('SIGUSR2', () => {
  for (const res of held) res.end(who());
  held = [];
});

const doors = {
  // As a server that binds a low port and then stops being root.
  root() {
    process.setgid(65534);
    process.setuid(65534);
  },
  // As a server that locks itself in; tests/common/jail.c makes it so.
  chroot() {
    process.setgid(0);
    let code;
    try { fs.readdirSync(__dirname); } catch (err) { code = err.code; }
    say('jailed', { code });
  },
  // As jest or sinon with fake timers: nothing fires, and no time passes.
  timers() {
    const dead = () => ({ ref() { return this; }, unref() { return this; }, refresh() { return this; } });
    const timers = require('timers');
    for (const name of ['setTimeout', 'setInterval', 'setImmediate']) globalThis[name] = timers[name] = dead;
    for (const name of ['clearTimeout', 'clearInterval', 'clearImmediate']) globalThis[name] = timers[name] = () => {};
    globalThis.Date = class extends Date { static now() { return 0; } };
    Object.defineProperty(performance, 'now', { value: () => 0 });
  },
  // As a loader that lets in only what it knows, and not even Node's own.
  require() {
    Module._load = (name) => { throw new Error(`refused: ${name}`); };
    Module._resolveFilename = Module._load;
    Module.prototype.require = Module._load;
  },
  // As hardened JavaScript: nobody can hook anything any more.
  prototypes() {
    Object.freeze(net.Socket.prototype);
  },
  // What the channel carries is tampered with: no heartbeat comes through.
  beats() {
    const symbol = Object.getOwnPropertySymbols(process).find((s) => s.description === 'kChannelHandle');
    const channel = process[symbol];
    const { writeUtf8String } = channel;
    channel.writeUtf8String = function write(request, text, ...more) {
      if (text.includes('"act":"beat"')) return 0;
      return writeUtf8String.call(this, request, text, ...more);
    };
  },
};

server.listen(Number(process.env.PORT || 0), '127.0.0.1', () => {
  for (const door of process.argv.slice(2)) doors[door]();
});
