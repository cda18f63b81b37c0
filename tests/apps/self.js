'use strict';
// What an app sees of itself, as one JSON line; has to be the same under rcluster as under plain node.
const seen = {
  event: 'self',
  argv: process.argv,
  argv0: process.argv0,
  execArgv: process.execArgv,
  execPath: process.execPath,
  main: require.main === module,
  mainFile: require.main && require.main.filename,
  dirname: __dirname,
  filename: __filename,
  parent: module.parent === null || module.parent === undefined,
  cwd: process.cwd(),
  env: Object.keys(process.env).filter((name) => !['NODE_APP_INSTANCE', 'RCLUSTER_SLOT'].includes(name)).sort(),
  listeners: process.eventNames().map(String).sort(),
  title: process.title,
};
// A worker of Node's own cluster has these listeners too; and three that the shim promises: a worker survives SIGHUP,
// tells the master what it dies of, and counts its last requests when it exits.
seen.listeners = seen.listeners.filter((name) => !['disconnect', 'error', 'exit', 'internalMessage', 'message', 'newListener', 'removeListener', 'SIGHUP', 'uncaughtExceptionMonitor'].includes(name));
require('fs').writeSync(1, `${JSON.stringify(seen)}\n`);
if (!process.env.ONCE) require('http').createServer((req, res) => res.end(JSON.stringify({ pid: process.pid }))).listen(0, '127.0.0.1');
