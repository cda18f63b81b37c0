'use strict';

// The heartbeat: while the event loop turns, the master hears of it, and of what the worker carries. Nothing here
// runs per request but a count (hooks.cjs); nothing is loaded before the first beat.

const { guard } = require('./hooks.cjs');

/** Beats every `ms` from now on; `pace(ms)` changes that. The timer does not hold the process. */
function create(tracked, send, ms) {
  let timer;
  let every;
  let due;
  let busyBefore;

  const beat = guard(() => {
    const now = performance.now();
    const late = Math.max(0, now - due);
    due = now + every;
    const turn = performance.eventLoopUtilization();
    const busy = performance.eventLoopUtilization(turn, busyBefore).utilization;
    busyBefore = turn;
    const heap = require('v8').getHeapStatistics();
    let connections = 0;
    for (const server of tracked.servers) connections += server._connections || 0;
    send({
      act: 'beat',
      requests: tracked.answered(),
      connections,
      heap_used: heap.used_heap_size,
      heap_limit: heap.heap_size_limit,
      delay_us: Math.round(late * 1000),
      busy: Math.round((busy || 0) * 1000),
    });
  });

  const pace = guard((wanted) => {
    if (!(wanted >= 50 && wanted <= 3600000) || wanted === every) return;
    clearInterval(timer);
    every = wanted;
    due = performance.now() + every;
    timer = setInterval(beat, every).unref();
  });

  pace(ms);
  return { pace };
}

module.exports = { create };
