// A server in ESM, subclassed, made by `new`, listening twice.
import http, { Server } from 'node:http';

class Mine extends Server {}
const first = http.createServer((req, res) => res.end('first'));
const second = new Mine((req, res) => res.end('second'));
first.listen(0, '127.0.0.1', () => setImmediate(() => {
  first.close(() => first.listen(0, '127.0.0.1', () => second.listen(0, '127.0.0.1')));
}));
