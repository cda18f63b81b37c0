'use strict';
const { WebSocketServer } = require('ws');

const server = new WebSocketServer({ port: Number(process.env.PORT || 0), host: '127.0.0.1' });
server.on('connection', (socket) => {
  socket.on('message', () => socket.send(JSON.stringify({ pid: process.pid })));
});
