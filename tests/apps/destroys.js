'use strict';
// Destroys the socket of each tenth request instead of answering it.
const http = require('http');

let count = 0;
http.createServer((req, res) => {
  count += 1;
  if (count % 10 === 0) req.socket.destroy();
  else res.end('fine');
}).listen(0, '127.0.0.1');
