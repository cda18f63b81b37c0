'use strict';
// The ledger's application over HTTP/2: under TLS with CERT and KEY, else in clear with prior knowledge; see ledger-lib.cjs.
const http2 = require('node:http2');
const { handle, listen, tls } = require('./ledger-lib.cjs');

listen(process.env.CERT ? http2.createSecureServer(tls(), handle) : http2.createServer(handle));
