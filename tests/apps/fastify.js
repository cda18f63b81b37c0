'use strict';
// Fastify 5, as its own documentation shows it.
const fastify = require('fastify')({ logger: false });

fastify.get('/', async () => ({ pid: process.pid }));
fastify.listen({ port: Number(process.env.PORT || 0), host: '127.0.0.1' });
