'use strict';
// A negative control: each worker has a socket of its own (SO_REUSEPORT, Node 23.1 and later). What waits in its queue
// when it closes is reset by the kernel, however well the worker drains. Busy with each new connection, so that some wait.
const { handle } = require('./ledger-lib.cjs');

const server = require('node:http').createServer(handle);
server.on('connection', () => { for (const end = Date.now() + 3; Date.now() < end;); });
server.listen({ port: Number(process.env.PORT), host: '127.0.0.1', reusePort: true });
