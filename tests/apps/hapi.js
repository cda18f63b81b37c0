'use strict';
const Hapi = require('@hapi/hapi');

(async () => {
  const server = Hapi.server({ port: Number(process.env.PORT || 0), host: '127.0.0.1' });
  server.route({ method: 'GET', path: '/', handler: () => ({ pid: process.pid }) });
  await server.start();
})();
