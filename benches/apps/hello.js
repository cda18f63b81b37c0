'use strict';
// The app of every contender: the smallest http server with a fixed answer.
// It listens on PORT, or on an inherited socket (BENCH_FD, for the bare parent), and says on stdout when
// it serves: the benches take their times from that line, which is the same for all contenders.
const fs = require('node:fs');
const http = require('node:http');

const body = Buffer.from('hello\n');
const server = http.createServer((req, res) => {
  res.writeHead(200, { 'Content-Type': 'text/plain', 'Content-Length': body.length });
  res.end(body);
});

const where = process.env.BENCH_FD
  ? { fd: Number(process.env.BENCH_FD) }
  : { host: '127.0.0.1', port: Number(process.env.PORT) };
server.listen(where, () => fs.writeSync(1, `ready ${process.pid}\n`));
