'use strict';
// A server on PORT that asks one of the app's own, which only this process knows: of the kind that its argument names. It listens
// only when the other one does; with LATE the other one opens at the first request. /hold waits for a file before it asks.
const fs = require('fs');
const http = require('http');

const say = (event, more) => fs.writeSync(1, `${JSON.stringify({ event, pid: process.pid, ...more })}\n`);
const when = (file, then) => {
  const timer = setInterval(() => { if (fs.existsSync(file)) { clearInterval(timer); then(); } }, 5);
};
const where = {
  exclusive: () => ({ port: 0, host: '127.0.0.1', exclusive: true }),
  loopback: () => ({ port: 0, host: '127.0.0.1' }),
  unix: () => ({ path: `backend.${process.pid}.sock` }),
}[process.argv[2]]();

const backend = http.createServer((req, res) => res.end(JSON.stringify({ pid: process.pid })));
const front = http.createServer((req, res) => {
  const { pathname, searchParams } = new URL(req.url, 'http://localhost');
  say('request', { path: pathname });
  const ask = () => {
    const at = backend.address();
    const to = typeof at === 'string' ? { socketPath: at } : { host: '127.0.0.1', port: at.port };
    http.get({ ...to, agent: false }, (answer) => answer.pipe(res)).on('error', (err) => {
      res.statusCode = 502;
      res.end(err.code);
    });
  };
  const go = () => (process.env.LATE ? backend.listen(where, ask) : ask());
  if (pathname === '/hold') when(searchParams.get('until'), go);
  else go();
});
process.on('rcluster:drain', () => say('drain'));
const listen = () => front.listen(process.env.PORT, '127.0.0.1', () => say('listening'));
if (process.env.LATE) listen();
else backend.listen(where, listen);
