// Leaves processes behind that its master, as process 1, inherits: each says "gone" at its end.
'use strict'
const { spawnSync } = require('node:child_process')
const { STRANGERS, GONE } = process.env
for (let n = 0; n < Number(STRANGERS); n++) {
  spawnSync('sh', ['-c', `setsid sh -c 'while [ ! -e ${GONE}.go ]; do read -t 0.01 x </dev/null; done; echo gone >>${GONE}; exit 3' >/dev/null 2>&1 &`])
}
require('node:http').createServer((_, answer) => answer.end('ok')).listen(0, '127.0.0.1')
