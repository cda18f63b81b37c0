// TypeScript that a loader has to strip: types, an interface, a generic.
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';

interface Who { pid: number }
function who<T extends Who>(value: T): string { return JSON.stringify(value); }

const server = createServer((_: IncomingMessage, res: ServerResponse): void => { res.end(who({ pid: process.pid })); });
server.listen(Number(process.env.PORT || 0), '127.0.0.1');
