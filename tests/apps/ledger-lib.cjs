'use strict';
// What the ledger's applications share. Environment:
//   PORT         port to listen on, 0 by default; LISTEN_FD: an inherited listening socket instead
//   DELAY_MS     wait this long before each answer (a request's header x-delay-ms goes before)
//   JOURNAL      folder: append "R id" (received), "A id" (answered) and "C port ms" (connection accepted) to JOURNAL/<pid>
//   CERT, KEY    PEM files, for TLS
//   ON_TERM      "close": at SIGTERM close the server and its idle connections, then exit, as many applications do, and so lose requests
//                "drain": stop accepting, answer each further request with Connection: close, leave idle sockets to their timeout
const fs = require('node:fs');
const path = require('node:path');

let draining = false;
const delayMs = Number(process.env.DELAY_MS || 0);
let journalFd;

// Written at once, so that what a killed worker has received is known.
function journal(kind, id) {
  if (!process.env.JOURNAL || !id) return;
  journalFd ??= fs.openSync(path.join(process.env.JOURNAL, String(process.pid)), 'a');
  fs.writeSync(journalFd, `${kind} ${id}\n`);
}

// The place's byte in a body of an upload or download.
const pattern = Buffer.from(Array.from({ length: 251 * 1024 }, (_, i) => i % 251));

function fnv1a(hash, bytes) {
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0;
}

// Request listener for http, https and http2 (compatibility API).
function handle(req, res) {
  const id = req.headers['x-id'];
  const url = new URL(req.url, 'http://localhost');
  const number = (name, otherwise) => Number(url.searchParams.get(name) ?? otherwise);
  journal('R', id);
  res.on('finish', () => journal('A', id));
  if (id) res.setHeader('x-id', id);
  if (url.pathname === '/sse') return events(res, number('n', 10), number('every', 10));
  if (url.pathname === '/download') return download(res, number('bytes', 1024), number('ms', 0));
  if (url.pathname === '/upload') return upload(req, res, id);
  const chunks = [];
  req.on('data', (chunk) => chunks.push(chunk));
  req.on('end', () => {
    const body = Buffer.concat(chunks);
    const wait = Number(req.headers['x-delay-ms'] ?? delayMs);
    const answer = () => {
      if (draining) res.setHeader('connection', 'close');
      res.end(body);
    };
    if (wait > 0) setTimeout(answer, wait);
    else answer();
  });
}

function events(res, n, every) {
  res.setHeader('content-type', 'text/event-stream');
  let sent = 0;
  const timer = setInterval(() => {
    if (res.writableEnded) return;
    res.write(`id: ${++sent}\ndata: tick\n\n`);
    if (sent === n) {
      clearInterval(timer);
      res.end();
    }
  }, every);
  res.on('close', () => clearInterval(timer));
}

function download(res, bytes, ms) {
  res.setHeader('content-length', bytes);
  const pieces = Math.max(1, Math.min(bytes, Math.ceil(ms / 20)), Math.ceil(bytes / 65536));
  let sent = 0;
  let piece = 0;
  const next = () => {
    if (res.destroyed) return;
    piece++;
    const end = Math.floor((bytes * piece) / pieces);
    const start = sent % 251;
    const more = res.write(pattern.subarray(start, start + end - sent));
    sent = end;
    if (piece === pieces) res.end();
    else if (!more) res.once('drain', next);
    else if (ms > 0) setTimeout(next, ms / pieces);
    else setImmediate(next);
  };
  next();
}

function upload(req, res, id) {
  let bytes = 0;
  let hash = 0x811c9dc5;
  req.on('data', (chunk) => {
    bytes += chunk.length;
    hash = fnv1a(hash, chunk);
  });
  req.on('end', () => res.end(`${id} ${bytes} ${hash.toString(16).padStart(8, '0')}`));
}

function listen(server) {
  server.on('connection', (socket) => journal('C', `${socket.remotePort} ${Date.now()}`));
  if (process.env.LISTEN_FD) server.listen({ fd: Number(process.env.LISTEN_FD) });
  else server.listen(Number(process.env.PORT || 0));
  if (process.env.ON_TERM === 'close') {
    process.on('SIGTERM', () => {
      server.close();
      server.closeIdleConnections?.();
      // Sockets that were busy are kept for ever otherwise.
      setTimeout(() => process.exit(0), 300);
    });
  }
  if (process.env.ON_TERM === 'drain') {
    process.on('SIGTERM', () => {
      draining = true;
      // Not the one of http, which closes idle sockets.
      require('node:net').Server.prototype.close.call(server);
    });
  }
  return server;
}

const tls = () => ({ cert: fs.readFileSync(process.env.CERT), key: fs.readFileSync(process.env.KEY) });

module.exports = { handle, listen, journal, tls, delayMs };
