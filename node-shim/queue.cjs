'use strict';

// Connections that the master hands over: each comes through a queue (a Unix socket) as eight bytes and a descriptor.
// The bytes go back, the last of them TOOK or REFUSED; TOOK at the end of the loop's turn, so that the master, which lets
// few be on their way, hands over no more in a turn than is served in it. What a dead worker has read was its own, what it
// has not read the master takes back. Bytes without a descriptor are an "are you there", and go back as they are.
//
// Node's own way, an internal message of JSON each way and another one for the descriptor, costs four times as much.

const { builtin, setImmediate, debug, guard, later } = require('./base.cjs');

const IPC = 2; // the kind of pipe that takes descriptors (`PipeConstants` in Node)
const MESSAGE = 8; // bytes
const TOOK = 0;
const REFUSED = 1;
const UNREAD = 0xff; // what a read that brings nothing leaves there
const AGAIN_MS = 5;

const { writeSync } = builtin('fs'); // before the app can wrap it

/** Takes connections from `given`, a socket that has just come, for the server that `serverOf()` knows. */
function take(given, serverOf) {
  // What has come is a pipe that takes no descriptors. It stays open: were it closed, the socket would be.
  const { fd, constructor: Pipe } = given;
  const pipe = new Pipe(IPC);
  if (pipe.open(fd)) return; // the master hears nothing from us, and takes back what it has put there
  const message = new Uint8Array(MESSAGE);
  const took = []; // said at the end of the turn
  const unsaid = []; // there was no room
  pipe.useUserBuffer(message); // else each read would allocate 64 KiB
  pipe.onread = () => {
    const given = next();
    if (given) given[0].onconnection(0, given[1]); // not guarded: what it throws is the app's
    // Nothing is returned: that would be the next buffer.
  };

  /** What has come: a server's handle and its next connection, or undefined when that is settled here. */
  const next = guard(() => {
    const client = pipe.pendingHandle;
    pipe.pendingHandle = undefined;
    if (client) {
      const handle = serverOf();
      if (handle) {
        message[MESSAGE - 1] = TOOK;
        if (took.push(message.slice()) === 1) setImmediate(sayTook);
        rearm();
        return [handle, client];
      } else {
        message[MESSAGE - 1] = REFUSED;
        say(message);
        rearm();
        client.close();
      }
    } else if (message[MESSAGE - 1] !== UNREAD) { // else there was nothing to read, or the end, after which libuv reads no more
      say(message);
      rearm();
    }
    return undefined;
  });

  const sayTook = guard(() => {
    say(took.length === 1 ? took[0] : Buffer.concat(took));
    took.length = 0;
  });

  function rearm() {
    message[MESSAGE - 1] = UNREAD;
  }

  function say(bytes) {
    if (unsaid.length === 0 && attemptToSay(bytes)) return;
    unsaid.push(bytes.slice());
    if (unsaid.length === 1) later(AGAIN_MS, sayAgain);
  }

  function sayAgain() {
    while (unsaid.length > 0 && attemptToSay(unsaid[0])) unsaid.shift();
    if (unsaid.length > 0) later(AGAIN_MS, sayAgain);
  }

  function attemptToSay(bytes) {
    try {
      writeSync(fd, bytes, 0, bytes.length); // as a whole or not at all: it is so little
      return true;
    } catch (err) {
      if (err.code === 'EAGAIN') return false;
      debug(err); // the master is gone
      return true;
    }
  }

  rearm();
  pipe.readStart();
  pipe.unref();
}

module.exports = { take };
