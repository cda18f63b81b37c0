'use strict';
const domain = require('node:domain');
process.on('uncaughtException', () => {
  setTimeout(() => process.send({ domain: process.domain === undefined ? 'undefined' : process.domain && 'entered' }), 50);
});
domain.create().run(() => { throw new Error('in a domain'); });
