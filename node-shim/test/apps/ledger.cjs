'use strict';

// Echoes bodies after 5 ms.
require('node:http').createServer((req, res) => {
  const parts = [];
  req.on('data', (part) => parts.push(part));
  req.on('end', () => setTimeout(() => res.end(Buffer.concat(parts)), 5));
}).listen(0, '127.0.0.1');
