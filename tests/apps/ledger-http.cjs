'use strict';
// The ledger's application over HTTP/1.1; see ledger-lib.cjs for the environment.
const { handle, listen } = require('./ledger-lib.cjs');

listen(require('node:http').createServer(handle));
