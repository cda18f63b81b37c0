'use strict';

// Takes connections and is silent: what the client has ended holds no event loop any more. With HANDLER it exits with 7 at SIGTERM.
const net = require('node:net');

if (process.env.HANDLER) process.on('SIGTERM', () => process.exit(7));
const server = net.createServer({ allowHalfOpen: true }, (socket) => {
  socket.on('error', () => {}).on('end', () => {
    process.send({ mute: true });
    if (process.env.UNREF) process.channel.unref();
  }).resume();
});
server.listen(0, '127.0.0.1');
