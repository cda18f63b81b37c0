'use strict';
// The echo of echo-http.js as a Fastify app.
const fastify = require('fastify');
const ready = require('./ready');

const app = fastify();
app.removeAllContentTypeParsers();
app.addContentTypeParser('*', { parseAs: 'string' }, (_request, body, done) => done(null, body));
app.post('/echo', async (request, reply) => {
  const delay = Number(request.headers['x-delay-ms'] ?? 0);
  if (delay > 0) await new Promise((resolve) => setTimeout(resolve, delay));
  reply.header('x-id', request.headers['x-id']);
  return request.body;
});
app.listen({ host: '127.0.0.1', port: Number(process.env.PORT) }).then(ready);
