'use strict';
// The ledger's application on Fastify 5; see ledger-lib.cjs for the environment.
const fastify = require('fastify')({ logger: false });
const { journal, delayMs } = require('./ledger-lib.cjs');

fastify.addContentTypeParser('*', { parseAs: 'buffer' }, (req, body, done) => done(null, body));
fastify.post('/echo', async (req, reply) => {
  const id = req.headers['x-id'];
  journal('R', id);
  reply.raw.on('finish', () => journal('A', id));
  await new Promise((resolve) => setTimeout(resolve, Number(req.headers['x-delay-ms'] ?? delayMs)));
  return reply.header('x-id', id).send(req.body);
});
fastify.listen({ port: Number(process.env.PORT || 0), host: '127.0.0.1' });
