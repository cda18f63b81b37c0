'use strict';
// Servers of each kind that its arguments name, on 127.0.0.1 or, with UNIX, on that path; CLOSE_MS: a SIGTERM handler that
// takes so long, beside something that holds the event loop. Facts go to stdout as JSON lines.
const cluster = require('cluster');
const fs = require('fs');
const http = require('http');
const path = require('path');

const who = () => JSON.stringify({ pid: process.pid, id: cluster.worker.id });
const say = (event, more) => fs.writeSync(1, `${JSON.stringify({ event, pid: process.pid, id: cluster.worker.id, ...more })}\n`);
const when = (file, then) => {
  const timer = setInterval(() => { if (fs.existsSync(file)) { clearInterval(timer); then(); } }, 5);
};
const pem = (name) => fs.readFileSync(path.join(process.env.TLS_DIR, name));
const tls = () => ({ key: pem('key.pem'), cert: pem('cert.pem') });

function answer(req, res) {
  const url = new URL(req.url, 'http://localhost');
  const until = url.searchParams.get('until');
  say('request', { path: url.pathname });
  switch (url.pathname) {
    case '/hold': return when(until, () => res.end(who()));
    // Half of the body now, the other half then.
    case '/stream':
      res.writeHead(200, { 'content-length': 2000 });
      res.write('a'.repeat(1000));
      return when(until, () => res.end('b'.repeat(1000)));
    // More than any socket buffers hold.
    case '/flood': return res.end(Buffer.alloc(64 << 20));
    case '/events':
      res.writeHead(200, { 'content-type': 'text/event-stream' });
      res.write('id: 1\ndata: first\n\n');
      return until && when(until, () => res.end('id: 2\ndata: [DONE]\n\n'));
    case '/spin': return res.end(who(), () => { say('spins'); for (;;); });
    default: {
      let length = 0;
      req.on('data', (chunk) => { length += chunk.length; });
      return req.on('end', () => res.end(JSON.stringify({ ...JSON.parse(who()), length })));
    }
  }
}

const lines = (socket) => socket.on('error', () => {}).on('data', () => { say('line'); socket.write(`${who()}\n`); });
const kinds = {
  http: () => http.createServer(answer),
  https: () => require('https').createServer(tls(), answer),
  h2: () => require('http2').createSecureServer(tls(), answer),
  h2c: () => require('http2').createServer(answer),
  net: () => require('net').createServer(lines),
  tls: () => require('tls').createServer(tls(), lines),
  ws() {
    const server = http.createServer();
    new (require('ws').WebSocketServer)({ server }).on('connection', (socket) => socket.on('message', () => socket.send(who())));
    return server;
  },
  socketio() {
    const server = http.createServer();
    const io = new (require('socket.io').Server)(server, { transports: ['websocket'] });
    io.on('connection', (socket) => socket.on('who', (reply) => reply(JSON.parse(who()))));
    return server;
  },
};

process.on('rcluster:drain', ({ deadline }) => say('drain', { left: deadline - Date.now() }));
process.on('message', (message) => say('message', { message }));
process.on('exit', (code) => say('exit', { code }));
if (process.env.CLOSE_MS) {
  setInterval(() => {}, 1000);
  process.on('SIGTERM', () => {
    say('sigterm');
    setTimeout(() => { say('closed'); process.exit(0); }, Number(process.env.CLOSE_MS));
  });
}
for (const kind of process.argv.slice(2)) {
  const where = process.env.UNIX ? { path: process.env.UNIX } : { port: 0, host: '127.0.0.1' };
  const server = kinds[kind]().listen(where, () => say('listening', { kind, port: server.address().port }));
}
