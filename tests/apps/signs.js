'use strict';
// Says when it was started, and becomes ready in the ways of --ready: listens when the file LISTEN appears, sends its
// message when the file SEND appears.
const fs = require('fs');
const http = require('http');

const say = (event) => fs.writeSync(1, `${JSON.stringify({ event, pid: process.pid, slot: process.env.RCLUSTER_SLOT })}\n`);
say('started');
process.on('message', (message) => { if (message === 'shutdown') { say('shutdown'); process.exit(0); } });
const when = (file, then) => {
  const timer = setInterval(() => { if (fs.existsSync(file)) { clearInterval(timer); then(); } }, 10);
};
when(process.env.LISTEN, () => {
  http.createServer((req, res) => res.end(JSON.stringify({ pid: process.pid }))).listen(0, '127.0.0.1', () => say('listening'));
});
when(process.env.SEND, () => process.send('ready', () => say('sent')));
process.on('disconnect', () => process.exit(0));
