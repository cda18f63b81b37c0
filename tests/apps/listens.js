// An HTTP server on what LISTEN says, as `listen()` takes it. Nothing here knows of rcluster.
'use strict';
const http = require('node:http');

http.createServer((req, res) => res.end(JSON.stringify({ pid: process.pid }))).listen(JSON.parse(process.env.LISTEN));
