'use strict';

// HTTP/2 in a drain: GOAWAY so that a stream on its way is not refused, and streams that have to be cut.
//
// Node's GOAWAY refuses every later stream, also one that the client sent before it could know. RFC 9113 section 6.8 wants
// two steps, a round trip apart; nghttp2 has the first (a notice of shutdown), Node has no way to it. So:
//
//   first             new streams wait in the shim. When one has come, and two round trips later nothing is on its way any
//                     more, for a client that waits for its answers has none to ask with. They go to the app right after the
//                     GOAWAY. It comes after two seconds at most, also to a client that asks for nothing.
//   over plain TCP    the first GOAWAY, with the highest id, is written into the socket by us; the second is Node's.
//   over TLS          only OpenSSL can write there, and Node's binding aborts on a write beside the session's own: one
//                     GOAWAY. A client that sends at times of its own can meet a refusal, which it may repeat.
//
// No answer goes out just before the first GOAWAY: Node's own client would refuse what it sends because of that answer.

const { builtin, noop, guard, later, define, symbolOf, attempt } = require('./base.cjs');

const STEP_MS = 5000; // at most: from the first GOAWAY to the second, for the answer to a PING
const HOLD_MS = 2000; // at most: that GOAWAY waits for a stream, and a stream for GOAWAY
const ROUNDS = 2; // answered PINGs: what an answer of ours made the client send comes with the second
const FLUSH_MS = 100; // for the frames of streams that are cut
const INTERNAL_ERROR = 2;

// A frame of 8 bytes on stream 0: GOAWAY, last stream id 2^31 - 1, NO_ERROR.
const NOTICE = Buffer.from([0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);

/** The session on a socket, if it has one. */
function sessionOf(socket) {
  if (!socket.server || typeof socket.server.updateSettings !== 'function') return undefined;
  // Node files it under a key that differs between versions (in some by mistake 'undefined').
  for (const key of Reflect.ownKeys(socket)) {
    const value = attempt(() => socket[key]);
    if (value && typeof value === 'object' && typeof value.goaway === 'function') return value;
  }
  return undefined;
}

/** Its open streams. */
function streamsOf(session) {
  const state = session[symbolOf(session, 'state')];
  return state && state.streams ? [...state.streams.values()] : [];
}

function isEventStream(stream) {
  return /^text\/event-stream/i.test(stream.sentHeaders && stream.sentHeaders['content-type']);
}

function handleOf(stream) {
  return stream[symbolOf(stream, 'kHandle')];
}

/** What a stream has written so far, and what waits to be. */
function bytesWritten(stream) {
  return attempt(() => handleOf(stream).bytesWritten, 0) + stream.writableLength;
}

/**
 * RST_STREAM with an error, so that half an answer is no whole one. Node destroys the stream when the frame is written; done
 * by us, the session could end before it. The app hears what it hears of a client that resets.
 */
function abort(stream) {
  stream.on('error', noop);
  const handle = handleOf(stream);
  if (handle) handle.rstStream(INTERNAL_ERROR);
  else stream.destroy();
}

/** Node ends a closed session with its last stream. It must not before the stream's last frames are written. */
function delayDestroy(socket, session, ms, timers) {
  const { destroy } = session;
  define(session, 'destroy', (...args) => {
    define(session, 'destroy', destroy);
    if (args[0] || socket.destroyed) return Reflect.apply(destroy, session, args); // nothing can be written any more
    // Held by the timer: a socket that the client has closed holds no event loop, and the drain must tell its end.
    return timers.push(later(ms, () => Reflect.apply(destroy, session, args)).ref());
  });
}

/** Node 18 does not ask whether its session has something to write. */
function outliveStreams(socket, session, timers) {
  if (/^v18\./.test(process.version)) delayDestroy(socket, session, HOLD_MS, timers);
}

/** The end of a session at the deadline. */
function cut(socket, session, timers) {
  delayDestroy(socket, session, FLUSH_MS, timers);
  for (const stream of streamsOf(session)) guard(abort)(stream);
  session.close();
}

/** Asks the client to take its next streams elsewhere, within `limit` ms; those that it has sent are served. */
function leave(socket, session, timers, limit) {
  if (session.closed || session.destroyed) return;
  const close = guard(() => session.close());
  let rounds = 0;
  const round = () => {
    const before = held.underWay();
    ping(session, () => {
      // An answer that ended meanwhile may have a new request on its way.
      if (said || (++rounds >= ROUNDS && held.underWay() >= before)) say();
      else round();
    });
  };
  const held = hold(session, round);
  outliveStreams(socket, session, timers);
  let said = false;
  const say = guard(() => {
    if (said) return;
    said = true;
    if (sendNotice(socket)) {
      timers.push(later(STEP_MS, close));
      ping(session, close);
    } else close();
    held.release();
  });
  timers.push(later(Math.min(HOLD_MS, limit), say));
}

/** Only between two frames of the session: nothing of its own may wait, and it must have begun. */
function sendNotice(socket) {
  const handle = socket._handle;
  if (socket.encrypted || !handle || !(handle.fd >= 0) || handle.writeQueueSize !== 0 || !(handle.bytesWritten > 0)) return false;
  const sent = attempt(() => builtin('fs').writeSync(handle.fd, NOTICE), 0);
  if (sent !== 0 && sent !== NOTICE.length) socket.destroy(); // half a frame: nothing after it could be read
  return sent !== 0;
}

/** `answered()` when the client has seen all that was sent so far, or cannot be asked. */
function ping(session, answered) {
  if (!attempt(() => session.ping(guard(answered)), false)) answered();
}

/** Keeps new streams from the app until `release()`; `first()` is called when one has come. */
function hold(session, first) {
  const held = [];
  const { emit } = session;
  define(session, 'emit', function emitHeld(event, stream) {
    if (event !== 'stream') return Reflect.apply(emit, this, arguments);
    stream.on('error', noop); // of a client that gives it up meanwhile
    held.push(arguments);
    if (held.length === 1) guard(first)();
    return true;
  });
  function release() {
    define(session, 'emit', emit);
    for (const args of held) {
      process.nextTick(() => { // as Node would: an error of the app is the app's
        args[1].removeListener('error', noop);
        if (!args[1].destroyed) Reflect.apply(emit, session, args);
      });
    }
  }
  /** Streams that the app has. */
  const underWay = () => streamsOf(session).length - held.length;
  return { release, underWay };
}

module.exports = { sessionOf, streamsOf, isEventStream, bytesWritten, abort, cut, leave };
