'use strict';
// Prints what it is asked for: POST /?stream=stdout&times=N&hex=..., the body of the print in hexadecimal.
const http = require('http');
const fs = require('fs');

process.on('exit', () => process.stdout.write('bye from the handler'));
console.log('booted');

http.createServer((request, response) => {
  const query = new URL(request.url, 'http://x').searchParams;
  const fd = query.get('stream') === 'stderr' ? 2 : 1;
  const stream = fd === 2 ? process.stderr : process.stdout;
  const bytes = Buffer.from(query.get('hex') || '', 'hex');
  const times = Number(query.get('times') || 1);
  const fill = Number(query.get('fill') || 0);
  const line = fill ? Buffer.concat([Buffer.alloc(fill, 'x'), bytes]) : bytes;
  const print = () => { for (let i = 0; i < times; i++) stream.write(line); };
  if (query.has('die')) {
    fs.writeSync(fd, line);
    process.kill(process.pid, 'SIGKILL');
  }
  if (query.has('later')) {
    // Holds the request until the master is gone, then prints and answers.
    response.write('begun ');
    // The answer comes a moment after the print: an error of the stream ends the process before it.
    process.once('disconnect', () => setTimeout(() => { print(); setTimeout(() => response.end('done'), 100); }, 50));
    return;
  }
  print();
  response.end(JSON.stringify({ pid: process.pid, stdout: fs.readlinkSync('/proc/self/fd/1') }));
}).listen(0, '127.0.0.1');
