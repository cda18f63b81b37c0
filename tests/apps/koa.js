'use strict';
const Koa = require('koa');

const app = new Koa();
app.use(async (ctx) => { ctx.body = { pid: process.pid }; });
app.listen(Number(process.env.PORT || 0));
