'use strict';
// Clients for what the harness does not speak: `node client.js KIND PORT [FILE]` prints one JSON object with the
// `pid` of the worker that answered.
const fs = require('fs');

const [kind, port, file] = process.argv.slice(2);
const done = (text, more) => console.log(JSON.stringify({ ...JSON.parse(text), ...more }));
const collect = (stream, then) => {
  let text = '';
  stream.setEncoding('utf8').on('data', (chunk) => { text += chunk; }).on('end', () => then(text));
};
setTimeout(() => { console.error(`no answer from ${kind} on ${port}`); process.exit(1); }, 30_000).unref();

const kinds = {
  // Resumes the TLS session kept in FILE, if there is one, and keeps the newest one there.
  https() {
    const session = file && fs.existsSync(file) ? fs.readFileSync(file) : undefined;
    const req = require('https').get({ host: '127.0.0.1', port, session, rejectUnauthorized: false, agent: false, headers: { connection: 'close' } });
    req.on('socket', (socket) => socket.on('session', (ticket) => { if (file) fs.writeFileSync(file, ticket); }));
    req.on('response', (res) => {
      const reused = res.socket.isSessionReused();
      collect(res, (text) => done(text, { reused }));
    });
  },
  http2: () => h2(`https://127.0.0.1:${port}`),
  h2c: () => h2(`http://127.0.0.1:${port}`),
  udp4: () => udp('udp4', '127.0.0.1'),
  udp6: () => udp('udp6', '::1'),
  ws() {
    const { WebSocket } = require('ws');
    const socket = new WebSocket(`ws://127.0.0.1:${port}/`);
    socket.on('open', () => socket.send('who'));
    socket.on('message', (text) => { done(text); socket.close(); });
  },
  socketio() {
    const socket = require('socket.io-client').io(`http://127.0.0.1:${port}`, { transports: ['websocket'], reconnection: false });
    socket.on('connect', () => socket.emit('who', (answer) => { done(JSON.stringify(answer)); socket.close(); }));
  },
};

function h2(url) {
  const session = require('http2').connect(url, { rejectUnauthorized: false });
  const stream = session.request({ ':path': '/' });
  collect(stream, (text) => { done(text); session.close(); });
}

function udp(type, host) {
  const socket = require('dgram').createSocket(type);
  // A datagram may be dropped: ask again until the answer comes.
  const ask = () => socket.send('who', Number(port), host);
  const timer = setInterval(ask, 500);
  socket.on('message', (text) => { clearInterval(timer); socket.close(); done(text); });
  ask();
}

kinds[kind]();
