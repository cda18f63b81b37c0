'use strict';
// A plain Express app: it knows nothing of rcluster.
const express = require('express');

const app = express();
app.get('/', (req, res) => {
  res.json({ hello: 'world', pid: process.pid, slot: process.env.NODE_APP_INSTANCE });
});
app.listen(process.env.PORT || 3000);
