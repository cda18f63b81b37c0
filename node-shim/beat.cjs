'use strict';

// The heartbeat: while the event loop turns, the master hears of it, and of what the worker carries. Nothing here
// runs per request (hooks.cjs counts); nothing is loaded before the first beat.

const { guard } = require('./hooks.cjs');

const DELAY_MS = 100;

/** What a histogram of nanoseconds says, less the time between two looks, in us. */
function delay(histogram, percentile) {
  const us = Math.round(histogram.percentile(percentile) / 1000 - DELAY_MS * 1000);
  return us > 0 ? us : 0; // nobody has looked yet: not a number on some versions
}

/** Beats every `ms` from now on; `pace(ms)` changes that. The timer does not hold the process. */
function create(tracked, send, ms) {
  let timer;
  let every;
  let due;
  let busyBefore;
  // Ten looks a second cost nothing that can be measured; what is shorter than one is seen by chance.
  const delays = require('perf_hooks').monitorEventLoopDelay({ resolution: DELAY_MS });
  delays.enable(); // its timer does not hold the process either

  const beat = guard(() => {
    const now = performance.now();
    const late = Math.max(0, now - due);
    due = now + every;
    const turn = performance.eventLoopUtilization();
    const busy = performance.eventLoopUtilization(turn, busyBefore).utilization;
    busyBefore = turn;
    const heap = require('v8').getHeapStatistics();
    send({
      act: 'beat',
      ...tracked.figures(),
      connections: tracked.connections(),
      heap_used: heap.used_heap_size,
      heap_limit: heap.heap_size_limit,
      delay_us: Math.round(late * 1000),
      delay_p50_us: delay(delays, 50),
      delay_p99_us: delay(delays, 99),
      busy: Math.round((busy || 0) * 1000),
    });
    delays.reset();
  });

  const pace = guard((wanted) => {
    if (!(wanted >= 50 && wanted <= 3600000) || wanted === every) return;
    clearInterval(timer);
    every = wanted;
    due = performance.now() + every;
    timer = setInterval(beat, every).unref();
  });

  pace(ms);
  return { pace, beat };
}

module.exports = { create };
