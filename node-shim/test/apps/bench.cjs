'use strict';

// The smallest server, and what CPU it has used.
require('node:http').createServer((req, res) => res.end('hello')).listen(0, '127.0.0.1');
process.on('message', () => process.send(process.cpuUsage()));
