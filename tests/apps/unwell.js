// A server that can be made ill by its paths. Nothing here knows of rcluster.
'use strict';
const http = require('node:http');

if (process.env.SPIN_IN_BOOT === '1') for (;;) { /* never listens */ }
if (process.env.ONCE) { // only the first process listens
  if (require('node:fs').existsSync(process.env.ONCE)) return void setInterval(() => {}, 1000);
  require('node:fs').writeFileSync(process.env.ONCE, '');
}
let sick = process.env.SICK === '1';
const kept = [];

const server = http.createServer((req, res) => {
  const { pathname } = new URL(req.url, 'http://x');
  const about = () => res.end(JSON.stringify({ pid: process.pid, slot: process.env.RCLUSTER_SLOT, args: process.execArgv }));
  switch (pathname) {
    case '/healthz':
      if (process.env.SILENT === '1') return; // accepted, never answered
      res.statusCode = sick ? 503 : 200;
      if (process.env.HUGE === '1') { // whoever reads it all pays for it
        (function more() { while (res.write(Buffer.alloc(65536))) { /* on */ } res.once('drain', more); }());
        return;
      }
      return res.end('health');
    case '/sick': sick = true; return about();
    case '/spin': return spinForEver();
    case '/regex': return catastrophe();
    case '/native': return deriveForEver();
    case '/exec': return waitForAChild();
    case '/pause': { // comes to itself again
      about();
      const end = Date.now() + 1800;
      setImmediate(() => { while (Date.now() < end) { /* blocks */ } });
      return;
    }
    case '/close': about(); return server.close();
    case '/leak': kept.push(Buffer.alloc(96 << 20, 1)); return about();
    case '/heap': for (let i = 0; i < 40; i++) kept.push(Array.from({ length: 100000 }, (_, n) => ({ n }))); return about();
    case '/fds': for (let i = 0; i < 400; i++) kept.push(require('node:fs').openSync('/dev/null')); return about();
    case '/path': { // a listener where the environment says
      const other = http.createServer(about).on('error', (err) => res.end(JSON.stringify({ code: err.code })));
      return other.listen(process.env.OTHER, () => res.end(JSON.stringify({ code: 'listens' })));
    }
    default: return about();
  }
});

function catastrophe() {
  return /^(a+)+$/.test(`${'a'.repeat(64)}!`); // tries each of 2^64 ways
}

function deriveForEver() {
  return require('node:crypto').pbkdf2Sync('secret', 'salt', 2 ** 31 - 1, 64, 'sha512');
}

function waitForAChild() {
  require('node:child_process').execSync('sleep 600');
}

function spinForEver() {
  for (;;) { /* the loop does not turn any more */ }
}

server.listen(Number(process.env.PORT || 0), '127.0.0.1');
