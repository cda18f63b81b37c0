'use strict';
// Tells the bench that this process serves, on the named pipe BENCH_READY: the same way under every contender,
// also under those that take stdout for themselves.
const fs = require('node:fs');

module.exports = () => fs.writeFileSync(process.env.BENCH_READY, `ready ${process.pid}\n`);
