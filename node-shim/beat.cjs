'use strict';

// The heartbeat: while the event loop turns, the master hears of it, and of what the worker carries. Nothing here
// runs per request (hooks.cjs counts); Node's histogram is made at the first beat, not in the boot.

const { setTimeout, setInterval, clearInterval, performance, uptime, builtin, attempt, fault, guard } = require('./base.cjs');

const DELAY_MS = 100;
const EARLY_MS = 1000; // the longest interval of the first beats: somebody looks at what has just been started
const EARLY_BEATS = 5;
const AFTERWARDS_MS = 10000; // what was asked of a loop that hung may be heard when it turns again

/** What a histogram of nanoseconds says, less the time between two looks, in us. */
function delay(histogram, percentile) {
  const us = Math.round(histogram.percentile(percentile) / 1000 - DELAY_MS * 1000);
  return us > 0 ? us : 0; // nobody has looked yet: not a number on some versions
}

/**
 * Beats every `ms` after `beginMs`, in the beginning each second at least. `atOnce`: the first
 * beat comes after `beginMs`. The timers do not hold the process.
 */
function create(tracked, send, ms, beginMs, atOnce) {
  let timer;
  let early = EARLY_BEATS;
  let every = Math.min(ms, EARLY_MS);
  let due = uptime() + beginMs;
  let hungUntil = 0;
  let delays;
  let busyBefore = performance.eventLoopUtilization();

  /** What the worker carries; `late` ms is how late this beat is. */
  function measured(late) {
    const turn = performance.eventLoopUtilization();
    const busy = performance.eventLoopUtilization(turn, busyBefore).utilization;
    busyBefore = turn;
    const heap = builtin('v8').getHeapStatistics();
    const figures = {
      ...tracked.figures(),
      connections: tracked.connections(),
      heap_used: heap.used_heap_size,
      heap_limit: heap.heap_size_limit,
      delay_us: Math.round(late * 1000),
      busy: Math.round((busy || 0) * 1000),
    };
    if (delays) {
      figures.delay_p50_us = delay(delays, 50);
      figures.delay_p99_us = delay(delays, 99);
      delays.reset();
    }
    return figures;
  }

  /** Whatever cannot be measured: the loop turns, and that is said. */
  function beat() {
    const now = uptime();
    const late = Math.max(0, now - due);
    due = now + every;
    if (late > every) hungUntil = now + AFTERWARDS_MS;
    let figures;
    try {
      figures = measured(late);
    } catch (err) {
      fault(err);
    }
    send({ act: 'beat', ...figures });
    if (early > 0 && --early === 0 && every !== ms) {
      every = ms;
      restart();
    }
  }

  function restart() {
    clearInterval(timer);
    due = uptime() + every;
    timer = setInterval(guard(beat), every).unref();
  }

  const begin = guard(() => {
    if (uptime() > due + every) hungUntil = uptime() + AFTERWARDS_MS;
    restart();
    if (atOnce) beat();
    // Ten looks a second cost nothing that can be measured; what is shorter than one is seen by chance.
    delays = attempt(() => builtin('perf_hooks').monitorEventLoopDelay({ resolution: DELAY_MS }));
    if (delays) delays.enable(); // its timer does not hold the process either
  });
  setTimeout(begin, beginMs).unref();

  return {
    /** Whether a beat is overdue by more than one interval, or was so until lately. */
    isSilent: () => uptime() > (timer ? due + every : due) || uptime() < hungUntil,
  };
}

module.exports = { create };
