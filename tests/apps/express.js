'use strict';
// Express 5, as its own documentation shows it.
const express = require('express');

const app = express();
app.use(express.json());
app.get('/', async (req, res) => { res.json({ pid: process.pid }); });
app.post('/echo', (req, res) => { res.json(req.body); });
app.listen(process.env.PORT || 0);
