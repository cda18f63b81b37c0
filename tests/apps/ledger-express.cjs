'use strict';
// The ledger's application on Express 5; see ledger-lib.cjs for the environment, beside it LISTEN_PATH: a unix path.
const express = require('express');
const { journal, delayMs } = require('./ledger-lib.cjs');

const app = express();
app.use(express.raw({ type: () => true }));
app.post('/echo', (req, res) => {
  const id = req.get('x-id');
  journal('R', id);
  res.on('finish', () => journal('A', id));
  setTimeout(() => res.set('x-id', id).send(req.body), Number(req.get('x-delay-ms') ?? delayMs));
});
app.listen(process.env.LISTEN_PATH || Number(process.env.PORT || 0));
