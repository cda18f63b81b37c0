'use strict';
// Listens on a descriptor, as apps for systemd's socket activation do.
require('http').createServer((_, response) => {
  response.end(JSON.stringify({ pid: process.pid }));
}).listen({ fd: Number(process.env.FD) });
