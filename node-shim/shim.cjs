'use strict';

// The part of rcluster that lives inside every Node worker. The master preloads it with `--require`.
//
//   shim.cjs    is this really one of our workers? channel to the master, errors, signals
//   base.cjs    Node's own timers, clocks and modules, taken before the app can replace them
//   hooks.cjs   which servers listen, which connections they hold
//   beat.cjs    the heartbeat
//   stack.cjs   where the event loop hangs
//   queue.cjs   connections that the master hands over
//   drain.cjs   finish what was promised, then report and let the process end
//   h2.cjs      the same for HTTP/2
//
// The master writes them as one file (src/runtime/shim_file.rs). All of it is in memory before the app's first line:
// later the file may be gone, closed to the app's user, outside of its root, or refused by its require hooks.
//
// Every hook body is guarded; if one fails, Node goes on as if the shim were not there, and the master is told once.

const MAX_MESSAGE = 2048; // bytes of an error's message
const MAX_STACK = 8192; // bytes of an error's stack
const MAX_HANDLED = 20; // reports of errors that the app survives, per process
const MAX_NAME = 256; // bytes of its name

const SILENT_MS = 10000; // an event stream that wrote nothing for this long of a drain may end before its deadline
const HOLD_MS = 60000;
const FIRST_BEAT_MS = 1000; // at most, after the start

const hooks = require('./hooks.cjs');
const beat = require('./beat.cjs');
const queue = require('./queue.cjs');
const stack = require('./stack.cjs');
const drains = require('./drain.cjs');

const { attempt, builtin, clearInterval, debug, fault, guard, later, noop, onFirstFault, setImmediate, setInterval, symbolOf } = hooks;
const settingsText = process.env.RCLUSTER_SHIM;

if (settingsText !== undefined) {
  delete process.env.RCLUSTER_SHIM;
  guard(() => {
    const cluster = builtin('cluster');
    if (!cluster.isWorker || !process.connected) return; // threads have no channel of their own
    guard(hideFromExecArgv)();
    run(JSON.parse(settingsText), cluster);
  })();
} else if (!builtin('worker_threads').isMainThread) {
  // A thread of the app is given node's own arguments again; what it forks must not ask for this file.
  guard(hideFromExecArgv)();
}

/** child_process.fork() hands process.execArgv on: the app's children are none of our business. */
function hideFromExecArgv() {
  const { realpathSync } = builtin('fs');
  const { resolve } = builtin('path');
  const isUs = (path) => {
    try {
      return path === __filename || realpathSync(resolve(path)) === realpathSync(__filename);
    } catch {
      return false;
    }
  };
  const args = process.execArgv;
  for (let i = args.length - 1; i >= 0; i--) {
    // The master's: where SIGUSR1 would open the inspector, and who is told of it.
    if (args[i] === '--inspect-port=127.0.0.1:0' || args[i] === '--inspect-publish-uid=stderr') args.splice(i, 1);
    if (i >= args.length) continue;
    const [, flag, path] = /^(--require|-r)(?:=(.*))?$/s.exec(args[i]) || [];
    if (flag === undefined) continue;
    if (path !== undefined ? isUs(path) : isUs(args[i + 1] || '')) args.splice(i, path === undefined ? 2 : 1);
  }
}

/**
 * Takes SIGUSR1 away from the inspector. Node watches a signal from its first listener on, until an event says that the
 * last one went; ours goes without one, so that the app does not see it.
 */
function ignoreSigusr1() {
  process.on('SIGUSR1', noop);
  if (process._events && process._events.SIGUSR1 === noop) {
    delete process._events.SIGUSR1;
    process._eventsCount--;
  }
}

function milliseconds(value, otherwise) {
  return Number.isFinite(value) ? Math.max(0, value) : otherwise;
}

function bounded(value, bytes) {
  const string = String(value).slice(0, bytes);
  if (Buffer.byteLength(string) <= bytes) return string;
  return Buffer.from(string).subarray(0, bytes).toString().replace(/\ufffd+$/, '');
}

/** Anything can be thrown, with getters that throw again. */
function describe(err) {
  const isError = attempt(() => typeof err.message === 'string', false);
  const read = (name) => attempt(() => bounded(err[name] || '', MAX_STACK), '');
  return {
    name: isError ? bounded(read('name') || 'Error', MAX_NAME) : 'Uncaught',
    message: bounded(isError ? read('message') : attempt(() => builtin('util').inspect(err, { depth: 2 }), 'unprintable'), MAX_MESSAGE),
    stack: isError ? read('stack') : '',
  };
}

function run(settings, cluster) {
  const { worker } = cluster;
  const drainMs = milliseconds(settings.drain_ms, 30000);
  const capMs = Math.max(1000, drainMs - 2000); // Node adds a second of its own to what it advertises
  const killMs = milliseconds(settings.kill_ms, 10000);
  const stopSignal = typeof settings.stop_signal === 'string' ? settings.stop_signal : 'SIGTERM';
  let observer; // listens for the stop signal while we drain
  let observed = false; // it has come
  const nodeSend = process.send; // Node's own, before any agent wraps it
  let gone = false; // the master is no more
  let left = false; // drained, and the channel closed by us
  let ended = false; // drained
  let hold; // of the event loop, while we drain

  let drain;

  const tracked = hooks.install(cluster, capMs, {
    listen(server, shared) {
      const taken = drain.onListen(server);
      // `exclusive` and `reusePort` servers never ask the master, who would wait for this app for ever.
      if (!taken && !shared) send({ act: 'listening' });
      return taken;
    },
  }, settings.metrics !== false);

  drain = drains.create(tracked, {
    capMs,
    longGraceMs: milliseconds(settings.long_grace_ms, drainMs / 2),
    silentMs: milliseconds(settings.silent_ms, SILENT_MS),
    shutdownMessage: settings.shutdown_message === true,
  }, {
    onStart: (connections) => send({ act: 'draining', connections }),
    // If the worker has to be ended, the master knows what that cut.
    onLeft: (connections) => send({ act: 'left', connections }),
    onEnd: drained,
  });

  // Counted from hello on; a loop that does not turn any more is heard by its silence.
  const beats = settings.beat_ms > 0
    && beat.create(tracked, send, settings.beat_ms, Math.min(settings.beat_ms, FIRST_BEAT_MS), settings.load_ms > 0);

  // Where stacks are not wanted SIGUSR1 opens nothing: not for whoever else may send it, either.
  const tellsStack = settings.stack === true && beats && stack.canTell();
  if (tellsStack) stack.tell(beats.isSilent, send);
  else if (settings.stack === false) ignoreSigusr1();

  /** What the master may ask for. */
  const acts = {
    uninspect: () => process._debugEnd(),
    slot: (message) => takeSlot(message.slot),
    queue: ({ key }, socket) => socket && queue.take(socket, () => tracked.handleOf(key)),
    drain: (message) => startDrain(milliseconds(message.deadline_ms, drainMs), message.closing_ms),
  };

  /** How many listeners the app has for the stop signal. */
  function stopHandlers() {
    return process.listenerCount(stopSignal) - (observer && process.listeners(stopSignal).includes(observer) ? 1 : 0);
  }

  /** A spare was booted under another number; what the app has read of it before stays as it is. */
  function takeSlot(slot) {
    process.env.NODE_APP_INSTANCE = process.env.RCLUSTER_SLOT = String(slot);
    try {
      process.emit('rcluster:slot', { slot });
    } catch (err) { // of the app's listener, and no fault of the shim
      process.emitWarning(err instanceof Error ? err : new Error(String(err)));
    }
  }

  function send(message, done = noop) {
    if (!process.connected) return done();
    const { domain } = process; // what is sent inside of one would enter and leave it again later
    try {
      if (domain) process.domain = null;
      // With a callback Node never turns a failed write into an 'error' event.
      return nodeSend.call(process, { cmd: 'NODE_RCLUSTER', ...message }, undefined, undefined, done);
    } catch (err) {
      debug(err); // the channel is closed
      return done();
    } finally {
      if (domain) process.domain = domain;
    }
  }

  /** A worker that cannot drain ends as one of plain Node does, and keeps no port. */
  function startDrain(ms, closingMs) {
    try {
      holdLoop();
      // With a listener a signal loses its default action: only beside one of the app's own.
      if (!observer && stopHandlers() > 0) {
        observer = () => { observed = true; };
        process.prependListener(stopSignal, observer);
      }
      drain.start(ms, closingMs);
    } catch (err) {
      fault(err);
      ended = true;
      holdLoop();
      if (gone) process.exit(0);
      worker.disconnect();
    }
  }

  /**
   * A connection that nobody reads or writes holds no event loop: the process would end before its drain, and before the app's
   * handlers of the stop signal have run. Where the master is gone and there is none, nothing is worth waiting for.
   */
  function holdLoop() {
    if (hold) clearInterval(hold);
    hold = ended || (gone && stopHandlers() === 0) ? undefined : setInterval(noop, HOLD_MS);
  }

  /** The last figures: what was answered since the last beat counts too. */
  function sum() {
    if (!gone && !left) send({ act: 'figures', ...tracked.figures() });
  }

  /**
   * Rule 10: report, run the app's handlers of the stop signal, close the channel. In this order: a process that nothing
   * else holds ends with its channel, and a signal of the master's would come too late, or reach only a wrapper of node.
   */
  function drained(cut, silent) {
    ended = true;
    holdLoop();
    const handlers = stopHandlers();
    const stopping = observed || handlers > 0;
    if (!stopping && observer) process.removeListener(stopSignal, observer);
    const runHandlers = () => {
      if (observed || handlers === 0) return;
      const { signals } = builtin('os').constants;
      setImmediate(() => process.emit(stopSignal, stopSignal, signals[stopSignal])); // what it throws is the app's
    };
    if (gone) {
      if (!stopping) process.exit(0);
      runHandlers();
      later(killMs, () => process.exit(0));
      return;
    }
    sum();
    send({ act: 'drained', cut, silent, stopping }, guard(() => {
      worker.exitedAfterDisconnect = true; // else Node exits at once, and the app's own ending is lost
      left = true;
      runHandlers();
      setImmediate(guard(() => process.connected && process.disconnect()));
    }));
  }

  /** The last words, written at once or not at all: how much was answered, and what a drain that has not ended leaves. */
  function lastWords() {
    sum();
    const cut = drain && !gone && !left ? drain.underWay() : undefined;
    if (cut !== undefined) send({ act: 'left', connections: cut });
  }

  guard(announceLeaving)();
  guard(listenToMaster)();
  guard(outliveMaster)();
  guard(reportErrors)();
  process.on('exit', guard(lastWords));
  send({ act: 'hello', v: 1, node: process.version, queues: takesQueues(), stack: tellsStack });
  onFirstFault((err) => send({ act: 'fault', ...describe(err) }));
  if (settings.load_ms > 0) tracked.reportLoad(send, settings.load_ms);

  /** Whether this Node lets us read a pipe into our own buffer. */
  function takesQueues() {
    return attempt(() => typeof process[symbolOf(process, 'kChannelHandle')].useUserBuffer === 'function', false);
  }

  /** `worker.disconnect()` closes the servers first and says why at the end: the master must not close them for all. */
  function announceLeaving() {
    const { disconnect } = worker;
    hooks.define(worker, 'disconnect', function disconnectSeen() {
      send({ act: 'leaving' });
      return Reflect.apply(disconnect, this, arguments);
    });
  }

  function listenToMaster() {
    process.on('internalMessage', guard((message, handle) => {
      if (message && message.cmd === 'NODE_RCLUSTER' && Object.hasOwn(acts, message.act)) acts[message.act](message, handle);
    }));
  }

  /**
   * When its channel ends, Node's cluster child calls process.exit(0) and drops what it was serving. If the
   * master died, the same drain comes first. If the app closed the channel, Node's behaviour stays.
   */
  function outliveMaster() {
    const channel = process[symbolOf(process, 'kChannelHandle')];
    const { onread } = channel;
    let eof = false;
    channel.onread = function onreadOrEof(data) {
      if (!data) eof = true;
      return Reflect.apply(onread, this, arguments);
    };
    process.prependListener('disconnect', guard(() => {
      if (!eof || worker.exitedAfterDisconnect) return;
      worker.exitedAfterDisconnect = true;
      gone = true;
      startDrain(drainMs, settings.closing_ms);
    }));
    // A process.send() of the app that finds no master would end this process by an 'error' event, possibly
    // before the end of the channel has been read, and always in the middle of what is being served.
    worker.on('error', (err) => {
      if (gone || left || (err && (err.code === 'EPIPE' || err.code === 'ECONNRESET'))) return;
      if (worker.listenerCount('error') === 1) throw err; // as without this listener
    });
    // A 'disconnect' listener holds the channel open. Node's own does so already; ours shall not count.
    process.channel.unrefCounted();
  }

  function reportErrors() {
    let survived = 0;
    process.on('uncaughtExceptionMonitor', guard((err, origin) => {
      const { domain } = process; // with a listener of its own it handles the error, before all others
      if (domain && domain.listenerCount('error') > 0) return;
      const handled = process.listenerCount('uncaughtException') > 0 || process.hasUncaughtExceptionCaptureCallback();
      if (handled && ++survived > MAX_HANDLED) return;
      const report = { act: 'error', ...describe(err), origin };
      if (handled) report.handled = true;
      send(report);
    }));
  }
}
