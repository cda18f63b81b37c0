// A worker that says what it may do with the standard descriptors that it has, and reads from those that only write.
'use strict'
const fs = require('fs')

function read (fd) {
  const flags = parseInt(fs.readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8').match(/^flags:\s*(\d+)/m)[1], 8)
  // What can be read would wait for somebody to type.
  if ((flags & 3) !== fs.constants.O_WRONLY) return 'can read'
  try {
    return fs.readSync(fd, Buffer.alloc(1))
  } catch (error) {
    return error.code
  }
}

function reopen (fd) {
  try {
    fs.closeSync(fs.openSync(`/proc/self/fd/${fd}`, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK | fs.constants.O_NOCTTY))
    return 'opened'
  } catch (error) {
    return error.code
  }
}

const is = [1, 2].map(fd => require('tty').isatty(fd))
console.log(JSON.stringify({ event: 'rights', is, read: [1, 2].map(read), reopen: [1, 2].map(reopen) }))
require('http').createServer((_, res) => res.end()).listen(0, '127.0.0.1')
