'use strict';

// Dies, or nearly, in the way that HOW says.
const how = {
  top: () => { throw new TypeError('top level'); },
  rejection: () => { Promise.reject(new RangeError('rejected')); },
  reason: () => { Promise.reject({ code: 7 }); }, // eslint-disable-line prefer-promise-reject-errors
  later: () => { setTimeout(() => { throw new Error('later'); }, 20); },
  string: () => { throw 'just a string'; }, // eslint-disable-line no-throw-literal
  nothing: () => { throw undefined; }, // eslint-disable-line no-throw-literal
  hostile: () => {
    throw new Proxy(new Error('x'), { get() { throw new Error('trap'); } }); // eslint-disable-line no-throw-literal
  },
  huge: () => { throw new Error('\u20ac'.repeat(1e6)); },
  module: () => { require('./does-not-exist.cjs'); },
  handled: () => {
    process.on('uncaughtException', (err) => process.send({ survived: err.message }));
    setInterval(() => {}, 1000);
    for (let i = 0; i < 30; i++) setTimeout(() => { throw new Error('survived'); }, 1);
  },
  emitter: () => { new (require('node:events'))().emit('error', new Error('no listener')); },
  exit: () => { process.exit(3); },
};
how[process.env.HOW]();
