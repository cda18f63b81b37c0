'use strict';
// Serves HTTP. The first worker leaves a detached process that holds the worker's channel and writes into it for ever.
const cluster = require('cluster');
const { spawn } = require('child_process');
const fs = require('fs');
const http = require('http');

const channel = Object.getOwnPropertySymbols(process).find((s) => s.description === 'kChannelHandle');
const flood = "const fs = require('fs'); const line = Buffer.from(JSON.stringify({ a: 1 }) + String.fromCharCode(10)); for (;;) try { fs.writeSync(3, line); } catch {}";

http.createServer((req, res) => res.end('ok')).listen(process.env.PORT, '127.0.0.1', () => {
  if (cluster.worker.id !== 1) return;
  const { fd } = process[channel];
  const child = spawn(process.execPath, ['-e', flood], { detached: true, stdio: ['ignore', 'ignore', 'ignore', fd] });
  child.unref();
  fs.writeSync(1, `${JSON.stringify({ event: 'flood', pid: process.pid, id: 1, child: child.pid })}\n`);
});
