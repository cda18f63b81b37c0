// Listens on paths in a folder that is swapped for a symbolic link meanwhile, and tells how that went in DONE.
// Nothing here knows of rcluster.
'use strict';
const { spawn } = require('node:child_process');
const fs = require('node:fs');
const http = require('node:http');
const net = require('node:net');

const { RUN, LINK, SWAP, DONE } = process.env;
const names = JSON.parse(process.env.NAMES);
const told = { bound: 0, refused: 0 };
const TRIES = 4000;

function attack(swap) {
  const name = names[SWAP ? told.bound : told.bound + told.refused];
  if (name === undefined || told.bound + told.refused >= TRIES) {
    swap.stdin.end();
    swap.on('exit', () => fs.writeFileSync(DONE, JSON.stringify(told)));
    return;
  }
  const server = net.createServer();
  server.on('error', () => { told.refused += 1; attack(swap); });
  server.listen(`${RUN}/${name}`, () => server.close(() => { told.bound += 1; attack(swap); }));
}

http.createServer((req, res) => res.end('fine')).listen(Number(process.env.PORT || 0), '127.0.0.1', () => {
  if (process.env.DROP) { process.setgroups([65534]); process.setgid(65534); process.setuid(65534); }
  if (!SWAP) return attack({ stdin: { end() {} }, on: (_, f) => f() });
  const swap = spawn('python3', ['-S', '-E', SWAP, RUN, LINK], { stdio: ['pipe', 'pipe', 'inherit'] });
  swap.stdout.once('data', () => attack(swap));
});
