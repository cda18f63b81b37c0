'use strict';
// An error that a domain handles, then one that nobody handles but a listener of 'uncaughtException'.
const domain = require('domain');

process.on('uncaughtException', () => {});
require('http').createServer((req, res) => res.end()).listen(0, '127.0.0.1', () => {
  const handles = domain.create();
  handles.on('error', () => {
    require('fs').writeSync(1, `${JSON.stringify({ event: 'handled' })}\n`);
    handles.exit();
    setImmediate(() => { throw new Error('of nobody'); });
  });
  handles.run(() => setImmediate(() => { throw new Error('of a domain'); }));
});
