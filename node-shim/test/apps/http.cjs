'use strict';

// An ordinary server. What a request does is in its path; nothing here knows of rcluster.
const http = require('node:http');

const held = []; // responses that wait for /release

function handle(req, res) {
  const { pathname, searchParams } = new URL(req.url, 'http://x');
  const ms = Number(searchParams.get('ms') || 0);
  switch (pathname) {
    case '/hold': // answered by /release
      held.push(res);
      process.send({ held: held.length });
      break;
    case '/unref': // a socket that shall not hold the process, answered by /release
      req.socket.unref();
      held.push(res);
      process.send({ held: held.length });
      break;
    case '/early': // header and first byte now, the rest by /release
      res.write('first');
      held.push(res);
      process.send({ held: held.length });
      break;
    case '/unsent': // header made, but nothing written yet
      res.writeHead(200, { 'Content-Length': 4 });
      held.push(res);
      process.send({ held: held.length });
      break;
    case '/own': // the app has its own idea of the connection
      res.writeHead(200, { Connection: 'keep-alive', 'Keep-Alive': 'timeout=99', 'X-Own': '1' });
      res.end('done');
      break;
    case '/flat':
      res.writeHead(200, ['Connection', 'keep-alive', 'X-Own', '1']);
      res.end('done');
      break;
    case '/set':
      res.setHeader('Connection', 'keep-alive');
      res.setHeader('X-Own', '1');
      res.end('done');
      break;
    case '/removed':
      res.removeHeader('Connection');
      res.end('done');
      break;
    case '/upload': {
      let size = 0;
      process.send({ upload: true });
      req.on('data', (data) => { size += data.length; });
      req.on('end', () => res.end(`got ${size}`));
      break;
    }
    case '/hasty': // answers before it has read the upload, and reads on
      res.end('accepted');
      req.on('data', () => {});
      req.on('end', () => process.send({ complete: true }));
      break;
    case '/big': { // a download that outgrows every buffer
      let left = Number(searchParams.get('chunks'));
      const chunk = Buffer.alloc(65536, 'x');
      (function more() {
        while (left > 0) {
          left -= 1;
          if (!res.write(chunk)) { res.once('drain', more); return; }
        }
        res.end('END');
      }());
      break;
    }
    case '/sse':
      res.writeHead(200, { 'Content-Type': 'text/event-stream' });
      res.write('data: hello\n\n');
      break;
    case '/now': // answered before the parser goes on
      process.send({ seen: req.url });
      res.end(req.url);
      break;
    default:
      process.send({ seen: req.url });
      setTimeout(() => res.end(`${process.pid} ${req.url}`), ms);
  }
}

const options = JSON.parse(process.env.HTTP_OPTIONS || '{}');
const server = http.createServer(options, handle);
if (process.env.KEEP_ALIVE) server.keepAliveTimeout = Number(process.env.KEEP_ALIVE);
server.listen(process.env.LISTEN || 0, '127.0.0.1');

process.on('message', (message) => {
  if (message === 'shutdown') server.close((err) => process.send({ closed: err ? err.code : 'ok' }));
  if (message === 'listen') http.createServer(handle).listen(0, '127.0.0.1', () => process.send({ late: true }));
  if (message === 'release') while (held.length) held.shift().end('done');
  if (message === 'release last') held.pop().end('done');
});
process.on('rcluster:drain', (event) => process.send({ drainEvent: event }));
