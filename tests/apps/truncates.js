// A worker that empties and overwrites the file that its master logs to, by each way that it has to it.
'use strict'
const fs = require('fs')

function attempt (work) {
  try {
    work()
    return 'done'
  } catch (error) {
    return error.code
  }
}

const ways = {}
for (const fd of [1, 2]) {
  ways[`ftruncate ${fd}`] = attempt(() => fs.ftruncateSync(fd, 0))
  ways[`open ${fd}`] = attempt(() => fs.closeSync(fs.openSync(`/proc/self/fd/${fd}`, 'r+')))
  ways[`pwrite ${fd}`] = attempt(() => fs.writeSync(fd, 'forged\n', 0))
}
console.log(JSON.stringify({ event: 'attempts', ways }))
console.error('to stderr')
require('http').createServer((_, res) => res.end()).listen(0, '127.0.0.1')
