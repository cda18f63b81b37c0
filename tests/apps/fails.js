'use strict';
// A release whose every answer is an error.
require('http').createServer((request, response) => {
  response.statusCode = 503;
  response.end();
}).listen(process.env.PORT || 0, '127.0.0.1');
