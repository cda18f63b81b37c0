'use strict';
// The ledger's application over HTTP/2: under TLS with CERT and KEY, else in clear with prior knowledge; see ledger-lib.cjs.
// GOAWAY=1: at a drain one GOAWAY at once, as a session's close() sends it.
const http2 = require('node:http2');
const { handle, listen, tls } = require('./ledger-lib.cjs');

const server = process.env.CERT ? http2.createSecureServer(tls(), handle) : http2.createServer(handle);
const sessions = new Set();
server.on('session', (session) => sessions.add(session.once('close', () => sessions.delete(session))));
process.on('rcluster:drain', () => process.env.GOAWAY && sessions.forEach((session) => session.close()));
listen(server);
