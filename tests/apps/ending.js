'use strict';
// How an app ends. Its arguments: `handler` (a SIGTERM handler that exits, and nothing but the server that holds the event loop),
// `sign` (one that leaves the file SIGN and exits), `slow` (the same after four seconds), `mute` (an upgraded socket that says nothing), `ignore` (one that does not exit), `crash` (an uncaught error in its drain), `leave` (ends by itself in its drain), `gateway`
// (an upgraded socket, piped to a server of its own; the second half of the message comes when the file UNTIL is there).
const fs = require('fs');
const http = require('http');
const net = require('net');

const say = (event, more) => fs.writeSync(1, `${JSON.stringify({ event, pid: process.pid, ...more })}\n`);
const when = (file, then) => {
  const timer = setInterval(() => { if (fs.existsSync(file)) { clearInterval(timer); then(); } }, 5);
};
const server = http.createServer((req, res) => {
  const { pathname, searchParams } = new URL(req.url, 'http://localhost');
  say('request', { path: pathname });
  const answer = () => res.end(JSON.stringify({ pid: process.pid }));
  if (pathname === '/hold') when(searchParams.get('until'), answer);
  else if (pathname === '/flood') { // never asks whether anybody reads
    res.writeHead(200, { 'content-type': 'text/event-stream' });
    setInterval(() => res.write(`data: ${'x'.repeat(4e5)}\n\n`), 50);
  } else answer();
});

const kinds = {
  handler: () => process.on('SIGTERM', () => { say('sigterm'); process.exit(); }),
  sign: () => process.on('SIGTERM', () => { fs.writeFileSync(process.env.SIGN, ''); process.exit(); }),
  slow: () => process.on('SIGTERM', () => setTimeout(() => { fs.writeFileSync(process.env.SIGN, ''); process.exit(); }, 4000)),
  mute: () => server.on('upgrade', (req, socket) => {
    socket.on('error', () => {}).on('end', () => say('mute')).resume();
    socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: mute\r\nConnection: Upgrade\r\n\r\n');
  }),
  ignore: () => process.on('SIGTERM', () => say('sigterm')) && setInterval(() => {}, 1000),
  crash: () => process.on('rcluster:drain', () => setTimeout(() => { throw new Error('crashed in the drain'); }, 200)),
  leave: () => process.on('rcluster:drain', () => setTimeout(() => process.exit(0), 200)),
  gateway() {
    const backend = net.createServer((socket) => {
      socket.on('error', () => {}).write(Buffer.alloc(2000, 'a'));
      when(process.env.UNTIL, () => socket.write(Buffer.alloc(2000, 'b')));
    });
    server.once('listening', () => backend.listen({ port: 0, host: '127.0.0.1', exclusive: true }));
    server.on('upgrade', (req, socket) => {
      socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n');
      const up = net.connect(backend.address().port, '127.0.0.1');
      for (const end of [up, socket]) end.on('error', () => {});
      up.pipe(socket).pipe(up);
    });
  },
};
for (const kind of process.argv.slice(2)) kinds[kind]();
process.on('rcluster:drain', () => say('drain'));
server.listen(0, '127.0.0.1', () => say('listening'));
