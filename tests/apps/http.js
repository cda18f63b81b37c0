'use strict';
// A plain http server whose paths make it misbehave. PORT and HOST say where it listens.
const cluster = require('cluster');
const http = require('http');

const who = () => ({
  pid: process.pid,
  id: cluster.isWorker ? cluster.worker.id : null,
  slot: process.env.RCLUSTER_SLOT,
  instance: process.env.NODE_APP_INSTANCE,
  isWorker: cluster.isWorker,
  version: process.version,
  cwd: process.cwd(),
  argv: process.argv.slice(2),
  execArgv: process.execArgv,
});

// One JSON line a fact; the tests read them. Synchronous, so that it is out before whatever follows.
const say = (event, more) => require('fs').writeSync(1, `${JSON.stringify({ event, pid: process.pid, ...more })}\n`);

const deeds = {
  exit: (query) => process.exit(Number(query.get('code') || 0)),
  abort: () => process.abort(),
  segv: () => process.kill(process.pid, 'SIGSEGV'),
  throw: () => setImmediate(() => { throw new Error('thrown on request'); }),
  spin: () => { for (;;); },
  // A grandchild in the worker's process group.
  grandchild: () => require('child_process').spawn('sleep', ['600'], { stdio: 'ignore' }).pid,
  // Stays in its own session: a daemon that the app wants to outlive it is not rcluster's business.
  disconnect: () => { cluster.worker.disconnect(); },
  kill: () => { cluster.worker.kill(); },
  closeChannel: () => { process.disconnect(); },
  send: () => { process.send({ hello: 'master' }); },
};

const server = http.createServer((req, res) => {
  const url = new URL(req.url, 'http://localhost');
  const name = url.pathname.slice(1);
  if (name === 'slow') {
    say('slow');
    setTimeout(() => res.end(JSON.stringify(who())), Number(url.searchParams.get('ms')));
  } else if (Object.hasOwn(deeds, name)) {
    if (name === 'grandchild') return res.end(JSON.stringify({ grandchild: deeds[name]() }));
    res.end(JSON.stringify(who()), () => deeds[name](url.searchParams));
  } else {
    res.end(JSON.stringify(who()));
  }
  return undefined;
});
if (cluster.isWorker) {
  cluster.worker.on('disconnect', () => say('disconnect', { exitedAfterDisconnect: cluster.worker.exitedAfterDisconnect }));
}
for (const signal of (process.env.CATCH || '').split(',').filter(Boolean)) {
  process.on(signal, () => { say('signal', { signal }); if (process.env.CATCH_EXIT) process.exit(0); });
}
// Something that holds the event loop after the last connection is gone, as a database pool does.
if (process.env.HOLD) setInterval(() => {}, 1000);
process.on('exit', (code) => say('exit', { code }));
server.listen(Number(process.env.PORT || 0), process.env.HOST, () => say('listening', server.address()));
