// Shows what it runs with.
'use strict'
if (process.env.FAIL) throw new Error('told to fail')
require('node:http').createServer((_, answer) => {
  answer.end(JSON.stringify({
    pid: process.pid,
    color: process.env.COLOR,
    args: process.argv.slice(2),
    cwd: process.cwd(),
    title: process.title,
    preloaded: require('node:fs').readFileSync('/proc/self/cmdline', 'utf8').includes('shim.cjs'),
    env: Object.keys(process.env).sort(),
  }))
}).listen(process.env.PORT || 0, process.env.PORT ? undefined : '127.0.0.1')
