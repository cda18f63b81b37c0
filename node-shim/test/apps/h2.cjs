'use strict';

// HTTP/2: MODE is one of plain, secure, allow (HTTP/1.1 on the same port); API is stream or compat. /404 is answered by 404.
const fs = require('node:fs');
const http2 = require('node:http2');
const path = require('node:path');

const { MODE, API } = process.env;
const held = [];
const statusOf = (url) => Number(url.slice(1)) || 200;

function answer(url, respond) {
  process.send({ seen: url });
  if (url === '/hold') {
    held.push(respond);
    process.send({ held: held.length });
  } else respond(url);
}

const options = MODE === 'plain' ? {} : {
  key: fs.readFileSync(path.join(__dirname, 'key.pem')),
  cert: fs.readFileSync(path.join(__dirname, 'cert.pem')),
  allowHTTP1: MODE === 'allow',
};
const server = MODE === 'plain' ? http2.createServer(options) : http2.createSecureServer(options);
if (API === 'compat') {
  server.on('request', (req, res) => {
    res.statusCode = statusOf(req.url);
    answer(req.url, (text) => res.end(text));
  });
} else {
  server.on('stream', (stream, headers) => answer(headers[':path'], (text) => {
    if (stream.destroyed) return;
    const head = { ':status': statusOf(headers[':path']) };
    if (headers[':path'] === '/file') return stream.respondWithFile(__filename, head);
    if (headers[':path'] === '/204' || stream.headRequest) return stream.respond(head, { endStream: true });
    stream.respond(head);
    return stream.end(text);
  }));
}
server.listen(0, '127.0.0.1');
process.on('message', () => { while (held.length) held.shift()('done'); });
