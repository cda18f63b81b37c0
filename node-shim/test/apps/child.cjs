'use strict';

// A forked child of an app: reports what the shim left for it to see, and takes sockets.
process.on('message', (message, socket) => {
  if (message !== 'socket') return;
  socket.on('data', (data) => socket.write(`child ${data}`));
  process.send({ taken: true });
});
process.send({
  child: {
    execArgv: process.execArgv,
    shim: process.env.RCLUSTER_SHIM,
    hup: process.listenerCount('SIGHUP'),
    internal: process.listenerCount('uncaughtExceptionMonitor'),
  },
});
