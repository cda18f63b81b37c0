'use strict';
// The app of hello.js, which tells the bench of its first connection, too.
const http = require('node:http');
const ready = require('./ready');

const server = http.createServer((req, res) => res.end('hello\n'));
server.once('connection', ready);
server.listen(Number(process.env.PORT), '127.0.0.1', ready);
