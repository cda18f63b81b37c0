'use strict';

// Everything that is not plain HTTP/1.1, by KIND: raw TCP, TLS, https, WebSocket, Socket.IO, CONNECT, UDP.
const fs = require('node:fs');
const http = require('node:http');
const https = require('node:https');
const net = require('node:net');
const path = require('node:path');
const tls = require('node:tls');

const pem = () => ({
  key: fs.readFileSync(path.join(__dirname, 'key.pem')),
  cert: fs.readFileSync(path.join(__dirname, 'cert.pem')),
});

function echo(socket) {
  process.send({ connected: true });
  socket.on('data', (data) => socket.write(`echo ${data}`));
  socket.on('error', () => {});
}

const kinds = {
  tcp: () => net.createServer(echo).listen(0, '127.0.0.1'),
  tls: () => tls.createServer(pem(), echo).listen(0, '127.0.0.1'),
  https: () => https.createServer(pem(), (req, res) => {
    process.send({ seen: req.url });
    res.end(req.url);
  }).listen(0, '127.0.0.1'),
  ws: () => {
    const { WebSocketServer } = require('ws');
    const server = http.createServer().listen(0, '127.0.0.1');
    new WebSocketServer({ server }).on('connection', (ws) => ws.on('message', (data) => ws.send(`echo ${data}`)));
  },
  wss: () => {
    const { WebSocketServer } = require('ws');
    const server = https.createServer(pem()).listen(0, '127.0.0.1');
    new WebSocketServer({ server }).on('connection', (ws) => ws.on('message', (data) => ws.send(`echo ${data}`)));
  },
  bare: () => http.createServer().on('upgrade', (req, socket) => { // a WebSocket server that we cannot know
    socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n');
    process.send({ connected: true });
    socket.on('end', () => socket.end());
    socket.resume();
  }).listen(0, '127.0.0.1'),
  connect: () => http.createServer().on('connect', (req, socket) => {
    socket.write('HTTP/1.1 200 Connection established\r\n\r\n');
    echo(socket);
  }).listen(0, '127.0.0.1'),
  io: () => {
    const { Server } = require('socket.io');
    const server = http.createServer();
    new Server(server, { transports: ['websocket'] }).on('connection', (socket) => socket.on('ping', (n, cb) => cb(n)));
    server.listen(0, '127.0.0.1');
  },
  udp: () => {
    const socket = require('node:dgram').createSocket('udp4');
    socket.on('message', (data, from) => {
      process.send({ datagram: String(data) });
      setTimeout(() => socket.send(`late ${data}`, from.port, from.address), 300);
    });
    socket.bind(0, '127.0.0.1');
  },
  detached: () => { // hands its connections to a child process
    const child = require('node:child_process').fork(path.join(__dirname, 'child.cjs'));
    net.createServer({ pauseOnConnect: true }, (socket) => child.send('socket', socket)).listen(0, '127.0.0.1');
    child.on('message', (message) => process.send(message));
    process.once('disconnect', () => child.kill());
  },
  several: () => {
    for (let i = 0; i < 3; i++) http.createServer((req, res) => res.end(`server ${i}`)).listen(0, '127.0.0.1');
    net.createServer(echo).listen(process.env.LISTEN);
    net.createServer(echo).listen(`\0${process.env.LISTEN}`);
  },
};
kinds[process.env.KIND]();
