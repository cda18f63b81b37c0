// An ES module that awaits at its top level before it listens.
import { createServer } from 'node:http';
import { setTimeout as later } from 'node:timers/promises';

const pid = await later(50, process.pid);
const server = createServer((req, res) => res.end(JSON.stringify({ pid })));
server.listen(Number(process.env.PORT || 0), '127.0.0.1');
