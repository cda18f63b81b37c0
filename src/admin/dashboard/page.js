'use strict';
// What /v1/status says, drawn. Text from the master goes in as text only, never as markup.
(() => {
  const KEEP_MS = 5 * 60 * 1000;
  const EVERY_MS = 1000;
  const by = (id) => document.getElementById(id);
  const make = (name, props = {}, ...children) => {
    const node = Object.assign(document.createElement(name), props);
    node.append(...children);
    return node;
  };
  const shape = (name, attrs = {}) => {
    const node = document.createElementNS('http://www.w3.org/2000/svg', name);
    for (const key of Object.keys(attrs)) node.setAttribute(key, attrs[key]);
    return node;
  };
  const say = (node, text) => { if (node.textContent !== text) node.textContent = text; };
  const look = (node, name) => { if (node.className !== name) node.className = name; };

  // Characters that turn the reading direction or hide are shown, as `src/core/escape.rs` does; line breaks stay.
  const hidden = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;
  const plain = (key, value) => (typeof value === 'string' ? value.replace(hidden, (c) => `\\u{${c.codePointAt(0).toString(16)}}`) : value);
  const read = (text) => JSON.parse(text, plain);

  // Numbers for people.
  const count = (n) => (n < 10 && n % 1 ? n.toFixed(1) : Math.round(n).toLocaleString('en'));
  const bytes = (n) => {
    const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
    let i = 0;
    while (n >= 1024 && i < 4) { n /= 1024; i++; }
    return `${n < 10 && i ? n.toFixed(1) : Math.round(n)} ${units[i]}`;
  };
  const micros = (us) => (us < 1000 ? `${Math.round(us)} µs` : us < 1e6 ? `${(us / 1000).toFixed(us < 1e4 ? 1 : 0)} ms` : `${(us / 1e6).toFixed(1)} s`);
  const percent = (n) => `${Math.round(n)}\u00a0%`;
  const span = (ms) => {
    const s = Math.floor(ms / 1000);
    if (s < 1) return `${Math.round(ms)} ms`;
    const parts = [[Math.floor(s / 86400), 'd'], [Math.floor(s / 3600) % 24, 'h'], [Math.floor(s / 60) % 60, 'min'], [s % 60, 's']];
    const first = parts.findIndex(([n]) => n > 0);
    return parts.slice(first, first + 2).filter(([n]) => n > 0).map(([n, unit]) => `${n}\u00a0${unit}`).join(' ');
  };
  const tones = { ready: 'good', serving: 'good', live: 'good', booting: 'warn', starting: 'warn', held: 'warn', spare: 'warn', reloading: 'warn', draining: 'warn', polling: 'warn' };
  const tone = (word) => tones[word] || 'bad';
  const hue = (generation) => `hsl(${(generation * 137 + 70) % 360} 65% 50%)`;

  // What was seen, oldest first: {at, marks, values by name}.
  let samples = [];
  let known = new Map(); // worker -> what it told since it serves, or since it does not
  let seats = new Map(); // slot -> {rate, memory} over its workers
  let last = null;

  const serves = (worker) => worker.state === 'ready' && !worker.spare;

  const stateOf = (worker) => (worker.spare ? 'spare' : worker.silent ? `silent ${Math.floor(worker.silent_ms / 1000)} s` : worker.state);

  // A heartbeat tells of the time since the one before it: the rate stays until the next one.
  function know(worker, now) {
    let mine = known.get(worker.id);
    if (!mine || mine.serves !== serves(worker)) {
      // Before the first look it has served since its start, as far as is known.
      const since = samples.length || mine ? now : now - worker.uptime_ms;
      mine = { serves: serves(worker), since, told: since < now ? { at: since, requests: 0 } : null, rate: null };
      known.set(worker.id, mine);
    }
    if (worker.silent) mine.rate = 0; // its event loop stands still: it answers nobody
    const at = now - (worker.silent_ms || 0);
    if (worker.silent || !worker.beat || at < mine.since) return;
    const { requests } = worker.beat;
    if (mine.told && at <= mine.told.at + 100) return;
    if (mine.told) mine.rate = Math.max(0, requests - mine.told.requests) * 1000 / (at - mine.told.at);
    mine.told = { at, requests };
  }

  // The sum over a slot's workers. While one that serves has told nothing yet the slot goes on as it was, or a
  // replacement would look like an outage.
  function sum(workers, of, before) {
    const told = workers.map(of).filter((value) => value !== null);
    const waits = workers.some((worker) => serves(worker) && of(worker) === null);
    const all = told.length ? told.reduce((a, b) => a + b, 0) : null;
    return waits && before !== null && !(all > before) ? before : all;
  }

  function measure(status) {
    const all = { rate: 0, delay: null, busy: null, memory: null, p50: null, p99: null, '5xx': null, '4xx': null };
    const slots = new Map();
    const beats = [];
    for (const worker of status.workers) {
      know(worker, status.clock_ms);
      slots.set(worker.slot, [...(slots.get(worker.slot) || []), worker]);
      if (worker.beat) beats.push(worker.beat);
    }
    const ids = new Set(status.workers.map((worker) => worker.id));
    for (const id of known.keys()) if (!ids.has(id)) known.delete(id);
    const before = seats;
    seats = new Map();
    for (const [slot, workers] of slots) {
      const was = before.get(slot) || { rate: null, memory: null };
      const rate = sum(workers, (worker) => known.get(worker.id).rate, was.rate);
      const memory = sum(workers, (worker) => (worker.usage ? worker.usage.memory : null), was.memory);
      seats.set(slot, { rate, memory });
      all.rate += rate || 0;
      if (memory !== null) all.memory += memory;
    }
    for (const beat of beats) {
      all.busy += beat.busy / 10 / beats.length;
      all.delay = Math.max(all.delay, beat.delay_p99_us === undefined ? beat.delay_us : beat.delay_p99_us);
    }
    for (const figures of status.figures || []) {
      for (const key of ['p50', 'p99']) {
        const value = figures[`${key}_us`];
        if (value !== undefined && value !== null) all[key] = Math.max(all[key], value);
      }
      const classes = figures.responses_per_s;
      if (classes) {
        all['4xx'] += classes[3];
        all['5xx'] += classes[4];
      }
    }
    return all;
  }

  // One chart: a curve or two over the last five minutes, readable by pointer and by arrow keys.
  class Chart {
    constructor(title, keys, format, ceiling) {
      Object.assign(this, { title, keys, format, ceiling, at: null });
      this.now = make('output', { className: keys.length > 1 ? 'now small' : 'now' });
      this.top = make('span', { className: 'top' });
      this.svg = shape('svg', { viewBox: '0 0 600 100', preserveAspectRatio: 'none', role: 'img', tabindex: '0' });
      this.when = make('span');
      this.node = make('figure', {},
        make('figcaption', {}, make('span', { textContent: title }), this.now),
        make('div', { className: 'plot' }, this.svg, this.top),
        make('div', { className: 'ends' }, this.when, make('span', { textContent: 'now' })));
      by('charts').append(this.node);
      this.svg.addEventListener('pointermove', (event) => {
        const box = this.svg.getBoundingClientRect();
        this.point((event.clientX - box.left) / box.width);
      });
      this.svg.addEventListener('pointerleave', () => { this.at = null; this.draw(); });
      this.svg.addEventListener('blur', () => { this.at = null; this.draw(); });
      this.svg.addEventListener('keydown', (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (step) {
          const end = samples.length - 1;
          const from = this.at === null ? end : samples.findIndex((s) => s.at >= this.at);
          const to = samples[Math.max(0, Math.min(end, from + step))];
          this.at = to ? to.at : null;
          event.preventDefault();
        } else if (event.key === 'Escape') this.at = null;
        else return;
        this.now.setAttribute('aria-live', 'polite');
        this.draw();
      });
    }

    // As much as there is, but a minute at least: in whole minutes, so that the curve does not stretch all the time.
    width() {
      const minutes = Math.ceil((samples[samples.length - 1].at - samples[0].at) / 60_000);
      return Math.min(KEEP_MS, Math.max(1, minutes) * 60_000);
    }

    point(share) {
      if (!samples.length) return;
      const at = samples[samples.length - 1].at - this.width() * (1 - share);
      const near = samples.reduce((a, b) => (Math.abs(b.at - at) < Math.abs(a.at - at) ? b : a));
      this.at = near.at;
      this.draw();
    }

    draw() {
      const data = samples.filter((s) => s.all[this.keys[0]] !== null);
      this.node.hidden = data.length === 0;
      if (!data.length) return;
      const end = samples[samples.length - 1].at;
      const width = this.width();
      const x = (at) => 600 * (1 - (end - at) / width);
      say(this.when, `${span(width)} ago`);
      const highest = Math.max(...data.map((s) => Math.max(...this.keys.map((k) => s.all[k]))));
      const ceiling = this.ceiling || highest * 1.15 || 1;
      const y = (value) => 98 - 94 * Math.min(1, value / ceiling);
      const parts = [shape('line', { class: 'grid', x1: 0, x2: 600, y1: 98, y2: 98 }), shape('line', { class: 'grid', x1: 0, x2: 600, y1: 51, y2: 51 })];
      for (const sample of samples) if (sample.mark) parts.push(shape('line', { class: 'mark', x1: x(sample.at), x2: x(sample.at), y1: 0, y2: 100 }));
      this.keys.forEach((key, i) => {
        const points = data.map((s) => `${x(s.at).toFixed(1)},${y(s.all[key]).toFixed(1)}`);
        if (!i) parts.push(shape('path', { class: 'area', d: `M${x(data[0].at).toFixed(1)},98 L${points.join(' L')} L600,98 Z` }));
        parts.push(shape('polyline', { class: i ? 'curve b' : 'curve', points: points.join(' ') }));
      });
      const chosen = this.at === null ? null : data.find((s) => s.at >= this.at);
      if (chosen) parts.push(shape('line', { class: 'cross', x1: x(chosen.at), x2: x(chosen.at), y1: 0, y2: 100 }));
      this.svg.replaceChildren(...parts);
      const shown = chosen || data[data.length - 1];
      const words = (sample) => this.keys.map((key) => (this.keys.length > 1 ? `${key} ` : '') + this.format(sample.all[key])).join(', ');
      say(this.now, words(shown) + (chosen ? `, ${span(end - chosen.at)} ago` : ''));
      say(this.top, this.format(ceiling));
      this.svg.setAttribute('aria-label', `${this.title}: now ${words(data[data.length - 1])}; highest ${this.format(highest)} since ${this.when.textContent}. Arrow keys read older values.`);
    }
  }
  const charts = [
    new Chart('Requests a second', ['rate'], count),
    new Chart('Errors a second', ['5xx', '4xx'], count),
    new Chart('Latency', ['p99', 'p50'], micros),
    new Chart('Event-loop delay', ['delay'], micros),
    new Chart('Event loops busy', ['busy'], percent, 100),
    new Chart('Memory (RSS)', ['memory'], bytes),
  ];

  const columns = ['Slot', 'Worker', 'PID', 'Generation', 'State', 'Uptime', 'Restarts', 'Requests/s', '4xx/s', '5xx/s', 'p99', 'Busy', 'Loop delay', 'Heap', 'RSS', 'Connections', 'Share'];
  by('titles').append(...columns.map((text) => make('th', { scope: 'col', textContent: text })));
  const rows = new Map();

  function drawWorkers(status, rate) {
    const figures = new Map((status.figures || []).map((f) => [f.slot, f]));
    for (const worker of status.workers) {
      let row = rows.get(worker.id);
      if (!row) {
        row = make('tr');
        columns.forEach((title, i) => {
          const cell = make(i ? 'td' : 'th');
          if (!i) cell.scope = 'row';
          cell.dataset.title = title;
          row.append(cell);
        });
        const meter = make('meter', { min: 0, max: 100 });
        meter.setAttribute('aria-label', 'share of all requests');
        row.lastChild.append(make('span', {}), meter);
        rows.set(worker.id, row);
      }
      const beat = worker.beat;
      const mine = serves(worker) && !worker.silent ? seats.get(worker.slot).rate : null;
      const share = mine !== null && rate > 0 ? mine * 100 / rate : 0;
      const slot = serves(worker) && !worker.silent ? figures.get(worker.slot) : null;
      const classes = slot && slot.responses_per_s;
      const state = stateOf(worker);
      const values = [worker.slot, worker.id, worker.pid || '-', worker.generation, state, span(worker.uptime_ms), worker.restarts,
        mine !== null ? count(mine) : '-', classes ? count(classes[3]) : '-', classes ? count(classes[4]) : '-', slot && slot.p99_us ? micros(slot.p99_us) : '-', beat ? percent(beat.busy / 10) : '-',
        beat ? micros(beat.delay_p99_us === undefined ? beat.delay_us : beat.delay_p99_us) : '-', beat ? bytes(beat.heap_used) : '-',
        worker.usage ? bytes(worker.usage.memory) : '-', beat ? beat.connections : '-'];
      values.forEach((value, i) => say(row.children[i], String(value)));
      look(row.children[4], tone(state));
      look(row.children[9], classes && classes[4] > 0 ? 'bad' : '');
      say(row.lastChild.firstChild, `${percent(share)} `);
      row.lastChild.lastChild.value = share;
    }
    const order = status.workers.map((worker) => rows.get(worker.id));
    const ids = new Set(status.workers.map((worker) => worker.id));
    for (const id of [...rows.keys()]) if (!ids.has(id)) rows.delete(id);
    const body = by('workers');
    if (order.length !== body.children.length || order.some((row, i) => body.children[i] !== row)) body.replaceChildren(...order);
  }

  function drawFleet(status) {
    const slots = new Map();
    for (const worker of status.workers) {
      const list = slots.get(worker.slot) || [];
      list.push(worker);
      slots.set(worker.slot, list);
    }
    for (const [slot] of status.waiting || []) if (!slots.has(slot)) slots.set(slot, []);
    by('slots').replaceChildren(...[...slots.keys()].sort((a, b) => a - b).map((slot) => {
      const item = make('li', {}, make('b', { textContent: `slot ${slot}` }));
      for (const worker of slots.get(slot)) {
        const state = stateOf(worker);
        const chip = make('div', { className: 'chip' }, make('span', { textContent: `generation ${worker.generation}` }), make('span', { textContent: state, className: tone(state) }));
        chip.style.setProperty('--tone', hue(worker.generation));
        item.append(chip);
      }
      const wait = (status.waiting || []).find(([waiting]) => waiting === slot);
      if (wait) item.append(make('div', { className: 'bad', textContent: `crash loop: ${wait[1]} deaths, next in ${span(wait[2])}` }));
      return item;
    }));
    const reload = status.reload;
    if (!reload) {
      const text = `No reload in progress; ${status.reloads_done} done, ${status.reloads_failed} failed since the start.`;
      const parts = [make('p', { textContent: text })];
      if (status.last_reload_error) {
        const [first, ...rest] = status.last_reload_error.split('\n');
        const summary = make('summary', { className: 'bad', textContent: `The last reload failed: ${first}` });
        const open = by('reload').querySelector('details');
        parts.push(make('details', { open: Boolean(open && open.open) }, summary, make('pre', { textContent: rest.join('\n') })));
      }
      by('reload').replaceChildren(...parts);
      return;
    }
    const serves = (worker) => worker.generation >= reload.generation && worker.state === 'ready' && !worker.spare;
    const taken = new Set(status.workers.filter(serves).map((worker) => worker.slot)).size;
    const text = `Reload to generation ${reload.generation}: ${reload.stage}, ${taken} of ${status.wanted} slots, for ${span(reload.elapsed_ms)}`;
    let bar = by('reload').querySelector('progress');
    if (!bar) {
      bar = make('progress');
      bar.setAttribute('aria-labelledby', 'reload-text');
      by('reload').replaceChildren(make('p', { id: 'reload-text' }), bar);
    }
    say(by('reload-text'), text);
    bar.max = status.wanted;
    bar.value = Math.min(taken, status.wanted);
  }

  const ended = (exit) => (exit.code === undefined ? `killed by signal ${exit.signal.signal}${exit.signal.core ? ', core dumped' : ''}` : `exit code ${exit.code}`);
  const shown = new Map();
  function drawIncidents(status) {
    by('no-incidents').hidden = status.incidents.length > 0;
    const items = status.incidents.map((incident) => {
      // An incident gains facts after it began: its exit, the stack.
      const key = `${incident.at} ${incident.worker} ${incident.kind}`;
      const version = JSON.stringify(incident);
      let known = shown.get(key);
      if (!known || known.version !== version) {
        const kind = incident.kind.replace(/_/g, ' ');
        const when = make('span', { className: 'when' });
        const head = make('summary', {}, make('strong', { className: 'bad', textContent: kind }), ` slot ${incident.slot}, worker ${incident.worker}, generation ${incident.generation}: ${incident.reason.split('\n')[0]} `, when);
        const body = [];
        if (incident.stack) body.push(make('p', { textContent: 'It hung here:' }), make('pre', { textContent: incident.stack }));
        if (incident.error) body.push(make('p', { textContent: 'Its last error:' }), make('pre', { textContent: incident.error }));
        if (incident.exit) body.push(make('p', { textContent: `Its end: ${ended(incident.exit)}` }));
        if (!body.length) body.push(make('p', { textContent: 'Nothing else is known.' }));
        for (const pre of body) if (pre.tagName === 'PRE') { pre.tabIndex = 0; }
        const open = known ? known.details.open : false;
        const details = make('details', { open }, head, ...body);
        known = { version, when, details, item: make('li', {}, details) };
        shown.set(key, known);
      }
      say(known.when, `${span(Math.max(0, status.clock_ms - incident.at))} ago`);
      known.key = key;
      return known;
    }).reverse();
    const keys = new Set(items.map((item) => item.key));
    for (const key of [...shown.keys()]) if (!keys.has(key)) shown.delete(key);
    const list = by('incidents');
    const nodes = items.map((item) => item.item);
    if (nodes.length !== list.children.length || nodes.some((node, i) => list.children[i] !== node)) list.replaceChildren(...nodes);
  }

  function note(text) {
    const list = by('activity');
    const time = make('time', { textContent: new Date().toLocaleTimeString() });
    list.prepend(make('p', {}, time, ` ${text}`));
    while (list.children.length > 60) list.lastChild.remove();
  }

  function compare(before, status) {
    if (!before) return false;
    let mark = false;
    if (before.pid !== status.pid) note(`another master runs now: pid ${status.pid}`);
    const old = new Map(before.workers.map((worker) => [worker.id, worker]));
    for (const worker of status.workers) {
      const was = old.get(worker.id);
      old.delete(worker.id);
      if (!was) note(`slot ${worker.slot}: worker ${worker.id} of generation ${worker.generation} is ${worker.state}`);
      else if (was.state !== worker.state) note(`slot ${worker.slot}: worker ${worker.id} is ${worker.state}`);
    }
    for (const worker of old.values()) note(`slot ${worker.slot}: worker ${worker.id} has ended`);
    if (status.reload && !before.reload) { note(`reload to generation ${status.reload.generation} began`); mark = true; }
    if (status.generation !== before.generation) { note(`generation ${status.generation} serves`); mark = true; }
    if (status.reloads_failed > before.reloads_failed) note('a reload failed; the old workers serve on');
    return mark;
  }

  function take(status) {
    const mark = compare(last, status);
    if (last && last.pid !== status.pid) { samples = []; known = new Map(); seats = new Map(); }
    last = status;
    const all = measure(status);
    const at = performance.now();
    samples.push({ at, all, mark });
    while (samples[0].at < at - KEEP_MS) samples.shift();
    document.title = `${status.name}: ${status.state}`;
    say(by('name'), status.name);
    say(by('state'), status.state);
    look(by('state'), `badge ${tone(status.state)}`);
    const ready = new Set(status.workers.filter((w) => w.state === 'ready' && !w.spare).map((w) => w.slot)).size;
    const places = status.listeners.map((listener) => listener.address).join(', ');
    say(by('facts'), `generation ${status.generation}, ${ready} of ${status.wanted} ready, up ${span(status.clock_ms)}, pid ${status.pid}${places ? `, on ${places}` : ''}`);
    for (const chart of charts) chart.draw();
    drawFleet(status);
    drawWorkers(status, all.rate);
    drawIncidents(status);
  }

  function linked(word, text) {
    say(by('link'), text || word);
    look(by('link'), `badge ${tone(word)}`);
  }

  // Live by server-sent events; where there are none, by asking again and again.
  let live = false;
  let asking = false;
  let timer = null;
  async function poll() {
    clearTimeout(timer);
    if (asking || live) return;
    asking = true;
    try {
      const answer = await fetch('/v1/status', { cache: 'no-store', signal: AbortSignal.timeout(5000) });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      take(read(await answer.text()));
      linked('polling');
    } catch {
      linked('silent', 'no answer: the master is gone, or out of reach');
    }
    asking = false;
    timer = setTimeout(poll, document.hidden ? EVERY_MS * 10 : EVERY_MS);
  }

  function follow() {
    const source = new EventSource(`/v1/events?status_ms=${EVERY_MS}`);
    source.addEventListener('status', (event) => {
      live = true;
      take(read(event.data));
      linked('live');
    });
    source.addEventListener('error', () => {
      live = false;
      // An answer that is no stream closes it for good; a broken connection is tried again by the browser.
      if (source.readyState === EventSource.CLOSED) setTimeout(follow, 30_000);
      poll();
    });
  }
  poll();
  follow();
})();
