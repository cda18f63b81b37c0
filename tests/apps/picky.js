'use strict';
// Answers 500 to everything but one exact request: proof that rehearse sends what it was told to.
const http = require('http');

http.createServer((req, res) => {
  let body = '';
  req.on('data', (piece) => { body += piece; });
  req.on('end', () => {
    const right = req.method === 'POST' && req.url === '/exact?a=1' && req.headers.host === 'shop.example'
      && req.headers['x-key'] === 'secret: 1' && req.headers['content-type'] === undefined && body === 'hello';
    // A refusal by the app is an answer as well.
    res.statusCode = right ? 422 : 500;
    res.end('picked');
  });
}).listen(0, '127.0.0.1');
