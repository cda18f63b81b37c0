'use strict';
// One release of a deploy by folders, copied into its folder as server.js. Beside it release.json says:
//   number    the release
//   listen    what listen() takes, a server each; default one on 127.0.0.1, port 0
//   wait      {file, slot}: listens only when the file exists; only in that slot, if one is named
//   dieAfter  milliseconds between listening and an uncaught error
// Everything is found by paths relative to the working directory, as a careless app does it.
const fs = require('fs');
const http = require('http');
const path = require('path');

const release = JSON.parse(fs.readFileSync('release.json', 'utf8'));
const say = (event, more) => fs.writeSync(1, `${JSON.stringify({ event, pid: process.pid, release: release.number, ...more })}\n`);
const when = (file, then) => {
  const timer = setInterval(() => { if (fs.existsSync(file)) { clearInterval(timer); then(); } }, 5);
};
const facts = () => ({
  pid: process.pid,
  release: release.number,
  slot: process.env.RCLUSTER_SLOT,
  cwd: path.basename(process.cwd()),
  folder: path.basename(__dirname),
  version: process.version,
  color: process.env.COLOR,
  shape: process.env.SHAPE,
});

const answer = (req, res) => {
  const url = new URL(req.url, 'http://localhost');
  const reply = () => res.end(JSON.stringify(facts()));
  if (url.pathname === '/hold') {
    say('held');
    return when(url.searchParams.get('until'), reply);
  }
  if (url.pathname === '/die') return res.end('', () => { throw new Error('died on request'); });
  return reply();
};

const start = () => {
  for (const where of release.listen || [{ port: 0, host: '127.0.0.1' }]) {
    http.createServer(answer).listen(where, () => {
      say('listening');
      if (release.dieAfter) setTimeout(() => { throw new Error('died by itself'); }, release.dieAfter);
    });
  }
};
const { wait } = release;
if (wait && (wait.slot === undefined || wait.slot === process.env.RCLUSTER_SLOT)) {
  say('waiting');
  when(wait.file, start);
} else {
  start();
}
