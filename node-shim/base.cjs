'use strict';

// Node's own functions, taken before the app's first line, and the helpers that keep a hook from throwing into the app.
//
// The app may replace all of them later: fake timers of a test library, a mocked module, a require hook that refuses
// foreign files. Nothing in the shim calls a global timer, a global clock or `require` after the start.

const MAX_TIMER = 2147483647; // ms, more would fire at once

const { setTimeout, setInterval, setImmediate, clearTimeout, clearInterval, performance } = globalThis;
const { now } = Date; // ms since 1970
const performanceNow = performance.now;
const load = require('module')._load;

/** Milliseconds since the process began; never jumps. */
function uptime() {
  return performanceNow.call(performance);
}

/** A module of Node itself. Loads no file, and no hook of the app sees it. */
const builtin = process.getBuiltinModule || ((name) => load(`node:${name}`, null, false));

function noop() {}

let first; // what failed first
let told; // whom to tell

/** Visible with NODE_DEBUG=rcluster, never thrown into the app. */
function debug(err) {
  try {
    builtin('util').debuglog('rcluster')('%s', err && err.stack);
  } catch { /* nothing left to try */ }
}

/** A fault of the shim. The master hears of the first one, and nothing of it reaches the app. */
function fault(err) {
  debug(err);
  if (first !== undefined) return;
  first = { err };
  if (told) told(err);
}

/** `tell(err)` is called once, with the first fault: at once if there was one already. */
function onFirstFault(tell) {
  told = tell;
  if (first) tell(first.err);
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

function attempt(fn, otherwise) {
  try {
    return fn();
  } catch {
    return otherwise;
  }
}

module.exports = {
  setTimeout, setInterval, setImmediate, clearTimeout, clearInterval, now, performance, uptime,
  builtin, noop, debug, fault, onFirstFault, guard, later, define, symbolOf, attempt,
};
