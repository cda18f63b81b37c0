'use strict';

// What the shim costs: requests a second, and CPU time of the worker a request (which other load on the
// machine disturbs less), with and without it. Interleaved rounds, medians of pairs. Needs `wrk` in PATH.
//   node bench.cjs [rounds] [seconds]

const { execFileSync } = require('node:child_process');
const { fleet, waitUntil } = require('./test/primary.cjs');

const rounds = Number(process.argv[2] || 9);
const seconds = Number(process.argv[3] || 3);
const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];

async function measure(shim, headers) {
  const workers = fleet();
  const worker = workers.start('bench.cjs', { shim });
  const port = await worker.listening();
  const wrk = (duration) => execFileSync('wrk', ['-t1', '-c32', `-d${duration}s`, ...headers, `http://127.0.0.1:${port}/`], { encoding: 'utf8' });
  const cpu = async () => {
    const { length } = worker.app;
    worker.child.send('cpu');
    const { user, system } = await waitUntil(() => worker.app[length]);
    return user + system;
  };
  wrk(1);
  const before = await cpu();
  const text = wrk(seconds);
  const requests = Number(/(\d+) requests in/.exec(text)[1]);
  const result = { rate: Number(/Requests\/sec:\s+([\d.]+)/.exec(text)[1]), cpu: (await cpu() - before) / requests };
  await workers.clean();
  return result;
}

(async () => {
  for (const [name, headers] of [['keep-alive', []], ['short', ['-H', 'Connection: close']]]) {
    const pairs = [];
    for (let i = 0; i < rounds; i++) {
      const pair = {};
      for (const shim of i % 2 ? [true, false] : [false, true]) pair[shim] = await measure(shim, headers);
      pairs.push(pair);
    }
    const of = (fn) => median(pairs.map(fn));
    console.log(`${process.version} ${name}: ${of((p) => p.true.rate).toFixed(0)}/s with, ${of((p) => p.false.rate).toFixed(0)}/s without, ratio ${of((p) => p.true.rate / p.false.rate).toFixed(3)}; `
      + `CPU ${of((p) => p.true.cpu).toFixed(2)} and ${of((p) => p.false.cpu).toFixed(2)} us a request, ratio ${of((p) => p.false.cpu / p.true.cpu).toFixed(3)}`);
  }
})();
