'use strict';

// Where a worker hangs. The master sends SIGUSR1: Node then interrupts whatever JavaScript runs, opens its inspector, and
// emits an internal message there and then, on top of the stack that hangs. So the stack can be read here, without the
// inspector, which is closed first: its port is open for some hundred microseconds, and the id that a debugger would have
// to know is printed by Node to standard error only (`--inspect-publish-uid=stderr`).

const { attempt, guard } = require('./base.cjs');

const FRAMES = 25; // that are told
const ABOVE = 10; // at most, of node and the shim, between the interrupt and us

const closeInspector = process._debugEnd; // what `inspector.close()` calls; that module is not loaded for it

/** One frame a line, innermost first: function, file, line and column. */
function lines(frames) {
  const told = [];
  let begun = false;
  for (const frame of frames) {
    const file = frame.getFileName() || frame.getScriptNameOrSourceURL() || (frame.isEval() ? 'eval' : '');
    // process.emit, by which Node tells us.
    if (!begun && (file === 'node:events' || file === __filename)) continue;
    begun = true;
    if (!file) continue; // of V8 itself
    const name = frame.getFunctionName() || '(anonymous)';
    told.push(`at ${name} (${file.replace(/^file:\/\//, '')}:${frame.getLineNumber()}:${frame.getColumnNumber()})`);
    if (told.length === FRAMES) break;
  }
  return told.join('\n');
}

/** The stack of who calls. The app's own way to print one, source maps included, is left out. */
function stackOf(caller) {
  const { prepareStackTrace, stackTraceLimit } = Error;
  const holder = {};
  try {
    Error.stackTraceLimit = FRAMES + ABOVE;
    Error.prepareStackTrace = (_, frames) => lines(frames);
    Error.captureStackTrace(holder, caller);
    return holder.stack;
  } finally {
    attempt(() => { Error.stackTraceLimit = stackTraceLimit; });
    attempt(() => { Error.prepareStackTrace = prepareStackTrace; });
  }
}

/**
 * Whether SIGUSR1 leads here: not if the inspector is open from the start, which Node then leaves as it is.
 */
function canTell() {
  const words = [...process.execArgv, ...(process.env.NODE_OPTIONS || '').split(/\s+/)];
  return typeof closeInspector === 'function' && !words.some((word) => /^--inspect(-brk|-wait)?(=|$)/.test(word));
}

/**
 * Tells the stack when the inspector is opened while the loop has been silent for long, as only a hung one is. Opened at
 * another time it is somebody's who debugs. `isSilent()` says which.
 */
function tell(isSilent, send) {
  process.prependListener('internalMessage', guard(function interrupted(message) {
    if (!message || message.cmd !== 'NODE_DEBUG_ENABLED' || !isSilent()) return;
    closeInspector();
    send({ act: 'stack', stack: stackOf(interrupted) });
  }));
}

module.exports = { canTell, tell };
