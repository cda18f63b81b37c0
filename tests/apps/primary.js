'use strict';
// An app that knows Node's cluster and would fork by itself: under rcluster it has to take its worker branch.
const cluster = require('cluster');

if (cluster.isPrimary) {
  for (let i = 0; i < 4; i += 1) cluster.fork();
  require('fs').writeSync(1, '{"event":"primary"}\n');
} else {
  require('http').createServer((req, res) => res.end(JSON.stringify({ pid: process.pid }))).listen(Number(process.env.PORT || 0), '127.0.0.1');
}
