'use strict';
// Opens the servers that its arguments describe, one JSON object each:
//   {"kind": "http"|"https"|"http2"|"h2c"|"net"|"udp4"|"udp6", "listen": what listen() or bind() takes,
//    "again": listen once more after a close, "twice": a second server on the same options}
// Each says who answers. Facts go to stdout as JSON lines, with the position `n` of the argument.
const cluster = require('cluster');
const fs = require('fs');
const path = require('path');

const who = () => JSON.stringify({ pid: process.pid, id: cluster.worker ? cluster.worker.id : null });
const say = (event, more) => fs.writeSync(1, `${JSON.stringify({ event, pid: process.pid, ...more })}\n`);
const pem = (name) => fs.readFileSync(path.join(process.env.TLS_DIR, name));
const tls = () => ({ key: pem('key.pem'), cert: pem('cert.pem') });
const answer = (req, res) => res.end(who());

function create(kind) {
  switch (kind) {
    case 'http': return require('http').createServer(answer);
    case 'https': return require('https').createServer(tls(), answer);
    case 'http2': return require('http2').createSecureServer(tls(), answer);
    case 'h2c': return require('http2').createServer(answer);
    case 'net': return require('net').createServer((socket) => socket.on('error', () => {}).end(who()));
    default: {
      const socket = require('dgram').createSocket({ type: kind });
      socket.on('message', (_, from) => socket.send(who(), from.port, from.address));
      return socket;
    }
  }
}

function open(n, { kind, listen, again }, event) {
  const server = create(kind);
  server.on('error', (error) => say('error', { n, code: error.code, syscall: error.syscall }));
  server.on('listening', () => {
    say(event, { n, address: server.address() });
    if (again) server.close(() => open(n, { kind, listen }, 'again'));
  });
  if (kind.startsWith('udp')) server.bind(listen);
  else server.listen(listen);
  return server;
}

process.argv.slice(2).map((text) => JSON.parse(text)).forEach((spec, n) => {
  const server = open(n, spec, 'listening');
  if (spec.twice) server.on('listening', () => open(n, { ...spec, again: false }, 'twice'));
});
// A worker whose servers all failed stays until it is disconnected, so that the test can see it.
const stay = setInterval(() => {}, 1000);
process.on('disconnect', () => clearInterval(stay));
