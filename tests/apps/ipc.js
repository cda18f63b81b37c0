'use strict';
// The app's side of the channel: what process.send, messages and cluster.worker look like from in here.
const cluster = require('cluster');
const fs = require('fs');
const http = require('http');
const net = require('net');

const say = (event, more) => fs.writeSync(1, `${JSON.stringify({ event, pid: process.pid, ...more })}\n`);
process.on('message', (message) => say('message', { message }));
process.on('disconnect', () => say('processDisconnect'));
cluster.worker.on('disconnect', () => say('workerDisconnect', { exitedAfterDisconnect: cluster.worker.exitedAfterDisconnect }));
process.on('exit', (code) => say('exit', { code }));

const send = (message, handle) => new Promise((resolve) => { process.send(message, handle, (error) => resolve(error ? error.message : null)); });

const paths = {
  '/': async () => ({
    isWorker: cluster.isWorker,
    isPrimary: cluster.isPrimary,
    id: cluster.worker.id,
    connected: process.connected,
    workerConnected: cluster.worker.isConnected(),
    isDead: cluster.worker.isDead(),
    exitedAfterDisconnect: cluster.worker.exitedAfterDisconnect,
    leaked: Object.keys(process.env).filter((name) => /^NODE_(CHANNEL|UNIQUE)|^RCLUSTER_SHIM/.test(name)),
  }),
  // Strings, objects, unicode, a message that looks internal but is not.
  '/send': async () => ({
    errors: [await send('plain'), await send({ deep: { er: ['ü', '\u2028', null] } }), await send({ cmd: 'node_lower' }), await send(42)],
  }),
  // 64 messages of half a MiB, not awaited one by one, while servers are opened (their answers come the other way).
  '/large': async () => {
    const opened = Array.from({ length: 4 }, () => new Promise((resolve, reject) => {
      const server = net.createServer().on('error', reject);
      server.listen(0, '127.0.0.1', () => { server.close(); resolve(true); });
    }));
    const sent = Array.from({ length: 64 }, (_, i) => send({ i, blob: 'x'.repeat(512 * 1024) }));
    return { errors: (await Promise.all(sent)).filter(Boolean), opened: (await Promise.all(opened)).length };
  },
  // Handles sent to the master; without its NODE_HANDLE_ACK the queue behind them would stand still for ever.
  '/handle': async () => {
    const server = net.createServer();
    await new Promise((resolve) => { server.listen({ port: 0, host: '127.0.0.1', exclusive: true }, resolve); });
    const client = net.connect(server.address().port, '127.0.0.1');
    const socket = await new Promise((resolve) => { server.once('connection', resolve); });
    const results = [await send({ take: 'socket' }, socket), await send({ take: 'server' }, server), await send('behind')];
    client.destroy();
    server.close();
    return { results };
  },
  // A connection given to the master. The server asks it how many it has, and waits for them when it closes.
  '/given': async () => {
    const server = net.createServer();
    await new Promise((resolve) => { server.listen({ port: 0, host: '127.0.0.1', exclusive: true }, resolve); });
    const client = net.connect(server.address().port, '127.0.0.1').on('error', () => {});
    const socket = await new Promise((resolve) => { server.once('connection', resolve); });
    const failed = await send({ take: 'socket' }, socket);
    const count = await new Promise((resolve, reject) => { server.getConnections((err, n) => (err ? reject(err) : resolve(n))); });
    await new Promise((resolve) => { server.close(resolve); });
    client.destroy();
    return { failed, count, closed: true };
  },
  '/disconnect': async () => { setImmediate(() => cluster.worker.disconnect()); return {}; },
  '/kill': async () => { setImmediate(() => cluster.worker.kill()); return {}; },
  '/process-disconnect': async () => { setImmediate(() => process.disconnect()); return {}; },
};

http.createServer(async (req, res) => {
  const result = await paths[req.url]();
  res.end(JSON.stringify({ pid: process.pid, ...result }));
}).listen(Number(process.env.PORT || 0), '127.0.0.1');
