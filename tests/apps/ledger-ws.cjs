'use strict';
// The ledger's application over WebSocket: each text message "id:padding" is echoed; see ledger-lib.cjs for the environment.
const { WebSocketServer } = require('ws');
const { handle, listen, journal, delayMs } = require('./ledger-lib.cjs');

const server = require('node:http').createServer(handle);
new WebSocketServer({ server }).on('connection', (socket) => {
  socket.on('error', () => {});
  socket.on('message', (data, binary) => {
    const id = String(data).split(':', 1)[0];
    journal('R', id);
    const answer = () => socket.send(data, { binary }, (error) => error || journal('A', id));
    if (delayMs > 0) setTimeout(answer, delayMs);
    else answer();
  });
});
listen(server);
