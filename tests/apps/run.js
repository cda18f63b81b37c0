'use strict';
// Runs its first argument as code. `say(event, more)` writes a fact as a JSON line; `answer` is a request listener.
const fs = require('fs');
const path = require('path');
const say = (event, more) => fs.writeSync(1, `${JSON.stringify({ event, pid: process.pid, slot: process.env.RCLUSTER_SLOT, ...more })}\n`);
const pem = (name) => fs.readFileSync(path.join(process.env.TLS_DIR, name));
const tls = () => ({ key: pem('key.pem'), cert: pem('cert.pem') });
const answer = (req, res) => res.end(JSON.stringify({ pid: process.pid, slot: process.env.RCLUSTER_SLOT }));
new Function('require', 'say', 'tls', 'answer', process.argv[2])(require, say, tls, answer);
// One whose servers all failed stays until it is disconnected, so that the test can see it.
const stay = setInterval(() => {}, 1000);
process.on('disconnect', () => clearInterval(stay));
