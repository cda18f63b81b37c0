'use strict';

// The part of rcluster that lives inside every Node worker. The master preloads it with `--require`.
//
//   1. entry        is this process really one of our workers? If not: nothing at all
//   2. channel      messages from and to the master (cmd "NODE_RCLUSTER")
//   3. errors       what is about to kill this process
//   4. tracking     which servers listen, which connections they hold
//   5. drain        finish what was promised, then report and let the process end
//
// In normal operation nothing runs per request: one hook per listen, two small ones per connection.
// Every hook body is guarded; if one fails, Node goes on as if the shim were not there.

const MAX_MESSAGE = 2048; // bytes of an error's message
const MAX_STACK = 8192; // bytes of an error's stack
const MAX_HANDLED = 20; // reports of errors that the app survives, per process
const LINGER_MS = 2000; // silence after our FIN before the socket is destroyed
const CUT_MS = 1000; // between the FIN at the deadline and the destroy
const H2_GRACE_MS = 1000; // until GOAWAY with the last stream id
const WS_CLOSE_MS = 2000; // for the peer's close frame
const LONG_DELAY_MS = 100; // the app's own 'rcluster:drain' handler goes first
const LONG_SPACING_MS = 10; // between two WebSocket or SSE closes, less if they are many
const SWEEP_MS = 100; // how often a drain looks for new upgrades, sessions and streams
const MAX_TIMER = 2147483647;
const WS_REASON = 'service restart';

const text = process.env.RCLUSTER_SHIM;
if (text !== undefined) {
  delete process.env.RCLUSTER_SHIM;
  try {
    const cluster = require('cluster');
    if (cluster.isWorker && process.connected && require('worker_threads').isMainThread) {
      hideFromExecArgv();
      run(JSON.parse(text), cluster);
    }
  } catch (err) {
    fault(err);
  }
}

// ---------------------------------------------------------------------------------------------- helpers

function noop() {}

/** An error inside the shim: visible with NODE_DEBUG=rcluster, never thrown into the app. */
function fault(err) {
  try {
    require('util').debuglog('rcluster')('%s', err && err.stack);
  } catch { /* nothing left to try */ }
}

function guard(fn) {
  return function guarded(...args) {
    try {
      return fn(...args);
    } catch (err) {
      fault(err);
      return undefined;
    }
  };
}

/** A timer that neither keeps the event loop alive nor throws. */
function later(ms, fn) {
  return setTimeout(guard(fn), Math.max(0, Math.min(ms, MAX_TIMER))).unref();
}

function define(object, name, value) {
  Object.defineProperty(object, name, { value, configurable: true, enumerable: false, writable: true });
}

function symbolOf(object, description) {
  return Object.getOwnPropertySymbols(object).find((s) => s.description === description);
}

/** child_process.fork() hands process.execArgv on: the app's children are none of our business. */
function hideFromExecArgv() {
  const { realpathSync } = require('fs');
  const { resolve } = require('path');
  const isUs = (path) => {
    try {
      return path === __filename || realpathSync(resolve(path)) === realpathSync(__filename);
    } catch {
      return false;
    }
  };
  const args = process.execArgv;
  for (let i = args.length - 1; i >= 0; i--) {
    const [, flag, path] = /^(--require|-r)(?:=(.*))?$/s.exec(args[i]) || [];
    if (flag === undefined) continue;
    if (path !== undefined ? isUs(path) : isUs(args[i + 1] || '')) args.splice(i, path === undefined ? 2 : 1);
  }
}

function bounded(value, bytes) {
  let string = typeof value === 'string' ? value : String(value);
  if (string.length > bytes) string = string.slice(0, bytes);
  if (Buffer.byteLength(string) <= bytes) return string;
  return Buffer.from(string).subarray(0, bytes).toString().replace(/\ufffd+$/, '');
}

function attempt(fn, otherwise) {
  try {
    return fn();
  } catch {
    return otherwise;
  }
}

// ------------------------------------------------------------------------------------------------- run

function run(settings, cluster) {
  const net = require('net');
  const { worker } = cluster;
  const drainMs = Number.isFinite(settings.drain_ms) && settings.drain_ms >= 0 ? settings.drain_ms : 30000;

  // ------------------------------------------------------------------------------------------- channel

  const nodeSend = process.send; // Node's own, before any agent wraps it
  let gone = false; // the master is no more

  function send(message, done = noop) {
    if (!process.connected) return done();
    try {
      // With a callback Node never turns a failed write into an 'error' event.
      nodeSend.call(process, { cmd: 'NODE_RCLUSTER', ...message }, undefined, undefined, done);
    } catch (err) {
      fault(err);
      done();
    }
    return undefined;
  }

  /** What the master may ask for. Later additions (heartbeat, metrics) are one line each. */
  const acts = {
    drain: (message) => startDrain(Number.isFinite(message.deadline_ms) ? message.deadline_ms : drainMs),
  };

  process.on('internalMessage', guard((message) => {
    if (message && message.cmd === 'NODE_RCLUSTER' && Object.hasOwn(acts, message.act)) acts[message.act](message);
  }));

  // Node's cluster child calls process.exit(0) when its channel ends. If it ended because the master died,
  // what was accepted is served first. If the app asked for it, Node's own behaviour stays.
  let eof = false;
  const channel = process[symbolOf(process, 'kChannelHandle')];
  const { onread } = channel;
  channel.onread = function onreadOrEof(data) {
    if (!data) eof = true;
    return Reflect.apply(onread, this, arguments);
  };
  process.prependListener('disconnect', guard(() => {
    if (!eof || worker.exitedAfterDisconnect) return;
    worker.exitedAfterDisconnect = true;
    gone = true;
    muteSend();
    startDrain(drainMs);
  }));
  // A 'disconnect' listener holds the channel open; Node's own one does already, ours shall not count.
  process.channel.unrefCounted();

  /** With no channel, process.send() would kill a draining app with an 'error' event. */
  function muteSend() {
    process.send = function send(...args) {
      const done = args.find((arg) => typeof arg === 'function');
      if (done) process.nextTick(done, Object.assign(new Error('Channel closed'), { code: 'ERR_IPC_CHANNEL_CLOSED' }));
      return false;
    };
  }

  // Node resets signal dispositions at start, so an ignored SIGHUP has to be ignored here. The app may
  // listen as well; signal listeners do not hold the event loop.
  process.on('SIGHUP', noop);

  // -------------------------------------------------------------------------------------------- errors

  let handledReports = 0;
  process.on('uncaughtExceptionMonitor', guard((err, origin) => {
    const handled = process.listenerCount('uncaughtException') > 0 || process.hasUncaughtExceptionCaptureCallback();
    if (handled && ++handledReports > MAX_HANDLED) return;
    const isError = err !== null && typeof err === 'object' && attempt(() => typeof err.message === 'string', false);
    const shown = isError ? '' : attempt(() => require('util').inspect(err, { depth: 2 }), 'unprintable');
    const message = {
      act: 'error',
      name: bounded(isError ? attempt(() => err.name, 'Error') : 'Uncaught', 256),
      message: bounded(isError ? attempt(() => err.message, '') : shown, MAX_MESSAGE),
      stack: bounded(isError ? attempt(() => err.stack || '', '') : '', MAX_STACK),
      origin,
    };
    if (handled) message.handled = true;
    send(message);
  }));

  // ------------------------------------------------------------------------------------------ tracking

  const servers = new Set(); // net.Server (http, https, http2, tls too) that listens
  const open = new Set(); // accepted net.Socket, the TCP side of a TLS one
  const datagrams = new Set(); // dgram.Socket bound through the master
  const tlsOf = new WeakMap(); // accepted net.Socket -> the TLSSocket on it
  const upgraded = new WeakMap(); // socket -> true if it speaks WebSocket, false for CONNECT and others
  const netClose = net.Server.prototype.close;
  let ownerSymbol;
  let sweepAt = 1024;
  let httpHooked = false;
  let tlsHooked = false;

  const listen2 = net.Server.prototype._listen2; // every listen() ends here; Node keeps the name for wrappers
  net.Server.prototype._listen2 = function _listen2() {
    const result = Reflect.apply(listen2, this, arguments);
    onListen(this);
    return result;
  };

  const onListen = guard((server) => {
    const handle = server._handle;
    if (!handle) return;
    if (drain) return closeServer(server);
    for (const other of servers) if (!other._handle) servers.delete(other);
    servers.add(server);
    ownerSymbol ||= Object.getOwnPropertySymbols(handle).find((s) => handle[s] === server);
    const { onconnection } = handle;
    handle.onconnection = function onconnectionTracked(err, client) {
      try {
        return Reflect.apply(onconnection, this, arguments);
      } finally {
        track(server, client);
      }
    };
    if (!httpHooked && 'keepAliveTimeout' in server) hookHttp();
    if (!tlsHooked && typeof server.setSecureContext === 'function') hookTls();
    return undefined;
  });

  function track(server, client) {
    const socket = client && client[ownerSymbol];
    if (!socket || socket.destroyed) return; // dropped: maxConnections, block list
    open.add(socket);
    if (open.size > sweepAt) forgetDetached();
    if (server.keepAliveTimeout > advertised.cap || server.keepAliveTimeout === 0) capAdvertised(server);
  }

  const destroy = net.Socket.prototype._destroy;
  net.Socket.prototype._destroy = function _destroy(err, callback) {
    if (this._server && open.delete(this) && drain) setImmediate(finishIfEmpty);
    return Reflect.apply(destroy, this, [err, callback]);
  };

  /** Sockets that the app sent to a child process lose their handle without being destroyed. */
  function forgetDetached() {
    for (const socket of open) if (socket.destroyed || (!socket._handle && !tlsOf.has(socket))) open.delete(socket);
    sweepAt = Math.max(1024, open.size * 2);
  }

  function hookTls() {
    tlsHooked = true;
    const { TLSSocket } = require('tls');
    const init = TLSSocket.prototype._init;
    TLSSocket.prototype._init = function _init(socket) {
      if (socket && socket._server) tlsOf.set(socket, this);
      return Reflect.apply(init, this, arguments);
    };
  }

  /** parser.finish() is called once per connection: at its end, or when it is upgraded. */
  function hookHttp() {
    httpHooked = true;
    const { HTTPParser } = require('_http_common');
    const { finish } = HTTPParser.prototype;
    HTTPParser.prototype.finish = function finishOrUpgrade() {
      const req = this.incoming;
      if (req && req.upgrade && this.socket) {
        upgraded.set(this.socket, /^websocket$/i.test(req.headers.upgrade) && req.method !== 'CONNECT');
      }
      return Reflect.apply(finish, this, arguments);
    };
  }

  const getServer = cluster._getServer;
  cluster._getServer = function _getServer(object) {
    if (object && /^udp[46]$/.test(object.type)) {
      for (const other of datagrams) if (!datagramHandle(other)) datagrams.delete(other);
      datagrams.add(object);
    }
    return Reflect.apply(getServer, this, arguments);
  };

  function datagramHandle(socket) {
    const state = socket[symbolOf(socket, 'state symbol')];
    return state && state.handle;
  }

  // An idle client uses its connection again as long as it was told it may. What it is told must end before
  // a drain does; the socket's real timeout stays the app's, for balancers that go by a number of their own.
  const advertised = { cap: Math.max(1000, drainMs - 2000), unlimited: false, hooked: false };

  const capAdvertised = guard((server) => {
    if (server.keepAliveTimeout === 0) advertised.unlimited = true;
    if (advertised.hooked) return;
    advertised.hooked = true;
    const key = Symbol('rcluster.keepAliveTimeout');
    Object.defineProperty(require('http').ServerResponse.prototype, '_keepAliveTimeout', {
      configurable: true,
      get() {
        const own = this[key];
        return own > advertised.cap || (own === 0 && advertised.unlimited) ? advertised.cap : own;
      },
      set(value) {
        this[key] = value;
      },
    });
  });

  // --------------------------------------------------------------------------------------------- drain

  let drain = null; // { deadline, cut, timers, ... } once it has begun
  const lingering = new WeakSet(); // we said FIN and only wait for the client's
  const handled = new WeakSet(); // WebSocket, HTTP/2 session, SSE response: already taken care of
  const sessions = new Map(); // socket -> { session, at }

  function startDrain(ms) {
    if (drain) return;
    const deadline = Date.now() + ms;
    drain = { deadline, cut: 0, finished: false, cutting: false, timers: [] };
    guard(hookResponses)();
    for (const server of servers) guard(closeServer)(server);
    for (const socket of datagrams) guard(stopDatagrams)(socket);
    forgetDetached();
    send({ act: 'draining', connections: open.size });
    tellApp('rcluster:drain', { deadline });
    if (settings.shutdown_message) tellApp('message', 'shutdown');
    drain.timers.push(later(ms, onDeadline), setInterval(guard(sweep), SWEEP_MS).unref());
    guard(adoptInFlight)();
    guard(sweep)();
    finishIfEmpty();
  }

  function tellApp(event, argument) {
    try {
      process.emit(event, argument);
    } catch (err) { // the app's listener threw: its other requests shall not pay for it
      process.emitWarning(err instanceof Error ? err : new Error(String(err)));
    }
  }

  /** Rule 1: stop accepting, with net's close. http's would destroy idle sockets and stop the header timer. */
  function closeServer(server) {
    if (!Object.hasOwn(server, 'close')) {
      // The app's own close() comes later, and shall work as the first one: no ERR_SERVER_NOT_RUNNING.
      let asked = false;
      define(server, 'close', function close(callback) {
        if (asked) return Reflect.apply(Object.getPrototypeOf(this).close, this, arguments);
        asked = true;
        if (typeof callback === 'function') this.once('close', () => Reflect.apply(callback, this, []));
        this._emitCloseIfDrained();
        return this;
      });
    }
    if (typeof server.closeIdleConnections === 'function') define(server, 'closeIdleConnections', noop);
    netClose.call(server);
    if (!('keepAliveTimeout' in server)) return;
    // Rule 4: from now on the sockets, too, live only as long as the client was told.
    const before = server.keepAliveTimeout;
    if (before !== 0 && before <= advertised.cap) return;
    server.keepAliveTimeout = advertised.cap;
    if (server.keepAliveTimeoutBuffer > 1000) server.keepAliveTimeoutBuffer = 1000;
    const idle = idleSockets(server).map((socket) => [socket, socket.bytesRead]);
    drain.timers.push(later(advertised.cap + 1000, () => {
      for (const [socket, seen] of idle) if (!socket.destroyed && socket.bytesRead === seen) linger(socket);
    }));
  }

  /** Sockets of an http server between two requests. */
  function idleSockets(server) {
    const connections = server[symbolOf(server, 'http.server.connections')];
    return connections ? connections.idle().map((parser) => parser.socket).filter(Boolean) : [];
  }

  /** The new workers read the shared socket on; this one may still answer what it has received. */
  function stopDatagrams(socket) {
    const handle = datagramHandle(socket);
    if (!handle) return;
    handle.recvStop();
    socket.unref();
  }

  /** The socket that speaks: TLS where there is TLS. */
  const speaker = (socket) => tlsOf.get(socket) || socket;

  /** Rule 2. Every response header passes OutgoingMessage._storeHeader, whichever way the app writes it. */
  function hookResponses() {
    const { OutgoingMessage } = require('http');
    const store = OutgoingMessage.prototype._storeHeader;
    OutgoingMessage.prototype._storeHeader = function _storeHeader(firstLine, headers) {
      const changed = isNewest(this) ? sayClose(this, headers) : undefined;
      return Reflect.apply(store, this, [firstLine, changed || headers]);
    };
  }

  /** With pipelining only the request parsed last may say close: answers after it would be lost. */
  const isNewest = guard((res) => {
    const socket = res.req && res.req.socket;
    const parser = socket && socket.parser;
    return parser && parser.incoming === res.req && res.statusCode >= 200;
  });

  const sayClose = guard((res, headers) => {
    const { socket } = res.req;
    let rest = [];
    const note = (value) => {
      rest = rest.concat(String(value).split(',').map((t) => t.trim()).filter((t) => t && !/^(close|keep-alive)$/i.test(t)));
    };
    const drop = (name, value) => {
      if (/^connection$/i.test(name)) return note(value), true;
      return /^keep-alive$/i.test(name);
    };
    let kept = headers;
    if (res.getHeaderNames().length > 0) {
      for (const name of ['connection', 'keep-alive']) {
        if (res.hasHeader(name)) drop(name, res.getHeader(name)), res.removeHeader(name);
      }
      if (rest.length) res.setHeader('Connection', ['close', ...rest].join(', '));
    } else if (Array.isArray(headers)) {
      const pairs = Array.isArray(headers[0]) ? headers
        : headers.flatMap((name, i) => (i % 2 === 0 ? [[name, headers[i + 1]]] : []));
      kept = pairs.filter(([name, value]) => !drop(name, value));
      if (rest.length) kept.push(['Connection', ['close', ...rest].join(', ')]);
    } else if (headers) {
      kept = Object.fromEntries(Object.entries(headers).filter(([name, value]) => !drop(name, value)));
      if (rest.length) kept.Connection = ['close', ...rest].join(', ');
    }
    res._removedConnection = false;
    res.shouldKeepAlive = false; // Node adds "Connection: close" and ends the socket after this response
    lastResponse(socket, res.req);
    return kept;
  });

  /** This response is the socket's last: later requests are not dispatched, and the close lingers. */
  function lastResponse(socket, req) {
    socket.parser.onIncoming = discard;
    if (socket instanceof net.Socket) define(socket, 'destroySoon', guard(() => linger(socket, req)));
  }

  function discard(req) {
    req.upgrade = false;
    req.on('error', noop);
    req.resume();
    return 0;
  }

  /** Rule 3: FIN, go on reading, destroy on the client's FIN (autoDestroy) or after some silence. */
  function linger(socket, req) {
    if (lingering.has(socket)) return;
    lingering.add(socket);
    socket.setTimeout(0);
    if (socket.parser && !req) socket.parser.onIncoming = discard;
    socket.end(guard(() => {
      let seen = socket.bytesRead;
      const timer = later(LINGER_MS, () => {
        const uploading = req && !req.complete && !req._dumped && !req.destroyed;
        if (socket.bytesRead === seen && !uploading) return socket.destroy();
        seen = socket.bytesRead;
        return socket.destroyed || timer.refresh();
      });
    }));
  }

  /** Responses whose header is made but still here can be told to close, too. */
  function adoptInFlight() {
    for (const raw of open) {
      const socket = speaker(raw);
      const res = socket._httpMessage;
      if (!res || !res._header || res._headerSent || res._last || !isNewest(res)) continue;
      const header = res._header.replace(/\r\nConnection: keep-alive(?=\r\n)/i, '\r\nConnection: close')
        .replace(/\r\nKeep-Alive: [^\r]*(?=\r\n)/i, '');
      if (!/\r\nConnection: close\r\n/.test(header)) continue;
      res._header = header;
      res._last = true;
      lastResponse(socket, res.req);
    }
  }

  /** What has no answer that ends by itself: HTTP/2 sessions, WebSockets, server-sent events. */
  function sweep() {
    const long = [];
    for (const raw of open) {
      const socket = speaker(raw);
      if (socket.parser) {
        const res = socket._httpMessage;
        if (res && isEventStream(res._header) && take(res)) long.push(() => res.end());
      } else if (upgraded.get(socket) || webSocketOf(socket)) {
        if (take(socket)) long.push(() => closeWebSocket(socket));
      } else if (!upgraded.has(socket) && !sessions.has(socket)) {
        const session = sessionOf(socket);
        if (session) closeSession(socket, session);
      }
    }
    for (const [socket, entry] of sessions) watchSession(socket, entry, long);
    // Spread, so that thousands of clients do not come back in one moment.
    const window = Number.isFinite(settings.long_grace_ms) ? settings.long_grace_ms : drainMs / 2;
    const left = Math.max(0, Math.min(window, drain.deadline - Date.now() - WS_CLOSE_MS - CUT_MS));
    const spacing = Math.min(LONG_SPACING_MS, left / long.length);
    long.forEach((close, i) => drain.timers.push(later(LONG_DELAY_MS + i * spacing, close)));
  }

  function take(object) {
    return !handled.has(object) && Boolean(handled.add(object));
  }

  function isEventStream(header) {
    return typeof header === 'string' && /\r\ncontent-type: *text\/event-stream/i.test(header);
  }

  /** The `ws` package (Socket.IO, graphql-ws, @fastify/websocket...) leaves its object on the socket. */
  function webSocketOf(socket) {
    const symbol = symbolOf(socket, 'websocket');
    return symbol && typeof socket[symbol].close === 'function' ? socket[symbol] : undefined;
  }

  /** Rule 8: a close frame 1012, two seconds for the peer's, FIN, destroy. */
  function closeWebSocket(socket) {
    if (socket.destroyed) return;
    const ws = webSocketOf(socket);
    if (ws) ws.close(1012, WS_REASON); // behind whatever it still has to compress and send
    else if (socket.writable) socket.write(Buffer.concat([Buffer.from([0x88, 2 + WS_REASON.length, 0x03, 0xf4]), Buffer.from(WS_REASON)]));
    drain.timers.push(later(WS_CLOSE_MS, () => {
      if (socket.destroyed) return;
      socket.on('error', noop);
      socket.end();
      drain.timers.push(later(CUT_MS, () => socket.destroy()));
    }));
  }

  function sessionOf(socket) {
    if (!socket.server || typeof socket.server.updateSettings !== 'function') return undefined;
    // Node files it under a key that differs between versions (in some by mistake 'undefined').
    for (const key of Reflect.ownKeys(socket)) {
      const value = attempt(() => socket[key]);
      if (value && typeof value === 'object' && typeof value.goaway === 'function') return value;
    }
    return undefined;
  }

  /** Rule 7: a session gets a grace for what is on the wire, then GOAWAY with the last stream it will answer. */
  function closeSession(socket, session) {
    sessions.set(socket, { session, at: Date.now() });
    socket.once('close', () => sessions.delete(socket));
  }

  function watchSession(socket, { session, at }, long) {
    const state = session[symbolOf(session, 'state')] || {};
    for (const stream of state.streams ? state.streams.values() : []) {
      const type = stream.sentHeaders && stream.sentHeaders['content-type'];
      if (/^text\/event-stream/i.test(type) && take(stream)) long.push(() => stream.end());
    }
    const idle = state.streams && state.streams.size === 0;
    if (!session.closed && !session.destroyed && (idle || Date.now() - at >= H2_GRACE_MS)) session.close();
    if (socket.writableEnded) linger(socket);
  }

  // ----------------------------------------------------------------------------------- end of the drain

  /** At the deadline: FIN all, a second, destroy. What had nothing under way is not counted as cut. */
  function onDeadline() {
    if (drain.finished) return;
    drain.cutting = true;
    const idle = new Set();
    for (const server of new Set([...open].map((raw) => speaker(raw).server))) {
      if (server) for (const socket of attempt(() => idleSockets(server), [])) idle.add(socket);
    }
    for (const raw of open) guard(cutSocket)(speaker(raw), idle);
    drain.timers.push(later(CUT_MS, () => {
      for (const raw of open) speaker(raw).destroy(), raw.destroy();
      finish();
    }));
  }

  function cutSocket(socket, idle) {
    const session = sessions.has(socket) && sessions.get(socket).session;
    const streams = session && attempt(() => session[symbolOf(session, 'state')].streams.size, 0);
    const quiet = session ? streams === 0
      : socket.bytesRead === 0 || idle.has(socket) || (lingering.has(socket) && socket.writableFinished);
    if (!quiet) drain.cut++;
    socket.on('error', noop);
    if (session) return session.destroy();
    if (socket.parser) {
      let counted = !quiet || lingering.has(socket);
      socket.parser.onIncoming = (req) => { // arrived after our FIN: cannot be answered any more
        if (!counted) drain.cut++;
        counted = true;
        return discard(req);
      };
    }
    return socket.end();
  }

  function finishIfEmpty() {
    if (open.size === 0) finish();
  }

  function finish() {
    if (drain.finished) return;
    drain.finished = true;
    for (const timer of drain.timers) clearTimeout(timer);
    if (gone) return process.exit(0);
    const leave = guard(() => {
      worker.exitedAfterDisconnect = true; // else Node exits at once, and the app's own ending is lost
      if (process.connected) process.disconnect();
      muteSend();
    });
    send({ act: 'drained', cut: drain.cut }, leave);
    return undefined;
  }

  send({ act: 'hello', v: 1, node: process.version });
}
