'use strict';
// The echo of echo-http.js that journals: a line in journal/<pid>, beside the pipe BENCH_READY, for each request that it receives
// (`R id`) and answers (`A id`), and for each connection (`C port ms`). Written at once, so that what a killed worker had is known. `GET /spin` hangs it.
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const ready = require('./ready');

const folder = path.join(path.dirname(process.env.BENCH_READY), 'journal');
fs.mkdirSync(folder, { recursive: true });
const journal = fs.openSync(path.join(folder, String(process.pid)), 'a');

const server = http.createServer((req, res) => {
  if (req.url === '/spin') for (;;) { /* the loop does not turn any more */ }
  const id = req.headers['x-id'] ?? '';
  fs.writeSync(journal, `R ${id}\n`);
  const parts = [];
  req.on('data', (part) => parts.push(part));
  req.on('end', () => {
    res.setHeader('x-id', id);
    res.on('finish', () => fs.writeSync(journal, `A ${id}\n`));
    res.end(Buffer.concat(parts));
  });
});
server.on('connection', (socket) => fs.writeSync(journal, `C ${socket.remotePort} ${Date.now()}\n`));
server.listen(Number(process.env.PORT), '127.0.0.1', ready);
