'use strict';
// The ledger's application over HTTPS; see ledger-lib.cjs for the environment.
const { handle, listen, tls } = require('./ledger-lib.cjs');

listen(require('node:https').createServer(tls(), handle));
