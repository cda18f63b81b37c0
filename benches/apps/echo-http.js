'use strict';
// Echo as the ledger wants it, on plain http: POST answers with the same `x-id` and body, `x-delay-ms` later if asked.
// Nothing in it knows about reloads: it is an unmodified app.
const http = require('node:http');
const ready = require('./ready');

const server = http.createServer((req, res) => {
  const parts = [];
  req.on('data', (part) => parts.push(part));
  req.on('end', () => {
    const answer = () => {
      res.setHeader('x-id', req.headers['x-id'] ?? '');
      res.end(Buffer.concat(parts));
    };
    const delay = Number(req.headers['x-delay-ms'] ?? 0);
    if (delay > 0) setTimeout(answer, delay);
    else answer();
  });
});
server.listen(Number(process.env.PORT), '127.0.0.1', ready);
