'use strict';
// What a forked process, a worker thread or a plain child of the app finds around itself.
const cluster = require('cluster');
const { isMainThread, parentPort } = require('worker_threads');

const found = () => ({
  argv: process.argv.slice(2),
  execArgv: process.execArgv,
  // What rcluster gives to its workers; children inherit the two that are promised, and nothing else.
  env: Object.keys(process.env).filter((name) => /^(NODE_|RCLUSTER_)/.test(name) && name !== 'NODE_CHANNEL_FD').sort(),
  isWorker: isMainThread && cluster.isWorker,
  // In a thread node preloads again what the worker was started with; it has to do nothing there.
  preloaded: isMainThread && Object.keys(require.cache).filter((file) => file !== __filename).length,
});
if (!isMainThread) parentPort.once('message', () => { parentPort.postMessage(found()); });
else if (process.send) process.once('message', () => { process.send(found(), () => process.disconnect()); });
else console.log(JSON.stringify(found()));
