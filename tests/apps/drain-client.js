'use strict';
// Clients for drain.js: `node drain-client.js FILE KIND=PORT...`. Each asks once, and once more when FILE is there; what
// happens to it goes to stdout as JSON lines. Ends when all its connections have.
const fs = require('fs');

const [file, ...targets] = process.argv.slice(2);
const ca = { rejectUnauthorized: false };
const when = (then) => {
  const timer = setInterval(() => { if (fs.existsSync(file)) { clearInterval(timer); then(); } }, 5);
};
const collect = (stream, then) => {
  let text = '';
  stream.setEncoding('utf8').on('data', (chunk) => { text += chunk; }).on('end', () => then(text));
};

function h2(url, say) {
  const session = require('http2').connect(url, ca);
  session.on('goaway', (code) => say('goaway', { code }));
  session.on('error', (error) => say('error', { error: error.code }));
  session.on('close', () => say('end'));
  const get = (path) => {
    const stream = session.request({ ':path': path });
    stream.on('error', (error) => say('error', { error: error.code }));
    collect(stream, (text) => say('answer', JSON.parse(text)));
  };
  get('/');
  // Under way while the server drains.
  get(`/hold?until=${file}`);
}

// A connection on which `ask` is written twice; each answer is a JSON object at the end of a chunk.
function raw(socket, ask, say) {
  socket.setEncoding('utf8');
  socket.on('data', (text) => say('answer', { ...JSON.parse(text.slice(text.lastIndexOf('{'))), close: /connection: close/i.test(text) }));
  socket.on('error', (error) => say('error', { error: error.code }));
  socket.on('end', () => say('end'));
  socket.write(ask);
  when(() => socket.write(ask));
}

const kinds = {
  h2: (port, say) => h2(`https://127.0.0.1:${port}`, say),
  h2c: (port, say) => h2(`http://127.0.0.1:${port}`, say),
  https: (port, say) => raw(require('tls').connect({ port, host: '127.0.0.1', ...ca }), 'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n', say),
  tls: (port, say) => raw(require('tls').connect({ port, host: '127.0.0.1', ...ca }), 'who', say),
  net: (port, say) => raw(require('net').connect(port, '127.0.0.1'), 'who', say),
  ws(port, say) {
    const { WebSocket } = require('ws');
    const socket = new WebSocket(`ws://127.0.0.1:${port}/`);
    socket.on('open', () => socket.send('who'));
    socket.on('message', (text) => say('answer', JSON.parse(text)));
    socket.on('error', (error) => say('error', { error: error.code }));
    socket.on('close', (code, reason) => say('end', { code, reason: String(reason) }));
  },
  // Comes back by itself, as its users expect.
  socketio(port, say) {
    const socket = require('socket.io-client').io(`http://127.0.0.1:${port}`, { transports: ['websocket'], reconnectionDelay: 10 });
    let answers = 0;
    socket.on('connect', () => socket.emit('who', (answer) => {
      say('answer', answer);
      if (++answers === 2) socket.close();
    }));
    socket.on('disconnect', (reason) => say('end', { reason }));
  },
};

for (const target of targets) {
  const [kind, port] = target.split('=');
  kinds[kind](Number(port), (event, more) => fs.writeSync(1, `${JSON.stringify({ kind, event, ...more })}\n`));
}
