'use strict';
// The app of every contender: the smallest http server with a fixed answer.
// It listens on PORT, or on an inherited socket (BENCH_FD, for the bare parent).
const http = require('node:http');
const ready = require('./ready');

const body = Buffer.from('hello\n');
const server = http.createServer((req, res) => {
  res.writeHead(200, { 'Content-Type': 'text/plain', 'Content-Length': body.length });
  res.end(body);
});

const where = process.env.BENCH_FD
  ? { fd: Number(process.env.BENCH_FD) }
  : { host: '127.0.0.1', port: Number(process.env.PORT) };
server.listen(where, ready);
