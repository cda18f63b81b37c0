'use strict';

// The smallest server.
require('node:http').createServer((req, res) => res.end('hello')).listen(0, '127.0.0.1');
