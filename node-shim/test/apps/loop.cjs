'use strict';

// Nothing to do. Node's own cluster child holds the channel open; without that the loop is empty.
if (process.env.UNREF) process.channel.unref();
process.on('exit', (code) => process.stdout.write(`exit ${code}\n`));
