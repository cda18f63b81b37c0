'use strict';
// The app of the balance bench. Every answer but an echo says in `x-worker` who gave it. `GET /burn` costs 50 ms of CPU first; `GET /spin`
// says `ready` once more and keeps the event loop for good; `POST` is the echo of the ledger; everything else is `hello`.
// It listens on PORT, or on an inherited socket (BENCH_FD, for the bare parents).
const http = require('node:http');
const { threadId } = require('node:worker_threads');
const ready = require('./ready');

const BURN_US = 50_000;
const body = Buffer.from('hello\n');
const worker = `${process.pid}.${threadId}`;

const cpu = process.threadCpuUsage ? () => process.threadCpuUsage() : () => process.cpuUsage();

function burn() {
  const spent = () => { const { user, system } = cpu(); return user + system; };
  const until = spent() + BURN_US;
  let x = 0;
  do {
    for (let i = 0; i < 20_000; i++) x = (x * 31 + i) | 0;
  } while (spent() < until);
  return x;
}

const server = http.createServer((req, res) => {
  if (req.method === 'POST') {
    const parts = [];
    req.on('data', (part) => parts.push(part));
    req.on('end', () => {
      res.setHeader('x-id', req.headers['x-id'] ?? '');
      res.end(Buffer.concat(parts));
    });
    return;
  }
  if (req.url === '/burn') burn();
  if (req.url === '/spin') {
    ready();
    for (;;);
  }
  res.writeHead(200, { 'Content-Type': 'text/plain', 'Content-Length': body.length, 'x-worker': worker });
  res.end(body);
});

const where = process.env.BENCH_FD
  ? { fd: Number(process.env.BENCH_FD) }
  : { host: '127.0.0.1', port: Number(process.env.PORT) };
server.listen(where, ready);
