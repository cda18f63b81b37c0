'use strict';

// A server with a life of its own: listeners for everything, a timer that sends, a request that hangs.
const http = require('node:http');
const cluster = require('node:cluster');

const held = [];
const server = http.createServer((req, res) => {
  if (req.url === '/hold') {
    held.push(res);
    process.send({ held: held.length });
  } else if (req.url === '/release') {
    res.end('released');
    while (held.length) held.shift().end('done');
  } else res.end(req.url);
}).listen(0, '127.0.0.1');
if (process.env.NOISY) setInterval(() => process.send({ tick: true }), 5);
process.on('SIGHUP', () => process.send({ hup: true }));
process.on('SIGTERM', () => server.close((err) => {
  process.stdout.write(`closed ${err ? err.code : 'ok'}\n`, () => process.exit(0));
}));
process.on('exit', (code) => process.stdout.write(`exit ${code}\n`));
process.on('message', (message) => {
  if (message === 'process.disconnect') process.disconnect();
  if (message === 'worker.disconnect') cluster.worker.disconnect();
  if (message === 'worker.kill') cluster.worker.kill();
});
