'use strict';
// Prints numbered lines without end, each in two writes, on both streams. Asked, it stops and answers with the last number.
const http = require('http');

let last = 0;
const timer = setInterval(() => {
  for (let i = 0; i < 20; i++) {
    last++;
    process.stdout.write(`line ${last} `);
    process.stderr.write(`error ${last} `);
    process.stdout.write('end\n');
    process.stderr.write('end\n');
  }
}, 2);

http.createServer((request, response) => {
  clearInterval(timer);
  response.end(JSON.stringify({ pid: process.pid, slot: Number(process.env.NODE_APP_INSTANCE), last }));
}).listen(0, '127.0.0.1');
