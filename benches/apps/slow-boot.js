'use strict';
// An app that waits before it listens, as one does that connects to its database first. The wait costs no CPU, so that
// several of them can boot side by side on a small machine.
const http = require('node:http');
const ready = require('./ready');

setTimeout(() => {
  http.createServer((_req, res) => res.end('hello\n')).listen(Number(process.env.PORT), '127.0.0.1', ready);
}, 500);
