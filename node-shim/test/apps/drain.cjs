'use strict';

// What a drain may break: event streams that the test drives, a gateway, handlers of the stop signal. By KIND.
const fs = require('node:fs');
const http = require('node:http');
const http2 = require('node:http2');
const net = require('node:net');
const path = require('node:path');

const { KIND, OUT } = process.env;
process.on('uncaughtException', (err) => process.send({ uncaught: String(err && err.stack) }));
const said = (handler) => {
  process.on('message', handler);
  process.once('rcluster:drain', () => process.channel.unref());
};

/** An event stream: one event when it begins, one for each 'more', the last one at 'end'. */
function events(res) {
  res.writeHead(200, { 'content-type': 'text/event-stream' });
  res.write('data: 0\n\n');
  process.send({ events: true });
  said((word) => {
    if (word === 'more') res.write('data: more\n\n');
    if (word === 'end') res.end('data: [DONE]\n\n');
  });
}

/** Writes on and on, whatever becomes of it, as an app that knows nothing of drains. */
function flood(res, head) {
  if (head) res.writeHead(200, { 'content-type': 'text/event-stream' });
  setInterval(() => res.write(`data: ${'x'.repeat(4e5)}\n\n`), 20);
  process.send({ flood: true });
}

const pem = () => ({
  key: fs.readFileSync(path.join(__dirname, 'key.pem')),
  cert: fs.readFileSync(path.join(__dirname, 'cert.pem')),
});

function route(req, res) {
  res.on('error', (err) => process.send({ resError: err.code }));
  if (req.url === '/events') return events(res);
  if (req.url === '/flood') return flood(res, true);
  if (req.url === '/slow') return said((word) => word === 'end' && res.end('slow'));
  if (req.url === '/raw') { // no length, no chunks: the body ends with the connection
    res.useChunkedEncodingByDefault = false;
    res.removeHeader('transfer-encoding');
    res.writeHead(200, { 'content-type': 'text/plain' });
    res.write('half');
    return process.send({ raw: true });
  }
  if (req.url === '/text') {
    res.writeHead(200, { 'content-type': 'text/plain' });
    res.write('half');
    setInterval(() => res.write('more'), 20);
    return process.send({ text: true });
  }
  return res.end(req.url);
}

const kinds = {
  http: () => http.createServer(route),
  h2c: () => http2.createServer(route),
  h2: () => http2.createSecureServer(pem(), route),
  h2streams: () => http2.createServer().on('stream', (stream) => { // no compat layer, no error handler
    stream.respond({ ':status': 200, 'content-type': 'text/plain' });
    setInterval(() => stream.write('x'.repeat(1000)), 20);
    process.send({ text: true });
  }),
  // Pipes an upgraded socket to a server of its own that sends one message of a WebSocket in two parts.
  gateway: () => {
    const backend = net.createServer((socket) => {
      socket.write(Buffer.concat([Buffer.from([0x82, 126, 0x10, 0x00]), Buffer.alloc(2048, 'a')]));
      said((word) => word === 'end' && socket.write(Buffer.alloc(2048, 'b')));
      socket.on('error', () => {});
    }).listen({ port: 0, host: '127.0.0.1', exclusive: true });
    return http.createServer().on('upgrade', (req, socket) => {
      socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n');
      const up = net.connect(backend.address().port);
      up.pipe(socket).pipe(up);
      for (const end of [up, socket]) end.on('error', () => {});
      process.send({ connected: true });
    });
  },
  // Ends by its handler only; nothing but the server holds its event loop.
  handler: () => {
    process.on('SIGTERM', (...args) => {
      fs.appendFileSync(OUT, `${args.join()} ${process.connected}\n`);
      process.exit(7);
    });
    return http.createServer(route);
  },
  throws: () => {
    process.removeAllListeners('uncaughtException');
    process.on('SIGTERM', () => { throw new Error('in the handler'); });
    return http.createServer(route);
  },
  // As lightship and terminus do: time for the balancer, then the server, then the database.
  slowly: () => {
    const server = http.createServer(route);
    process.once('SIGTERM', () => setTimeout(() => server.close(() => {
      fs.appendFileSync(OUT, 'closed\n');
      process.exit(0);
    }), 200));
    return server;
  },
  exits: () => {
    process.on('rcluster:drain', () => setTimeout(() => process.exit(3), 50));
    return http.createServer(route);
  },
};
kinds[KIND]().listen(0, '127.0.0.1');
