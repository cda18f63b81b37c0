'use strict';

// What the shim hooks in normal operation.
//
// Per listen: the handle's `onconnection`. Per connection: a comparison and a count. Per request: a count and, unless
// request metrics are off, two looks at the clock (under load for one request in eight). Which connections are open is asked when a drain begins.
// All hooks sit on prototypes, so that servers made by ESM imports, subclasses or old references are seen.

const base = require('./base.cjs');

const { setInterval, clearInterval, setImmediate, uptime, builtin, guard, symbolOf } = base;

const BUCKETS = 88;
const EXACT = 1000; // requests between two beats that are all timed; of those beyond, one in SAMPLE for all
const SAMPLE = 8; // a power of two

const REUSE_PORT = 2; // UV_TCP_REUSEPORT of uv.h
const LOOPBACK = /^(::ffff:)?127\.|^::1$/;
const OUR_PID = new RegExp(`(?<!\\d)${process.pid}(?!\\d)`);

// Who can ask a server. A drain closes them in this order: a request to one of the first may need one of the last.
const KNOWN = 0; // clients know its address, and other workers may listen there too
const OWN = 1; // `exclusive`: no other worker listens there
const PRIVATE = 2; // this process alone knows where it is

/** The arguments are those of net.Server.prototype._listen2, and whether the socket came from the master. */
function rankOf(shared, address, port, flags) {
  if (port === -1 && address) return !shared || OUR_PID.test(address) ? PRIVATE : KNOWN; // a Unix path
  if (shared) return port === 0 && LOOPBACK.test(address) ? PRIVATE : KNOWN;
  if (port === 0) return PRIVATE;
  if (!(port > 0) || flags & REUSE_PORT) return KNOWN; // a handle that came from elsewhere
  return LOOPBACK.test(address) ? PRIVATE : OWN;
}

/**
 * The bucket of a duration, four to each doubling, in units of 16 us (`src/admin/figures.rs` reads them): the
 * first four are linear, then bucket 4 (e - 1) + q begins at (4 + q) 2^(e - 2) units. The last holds all above.
 */
function bucketOf(ms) {
  const units = ms >= 60000 ? 4194303 : (ms * 62.5) | 0;
  if (units < 4) return units;
  const e = 31 - Math.clz32(units);
  return 4 * (e - 1) + ((units >>> (e - 2)) & 3);
}

/**
 * Tracks servers from here on, and connections from `follow()` on. `capMs` is the longest keep-alive timeout that
 * may be advertised. `on.listen(server, shared)` returns true if it took a new listener over; `shared` says that
 * the master gave the socket. `timed`: requests are timed and their answers counted by class.
 */
function install(cluster, capMs, on, timed) {
  const net = builtin('net');
  const servers = new Set(); // net.Server (http, https, http2, tls too) that listens
  const open = new Set(); // accepted net.Socket, the TCP side of a TLS one; empty before follow()
  const unreffed = new Set(); // accepted net.Socket that the app unref'ed: those are on nobody's list
  let sweepAt = 1024;
  const ranks = new WeakMap(); // net.Server -> its rank
  const datagrams = new Map(); // dgram.Socket bound through the master -> its rank
  const tlsOf = new WeakMap(); // accepted net.Socket -> the TLSSocket on it
  const shared = new WeakSet(); // net.Server whose socket came from the master
  const keyed = new Map(); // the master's name of a listener -> the net.Server and its handle
  let answered; // the name in the answer that Node is about to act upon
  const netClose = net.Server.prototype.close;
  let httpHooked = false;
  let http2Hooked = false;
  let requests = 0; // responses finished
  let accepted = 0; // connections
  let seen = false; // somebody waits for the next one
  let tell; // and is told so
  const classes = new Array(10).fill(0); // of those responses, by the first digit of their status
  const durations = new Array(BUCKETS).fill(0); // how many took so long, see bucketOf()
  let durationMs = 0; // all of them together
  let lately = 0; // requests since somebody asked for the figures
  let tlsHooked = false;

  const listen2 = net.Server.prototype._listen2; // every listen() ends here; Node keeps the name for wrappers
  net.Server.prototype._listen2 = function _listen2() {
    const result = Reflect.apply(listen2, this, arguments);
    onListen(this, arguments);
    return result;
  };

  const onListen = guard((server, [address, port, , , , flags]) => {
    const handle = server._handle;
    if (!handle) return;
    ranks.set(server, rankOf(shared.has(server), address, port, flags));
    if (on.listen(server, shared.has(server))) return;
    for (const other of servers) if (!other._handle) servers.delete(other);
    servers.add(server);
    if (answered !== undefined) {
      for (const [key, [other, itsHandle]] of keyed) if (other._handle !== itsHandle) keyed.delete(key);
      keyed.set(answered, [server, handle]);
    }
    const speaksHttp2 = typeof server.updateSettings === 'function'; // and HTTP/1 beside it, if the app allows it
    if (!httpHooked && (speaksHttp2 || 'keepAliveTimeout' in server)) hookHttp();
    if (!http2Hooked && speaksHttp2) server.prependOnceListener('stream', hookHttp2);
    hookConnections(server, handle);
    if (!tlsHooked && typeof server.setSecureContext === 'function') hookTls();
  });

  /** The app may change its server's timeout at any time: a comparison a connection sees it before the client does. */
  function hookConnections(server, handle) {
    const { onconnection } = handle;
    const http = 'keepAliveTimeout' in server;
    handle.onconnection = function onconnectionSeen(err, client) {
      accepted += 1;
      if (seen) tell();
      if (http && (server.keepAliveTimeout > advertised.cap || server.keepAliveTimeout === 0)) capAdvertised(server);
      return onconnection.call(this, err, client);
    };
  }

  const { ref, unref } = net.Socket.prototype;
  net.Socket.prototype.unref = function unrefTracked() {
    if (this._server) {
      unreffed.add(this);
      if (unreffed.size > sweepAt) {
        for (const socket of unreffed) if (socket.destroyed) unreffed.delete(socket);
        sweepAt = Math.max(1024, unreffed.size * 2);
      }
    }
    return Reflect.apply(unref, this, arguments);
  };
  net.Socket.prototype.ref = function refTracked() {
    unreffed.delete(this);
    return Reflect.apply(ref, this, arguments);
  };

  /** Fills `open` with what is connected now; from here on `gone()` hears of every connection that ends. */
  function follow(gone) {
    const destroy = net.Socket.prototype._destroy;
    net.Socket.prototype._destroy = function _destroy(err, callback) {
      if (open.delete(this)) gone();
      return Reflect.apply(destroy, this, [err, callback]);
    };
    // The only list of its connections that Node keeps; a Set of our own would cost every connection.
    for (const socket of [...process._getActiveHandles(), ...unreffed]) {
      if (socket instanceof net.Socket && socket._server && !socket.destroyed) open.add(socket);
    }
    forgetDetached();
  }

  /** Sockets that the app sent to a child process lose their handle without being destroyed. */
  function forgetDetached() {
    for (const socket of open) if (socket.destroyed || (!socket._handle && !tlsOf.has(socket))) open.delete(socket);
  }

  function hookTls() {
    tlsHooked = true;
    const { TLSSocket } = builtin('tls');
    const init = TLSSocket.prototype._init;
    TLSSocket.prototype._init = function _init(socket) {
      if (socket && socket._server) tlsOf.set(socket, this);
      return Reflect.apply(init, this, arguments);
    };
  }

  /** Counts responses, and times them. */
  function hookHttp() {
    httpHooked = true;
    const { ServerResponse } = builtin('http');
    const finished = ServerResponse.prototype._finish; // once a response, when all of it is written
    if (!timed) {
      ServerResponse.prototype._finish = function _finish() {
        requests += 1;
        return finished.call(this);
      };
    } else {
      const begun = Symbol('rcluster.begun');
      const { assignSocket } = ServerResponse.prototype; // once a request, when it is its turn on the connection
      ServerResponse.prototype.assignSocket = function assignSocketTimed(socket) {
        if (++lately <= EXACT) this[begun] = uptime();
        else if ((lately & (SAMPLE - 1)) === 0) this[begun] = -uptime(); // the sign says: for SAMPLE requests
        return assignSocket.call(this, socket);
      };
      ServerResponse.prototype._finish = function _finish() {
        requests += 1;
        classes[this.statusCode / 100 | 0] += 1;
        const at = this[begun]; // none: not in the sample, or somebody answers without a socket
        if (at !== undefined) {
          const weight = at < 0 ? SAMPLE : 1;
          const took = uptime() - (at < 0 ? -at : at);
          durationMs += took * weight;
          durations[bucketOf(took)] += weight;
        }
        return finished.call(this);
      };
    }
  }

  /**
   * Counts the responses of HTTP/2, whichever way the app gives them: all its streams end here. The class has no name for us,
   * so the first stream tells it.
   */
  const hookHttp2 = guard((stream) => {
    if (http2Hooked) return;
    http2Hooked = true;
    const prototype = Object.getPrototypeOf(stream);
    const destroy = prototype._destroy;
    prototype._destroy = function _destroy() {
      if (this.writableFinished) countHttp2(this);
      return Reflect.apply(destroy, this, arguments);
    };
  });

  const countHttp2 = guard((stream) => {
    const { sentHeaders } = stream;
    if (!sentHeaders) return;
    requests += 1;
    if (timed) classes[sentHeaders[':status'] / 100 | 0] += 1;
  });

  const getServer = cluster._getServer;
  cluster._getServer = function _getServer(object, options) {
    if (object && /^udp[46]$/.test(object.type)) {
      for (const other of datagrams.keys()) if (!datagramHandle(other)) datagrams.delete(other);
      datagrams.set(object, options && options.port > 0 ? KNOWN : PRIVATE);
    } else if (object) {
      shared.add(object);
    }
    return Reflect.apply(getServer, this, arguments);
  };

  // An answer of the master leads to a listen() before Node returns from it: one listener before Node's own and one after.
  process.prependListener('internalMessage', guard((message) => {
    if (!message || message.cmd !== 'NODE_CLUSTER') return;
    if (message.ack !== undefined) answered = message.key;
    else if (message.act === 'newconn' && message.check) liftLimit(message.key);
  }));
  process.on('internalMessage', () => {
    answered = undefined;
    if (limited) restoreLimit();
  });

  let limited; // [server, its maxConnections]: while a health check of the master's comes in, which is none of its clients

  function liftLimit(key) {
    const [server] = keyed.get(key) || [];
    if (limited || !server || typeof server.maxConnections !== 'number') return;
    limited = [server, server.maxConnections];
    server.maxConnections = undefined;
    setImmediate(guard(restoreLimit)); // should a listener of the app's throw
  }

  function restoreLimit() {
    if (!limited) return;
    const [server, most] = limited;
    limited = undefined;
    if (server.maxConnections === undefined) server.maxConnections = most; // else the app has set it
  }

  /**
   * What takes the connections of a listener, if the app still listens there and has room: as Node's own worker decides
   * (`onconnection` in lib/internal/cluster/child.js), so that another one gets what is too much here.
   */
  function handleOf(key) {
    const [server, handle] = keyed.get(key) || [];
    if (!server || server._handle !== handle) return undefined;
    const most = server.maxConnections;
    const full = most !== undefined && most !== null && server._connections >= most && !server.dropMaxConnection;
    return full ? undefined : handle;
  }

  function datagramHandle(socket) {
    const state = socket[symbolOf(socket, 'state symbol')];
    return state && state.handle;
  }

  // An idle client uses its connection again as long as it was told it may. What it is told must end before
  // a drain does; the socket's real timeout stays the app's, for balancers that go by a number of their own.
  const advertised = { cap: capMs, unlimited: false, hooked: false };

  const capAdvertised = guard((server) => {
    if (server.keepAliveTimeout === 0) advertised.unlimited = true;
    if (advertised.hooked) return;
    advertised.hooked = true;
    const key = Symbol('rcluster.keepAliveTimeout');
    Object.defineProperty(builtin('http').ServerResponse.prototype, '_keepAliveTimeout', {
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

  /** Connections that are open now. */
  function connections() {
    let sum = 0;
    for (const server of servers) sum += server._connections || 0;
    return sum;
  }

  /**
   * Tells the master of connections, for it steers by them: at the end of each period in which one came, and on until
   * nothing has changed for ten. Per connection this is a comparison.
   */
  function reportLoad(send, ms) {
    let timer;
    let quiet = 0;
    let last = [0, 0];
    const look = guard(() => {
      const now = [accepted, connections()];
      if (now[0] === last[0] && now[1] === last[1]) {
        if (++quiet < 10) return;
        clearInterval(timer);
        seen = true;
        return;
      }
      quiet = 0;
      last = now;
      send({ act: 'load', accepted: now[0], connections: now[1] });
    });
    tell = guard(() => {
      seen = false;
      quiet = 0;
      timer = setInterval(look, ms).unref();
    });
    seen = true;
  }

  /** All since the start. */
  function figures() {
    if (!timed) return { requests, accepted };
    lately = 0;
    const filled = durations.slice(0, durations.findLastIndex((n) => n > 0) + 1);
    return { requests, accepted, classes: classes.slice(1, 6), duration_us: Math.round(durationMs * 1000), durations: filled };
  }

  return { servers, ranks, open, datagrams, tlsOf, netClose, datagramHandle, handleOf, follow, forgetDetached, connections, reportLoad, figures };
}

module.exports = { ...base, install, bucketOf };
