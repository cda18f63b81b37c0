'use strict';
// The echo of echo-http.js as an Express app.
const express = require('express');
const ready = require('./ready');

const app = express();
app.use(express.text({ type: () => true, limit: '1mb' }));
app.post('/echo', (req, res) => {
  const answer = () => res.set('x-id', req.get('x-id')).send(req.body);
  const delay = Number(req.get('x-delay-ms') ?? 0);
  if (delay > 0) setTimeout(answer, delay);
  else answer();
});
app.listen(Number(process.env.PORT), '127.0.0.1', ready);
