// share.js for Bun, with its own server: several processes share PORT by SO_REUSEPORT.
const fs = require('node:fs');

const BURN_US = 50_000;
const worker = `${process.pid}.0`;

function burn() {
  const spent = () => { const { user, system } = process.cpuUsage(); return user + system; };
  const until = spent() + BURN_US;
  let x = 0;
  do {
    for (let i = 0; i < 20_000; i++) x = (x * 31 + i) | 0;
  } while (spent() < until);
  return x;
}

Bun.serve({
  hostname: '127.0.0.1',
  port: Number(process.env.PORT),
  reusePort: true,
  fetch(request) {
    if (request.url.endsWith('/burn')) burn();
    return new Response('hello\n', { headers: { 'Content-Type': 'text/plain', 'x-worker': worker } });
  },
});
fs.writeFileSync(process.env.BENCH_READY, `ready ${process.pid}\n`);
