'use strict';
// An app that uses child_process.fork and worker_threads itself. What they find is answered at /children.
const { fork, execFileSync } = require('child_process');
const http = require('http');
const path = require('path');
const { Worker } = require('worker_threads');

const child = path.join(__dirname, 'forked.js');
const first = (emitter) => new Promise((resolve, reject) => { emitter.once('message', resolve); emitter.once('error', reject); });

async function children() {
  const forked = fork(child, ['an', 'argument']);
  const fromFork = first(forked);
  forked.send('hello');
  const worker = new Worker(child, { argv: ['an', 'argument'] });
  const fromThread = first(worker);
  worker.postMessage('hello');
  return {
    pid: process.pid,
    fork: await fromFork,
    thread: await fromThread,
    exec: JSON.parse(execFileSync(process.execPath, [child, 'an', 'argument'])),
  };
}

http.createServer(async (req, res) => {
  res.end(JSON.stringify(req.url === '/children' ? await children() : { pid: process.pid }));
}).listen(Number(process.env.PORT || 0), '127.0.0.1', function listening() {
  // Under plain node: one answer on stdout, then the end.
  if (process.env.ONCE) children().then((found) => { console.log(JSON.stringify(found)); this.close(); });
});
