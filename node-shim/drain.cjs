'use strict';

// The drain: nothing new is accepted, everything accepted is finished, what is not finished at the deadline is
// cut and counted. The rule numbers are those of the README. HTTP/2 is in h2.cjs.

const { builtin, setInterval, setImmediate, clearTimeout, now, noop, guard, later, define, symbolOf, attempt } = require('./base.cjs');
const h2 = require('./h2.cjs');

const LINGER_MS = 2000; // silence after our FIN before the socket is destroyed
const CLOSING_MS = 1000; // at most: after the deadline, between the FIN to what is cut and the destroy
const WS_CLOSE_MS = 2000; // for the peer's close frame
const LONG_DELAY_MS = 100; // the app's own 'rcluster:drain' handler goes first
const LONG_SPACING_MS = 10; // between two closes of WebSockets or silent event streams, less if they are many
const SWEEP_MS = 100; // how often a drain looks for new upgrades, sessions and streams
const WS_REASON = 'service restart';

/**
 * Prepares a drain. `tracked` is what hooks.install() returns, `options` are { longGraceMs, silentMs, capMs, shutdownMessage },
 * `onStart(connections)`, `onLeft(connections)` and `onEnd(cut, silent)` tell the master.
 */
function create(tracked, options, { onStart, onLeft, onEnd }) {
  const { servers, ranks, open, datagrams, tlsOf } = tracked;
  const { Socket } = builtin('net');
  let drain = null; // { deadline, closingMs, cut, silent, finished, timers, waiting, rank } once it has begun
  const lingering = new WeakSet(); // we said FIN and only wait for the client's
  const handled = new WeakSet(); // WebSocket, silent event stream: its end is under way
  const written = new WeakMap(); // event stream -> { bytes, at }: what it had written, and since when nothing more
  const sessions = new Map(); // socket -> HTTP/2 session

  /**
   * Begins, once. `ms` from now what is not finished is cut, which takes up to `closingMs` more. Without `closingMs`
   * (an older master) all is over after `ms`, the cut included.
   */
  function start(ms, closingMs) {
    if (drain) return;
    const inside = !(closingMs >= 0);
    const closing = Math.min(CLOSING_MS, inside ? ms / 4 : closingMs);
    const limit = inside ? ms - closing : ms;
    const deadline = now() + limit;
    // `waiting`: what still listens; `rank`: of what was closed last.
    drain = { deadline, closingMs: closing, cut: 0, silent: 0, finished: false, timers: [], waiting: new Map(), rank: 0 };
    guard(hookResponses)();
    tracked.follow(() => setImmediate(guard(goOn)));
    for (const [socket, rank] of datagrams) drain.waiting.set(socket, { rank, close: stopDatagrams });
    for (const server of servers) guard(keepOpen)(server);
    closeNext();
    onStart(open.size);
    tellApp('rcluster:drain', { deadline });
    if (options.shutdownMessage) tellApp('message', 'shutdown');
    drain.timers.push(later(limit, onDeadline), setInterval(guard(sweep), SWEEP_MS).unref());
    guard(adoptInFlight)();
    guard(sweep)();
    if (open.size === 0) finish();
  }

  /** A server that listens until its turn comes. What it accepts meanwhile is finished like all else. */
  function keepOpen(server) {
    const rank = ranks.get(server) || 0;
    drain.waiting.set(server, { rank, close: closeServer });
    if (rank > 0) server.prependListener('connection', guard((socket) => socket._server === server && !socket.destroyed && open.add(socket)));
  }

  /**
   * Closes what clients know first. What only this process knows, or only some do, is closed when no connection is open any
   * more to what is closed before it: a request in flight may need it.
   */
  function closeNext() {
    const { waiting } = drain;
    while (waiting.size > 0) {
      const rank = Math.min(...[...waiting.values()].map((waits) => waits.rank));
      if (rank > 0) for (const raw of open) if (rankOf(raw) < rank) return;
      closeWaiting(rank);
    }
  }

  function closeWaiting(rank) {
    drain.rank = rank;
    for (const [listener, waits] of drain.waiting) {
      if (waits.rank > rank) continue;
      drain.waiting.delete(listener);
      guard(waits.close)(listener);
    }
  }

  /** That of the server which accepted a connection. */
  const rankOf = (raw) => ranks.get(raw._server) || 0;

  function tellApp(event, argument) {
    try {
      process.emit(event, argument);
    } catch (err) { // the app's listener threw: its other requests shall not pay for it
      process.emitWarning(err instanceof Error ? err : new Error(String(err)));
    }
  }

  /** Rule 1: stop accepting, with net's close. http's would destroy idle sockets and stop the header timer. */
  function closeServer(server) {
    if (!server._handle) return; // by the app, meanwhile
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
    tracked.netClose.call(server);
    if (!('keepAliveTimeout' in server)) return;
    // Rule 4: from now on the sockets, too, live only as long as the client was told.
    const before = server.keepAliveTimeout;
    if (before !== 0 && before <= options.capMs) return;
    server.keepAliveTimeout = options.capMs;
    if (server.keepAliveTimeoutBuffer > 1000) server.keepAliveTimeoutBuffer = 1000;
    const idle = idleSockets(server).map((socket) => [socket, socket.bytesRead]);
    drain.timers.push(later(options.capMs + 1000, () => {
      for (const [socket, seen] of idle) if (!socket.destroyed && socket.bytesRead === seen) linger(socket);
    }));
  }

  /** Sockets of an http server between two requests. Node's list also has those whose answer is not ready. */
  function idleSockets(server) {
    const connections = server[symbolOf(server, 'http.server.connections')];
    return connections ? connections.idle().map((parser) => parser.socket).filter((socket) => socket && !socket._httpMessage) : [];
  }

  /** The new workers read the shared socket on; this one may still answer what it has received. */
  function stopDatagrams(socket) {
    const handle = tracked.datagramHandle(socket);
    if (!handle) return;
    handle.recvStop();
    socket.unref();
  }

  /** The socket that speaks: TLS where there is TLS. */
  const speaker = (socket) => tlsOf.get(socket) || socket;

  /** Rule 2. Every response header passes OutgoingMessage._storeHeader, whichever way the app writes it. */
  function hookResponses() {
    const { OutgoingMessage } = builtin('http');
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
    if (socket instanceof Socket) define(socket, 'destroySoon', guard(() => linger(socket, req)));
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

  /** What needs more than time: HTTP/2 sessions, WebSockets, event streams that fell silent. */
  function sweep() {
    const long = [];
    if (drain.told !== open.size) onLeft(drain.told = open.size);
    for (const raw of open) {
      if (rankOf(raw) > drain.rank) continue; // its client is perhaps a request in flight
      const socket = speaker(raw);
      if (socket.parser) {
        const res = socket._httpMessage;
        if (res && isEventStream(res._header)) watchEvents(res, () => socket.bytesWritten, () => socket.destroy(), long);
      } else if (webSocketOf(socket)) {
        if (take(socket)) long.push(() => closeWebSocket(socket));
      } else if (!sessions.has(socket)) {
        const session = h2.sessionOf(socket);
        if (session) leaveSession(socket, session);
      }
    }
    for (const [socket, session] of sessions) {
      for (const stream of h2.streamsOf(session)) {
        if (h2.isEventStream(stream)) watchEvents(stream, () => h2.bytesWritten(stream), () => h2.abort(stream), long);
      }
      if (socket.writableEnded) linger(socket);
    }
    // Spread, so that thousands of clients do not come back in one moment.
    const left = Math.max(0, Math.min(options.longGraceMs, drain.deadline - now() - WS_CLOSE_MS));
    const spacing = Math.min(LONG_SPACING_MS, left / long.length);
    long.forEach((close, i) => drain.timers.push(later(LONG_DELAY_MS + i * spacing, close)));
  }

  function take(object) {
    return !handled.has(object) && Boolean(handled.add(object));
  }

  function isEventStream(header) {
    return typeof header === 'string' && /\r\ncontent-type: *text\/event-stream/i.test(header);
  }

  /**
   * Rule 8: an event stream runs until it ends or the deadline comes. One that has been silent for `silentMs` of the drain
   * is closed, visibly: the client comes back. Never by its end(): the app may write on.
   */
  function watchEvents(stream, bytesOf, close, long) {
    const bytes = bytesOf();
    const at = now();
    const seen = written.get(stream);
    if (!seen || seen.bytes !== bytes) return written.set(stream, { bytes, at });
    if (at - seen.at < options.silentMs || !take(stream)) return undefined;
    return long.push(() => {
      handled.delete(stream);
      if (bytesOf() !== bytes || stream.destroyed || stream.writableEnded) return;
      drain.silent++;
      close();
    });
  }

  /** The `ws` package (Socket.IO, graphql-ws, @fastify/websocket...) leaves its object on the socket. */
  function webSocketOf(socket) {
    const symbol = symbolOf(socket, 'websocket');
    return symbol && socket[symbol] && typeof socket[symbol].close === 'function' ? socket[symbol] : undefined;
  }

  /** Rule 8: a close frame 1012 by the object that owns the framing, two seconds for the peer's, FIN, destroy. */
  function closeWebSocket(socket) {
    const ws = webSocketOf(socket);
    if (socket.destroyed || !ws) return;
    ws.close(1012, WS_REASON); // behind whatever it still has to compress and send
    drain.timers.push(later(WS_CLOSE_MS, () => {
      if (socket.destroyed) return;
      halfClose(socket);
      drain.timers.push(later(CLOSING_MS, () => socket.destroy()));
    }));
  }

  /** Rule 7. */
  function leaveSession(socket, session) {
    sessions.set(socket, session);
    socket.once('close', () => sessions.delete(socket));
    h2.leave(socket, session, drain.timers, (drain.deadline - now()) / 4);
  }

  // ----------------------------------------------------------------------------------- end of the drain

  /** The deadline: FIN all, up to a second, destroy. What had nothing under way is not counted as cut. */
  function onDeadline() {
    if (drain.finished) return;
    closeWaiting(Infinity);
    const idle = allIdle();
    for (const raw of open) guard(cutSocket)(raw, speaker(raw), idle);
    drain.timers.push(later(drain.closingMs, () => {
      for (const raw of open) speaker(raw).destroy(), raw.destroy();
      finish();
    }));
  }

  function allIdle() {
    const idle = new Set();
    for (const server of new Set([...open].map((raw) => speaker(raw).server))) {
      if (server) for (const socket of attempt(() => idleSockets(server), [])) idle.add(socket);
    }
    return idle;
  }

  /** Whether nothing is lost with a connection. */
  function isQuiet(socket, idle) {
    if (sessions.has(socket)) return h2.streamsOf(sessions.get(socket)).length === 0;
    return socket.bytesRead === 0 || idle.has(socket) || (lingering.has(socket) && socket.writableFinished);
  }

  function cutSocket(raw, socket, idle) {
    const quiet = isQuiet(socket, idle);
    if (!quiet) drain.cut++;
    socket.on('error', noop);
    const session = sessions.get(socket);
    if (session) {
      return h2.cut(socket, session, drain.timers);
    }
    if (socket.parser) {
      let counted = !quiet || lingering.has(socket);
      socket.parser.onIncoming = (req) => { // arrived after our FIN: cannot be answered any more
        if (!counted) drain.cut++;
        counted = true;
        return discard(req);
      };
      if (!quiet && endsWithConnection(socket._httpMessage)) return reset(raw, socket);
    }
    return halfClose(socket);
  }

  /** A body without length and without chunks ends with its connection: after a FIN half of it would look whole. */
  function endsWithConnection(res) {
    return res && res._header && !res.finished && !res.chunkedEncoding && !/\r\ncontent-length:/i.test(res._header);
  }

  function reset(raw, socket) {
    attempt(() => raw.resetAndDestroy()); // not of a Unix socket, which knows no RST
    socket.destroy();
  }

  /**
   * FIN. Not by the socket's end(): the app may write on, and is not to hear of a write after the end. What it writes
   * goes nowhere, and fails when the connection is gone, as with a client that went.
   */
  function halfClose(socket) {
    if (socket.destroyed || socket.writableEnded) return;
    socket.on('error', noop);
    const swallow = (chunk, encoding, callback) => {
      const done = typeof encoding === 'function' ? encoding : callback;
      socket.once('close', () => done(Object.assign(new Error('write ECONNRESET'), { code: 'ECONNRESET', syscall: 'write' })));
    };
    define(socket, '_write', swallow);
    define(socket, '_writev', swallow);
    Socket.prototype._final.call(socket, noop);
  }

  /** A connection has ended. */
  function goOn() {
    if (drain.finished) return;
    if (open.size === 0 && drain.waiting.size === 0) return finish();
    // A loop's turn later: what was connecting to a server that is closed now has been accepted by then.
    setImmediate(guard(() => {
      if (drain.finished) return;
      closeNext();
      if (open.size === 0) finish();
    }));
  }

  function finish() {
    if (drain.finished) return;
    drain.finished = true;
    for (const timer of drain.timers) clearTimeout(timer);
    onEnd(drain.cut, drain.silent);
  }

  return {
    start,
    /** A server that begins to listen during a drain is closed before it accepts anything, unless a request in flight may need it. */
    onListen(server) {
      if (!drain) return false;
      if (!drain.finished && ranks.get(server) > drain.rank) return keepOpen(server), false;
      closeServer(server);
      return true;
    },
    /** Connections that an end of the process would cut now; undefined before and after the drain. */
    underWay() {
      if (!drain || drain.finished) return undefined;
      const idle = allIdle();
      let sum = 0;
      for (const raw of open) if (!isQuiet(speaker(raw), idle)) sum++;
      return sum;
    },
  };
}

module.exports = { create };
