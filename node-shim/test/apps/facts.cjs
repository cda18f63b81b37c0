'use strict';

// Tells what an app can see of its process, and of its children and threads.
const { fork } = require('node:child_process');
const path = require('node:path');
const { Worker, isMainThread, parentPort } = require('node:worker_threads');

const facts = () => ({
  execArgv: process.execArgv,
  shim: process.env.RCLUSTER_SHIM,
  hup: process.listenerCount('SIGHUP'),
  monitor: process.listenerCount('uncaughtExceptionMonitor'),
  message: process.listenerCount('message'),
  argv: process.argv.slice(2),
  main: require.main === module,
});

if (!isMainThread) {
  parentPort.postMessage(facts());
} else {
  process.send({ main: facts() });
  new Worker(__filename).on('message', (thread) => {
    process.send({ thread });
    fork(path.join(__dirname, 'child.cjs')).on('message', (message) => {
      process.send(message);
      process.exit();
    });
  });
}
