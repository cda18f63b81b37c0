'use strict';
// Node's own cluster as people write it: BENCH_WORKERS workers of the script given as argument, BENCH_POLICY
// `rr` (Node's default) or `none` (workers share the socket). It forks again what dies. On SIGHUP it replaces the workers one by one:
// fork, wait for `listening`, then `disconnect()` the old one.
const cluster = require('node:cluster');

cluster.schedulingPolicy = process.env.BENCH_POLICY === 'none' ? cluster.SCHED_NONE : cluster.SCHED_RR;
cluster.setupPrimary({ exec: process.argv[2] });

let current = [];
for (let i = 0; i < Number(process.env.BENCH_WORKERS); i++) current.push(cluster.fork());

cluster.on('exit', (worker) => {
  const slot = current.indexOf(worker);
  if (slot >= 0 && !worker.exitedAfterDisconnect) current[slot] = cluster.fork();
});

const until = (emitter, event) => new Promise((resolve) => emitter.once(event, resolve));

let running = Promise.resolve();
process.on('SIGHUP', () => {
  running = running.then(async () => {
    const next = [];
    for (const old of current) {
      const fresh = cluster.fork();
      await until(fresh, 'listening');
      old.disconnect();
      next.push(fresh);
    }
    current = next;
  });
});
