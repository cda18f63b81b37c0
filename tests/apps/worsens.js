'use strict';
// Starts as long as the file BROKEN does not exist, and makes it with its first answer: the next generation is a bad release.
const fs = require('fs');
const http = require('http');

if (fs.existsSync(process.env.BROKEN)) throw new Error('a bad release');
http.createServer((req, res) => {
  fs.writeFileSync(process.env.BROKEN, '');
  res.end('fine');
}).listen(0, '127.0.0.1');
