'use strict';

// Requests a second with and without the shim: interleaved rounds, medians. Needs `wrk` in PATH.
//   node bench.cjs [rounds] [seconds]

const { execFileSync } = require('node:child_process');
const { fleet } = require('./test/primary.cjs');

const rounds = Number(process.argv[2] || 9);
const seconds = Number(process.argv[3] || 3);
const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];

async function measure(shim, headers) {
  const workers = fleet();
  const worker = workers.start('bench.cjs', { shim });
  const port = await worker.listening();
  const wrk = (duration) => execFileSync('wrk', ['-t1', '-c32', `-d${duration}s`, ...headers, `http://127.0.0.1:${port}/`], { encoding: 'utf8' });
  wrk(1);
  const rate = Number(/Requests\/sec:\s+([\d.]+)/.exec(wrk(seconds))[1]);
  await workers.clean();
  return rate;
}

(async () => {
  for (const [name, headers] of [['keep-alive', []], ['short', ['-H', 'Connection: close']]]) {
    const rates = { with: [], without: [] };
    const ratios = [];
    for (let i = 0; i < rounds; i++) {
      const order = i % 2 ? [true, false] : [false, true];
      const pair = {};
      for (const shim of order) pair[shim] = await measure(shim, headers);
      rates.with.push(pair.true);
      rates.without.push(pair.false);
      ratios.push(pair.true / pair.false);
    }
    const [a, b] = [median(rates.with), median(rates.without)];
    console.log(`${process.version} ${name}: with ${a.toFixed(0)}/s, without ${b.toFixed(0)}/s, ratio ${(a / b).toFixed(3)}, median of pairs ${median(ratios).toFixed(3)}`);
  }
})();
