'use strict';
// What a dashboard has to show: requests, a hang in a function that has a name, an error that looks like markup.
const http = require('http');

function spinForEver() {
  for (;;);
}

http.createServer((request, response) => {
  if (request.url === '/hang') spinForEver();
  if (request.url === '/throw') setImmediate(() => { throw new Error('<img src=x onerror="window.owned=1">'); });
  response.end(JSON.stringify({ pid: process.pid }));
}).listen(0, '127.0.0.1');
