'use strict';
// Serves, and floods its channel from slot 0, once the file `go` stands beside the pipe BENCH_READY. What it says there: `fill`, as fast
// as the channel takes it; `loop`, `for (;;) process.send(x)` word for word.
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const ready = require('./ready');

http.createServer((_req, res) => res.end('hello\n')).listen(Number(process.env.PORT), '127.0.0.1', ready);

const go = path.join(path.dirname(process.env.BENCH_READY), 'go');
const message = { x: 'a message of the app, and none of the master\'s business' };

function fill() {
  for (let i = 0; i < 64 && process.send(message); i++) { /* until the channel is full */ }
  setImmediate(fill);
}

if (process.env.RCLUSTER_SLOT === '0') {
  const look = setInterval(() => {
    if (!fs.existsSync(go)) return;
    clearInterval(look);
    if (fs.readFileSync(go, 'utf8') === 'loop') for (;;) process.send(message);
    fill();
  }, 20);
}
