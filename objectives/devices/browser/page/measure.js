// Interleaved timing in a worker: the method of objectives/timing.py, with a clock that may be coarse.

const MAX_DRIFT = 1.15;
// A round on a coarse clock lasts so many ticks, and only its mean counts.
const TICKS_A_ROUND = 50;
// Milliseconds between two ticks of a clock that is fine enough for single inferences.
const FINE = 0.02;

// Milliseconds between two ticks of the clock: the smallest step of many.
export function tickOfClock() {
  let tick = Infinity;
  const begun = performance.now();
  for (let steps = 0, last = begun; steps < 200 && last - begun < 40;) {
    const now = performance.now();
    if (now > last) { tick = Math.min(tick, now - last); last = now; steps += 1; }
  }
  return tick;
}

// How long to measure, from a request's plan (seconds) and the clock (milliseconds).
function paceOf(plan, tick) {
  const means = tick > FINE;
  const round = Math.max(1e3 * plan.round_seconds, means ? TICKS_A_ROUND * tick : 0);
  return { means, round, min: 1e3 * plan.min_seconds, max: 1e3 * plan.max_seconds, groups: plan.min_groups, warmup: plan.warmup };
}

// Groups of raw latencies in seconds by name; `runs` are functions by name that carry out one inference.
export async function timeAll(runs, baseline, plan, withBaseline, progress) {
  const pace = paceOf(plan, tickOfClock());
  const counts = {};
  for (const name of Object.keys(runs)) counts[name] = await warmUp(runs[name], pace);
  const names = Object.keys(runs).filter((name) => name !== baseline);
  if (withBaseline || names.length === 0) names.push(baseline);
  const groups = Object.fromEntries(names.map((name) => [name, []]));
  const begun = performance.now();
  for (;;) {
    const pending = stillPending(groups, pace, performance.now() - begun);
    if (pending.length === 0) return groups;
    for (const name of pending) {
      const round = (which) => timeRound(runs[which], counts[which], pace.means);
      groups[name].push(await oneGroup(name, baseline, round, groups[name].length % 2 === 0, pace.means));
    }
    progress(groups);
  }
}

async function warmUp(run, pace) {
  for (let times = 0; times < Math.max(1, pace.warmup); times += 1) await run();
  for (let times = 1; ; times *= 2) {
    const begun = performance.now();
    for (let done = 0; done < times; done += 1) await run();
    const passed = performance.now() - begun;
    if (passed >= pace.round / 2 || times >= 4096) {
      const most = pace.means ? 10000 : 100;
      return Math.max(1, Math.min(most, Math[pace.means ? "ceil" : "round"](pace.round * times / Math.max(passed, 1e-3))));
    }
  }
}

async function oneGroup(name, baseline, round, outside, means) {
  const group = { candidate: [], baseline_first: [], baseline_last: [], means };
  if (outside) {
    group.baseline_first = await round(baseline);
    group.candidate = [...await round(name), ...await round(name)];
    group.baseline_last = await round(baseline);
  } else {
    group.candidate = await round(name);
    group.baseline_first = await round(baseline);
    group.baseline_last = await round(baseline);
    group.candidate.push(...await round(name));
  }
  return group;
}

async function timeRound(run, count, means) {
  if (means) {
    const begun = performance.now();
    for (let done = 0; done < count; done += 1) await run();
    return Array(count).fill(inSeconds((performance.now() - begun) / count));
  }
  const latencies = [];
  for (let done = 0; done < count; done += 1) {
    const begun = performance.now();
    await run();
    latencies.push(inSeconds(performance.now() - begun));
  }
  return latencies;
}

// No inference takes no time at all: a clock that did not tick between two looks says half a tick of the finest.
const inSeconds = (milliseconds) => Number((1e-3 * Math.max(milliseconds, 0.0025)).toPrecision(6));

function stillPending(groups, pace, elapsed) {
  const names = Object.keys(groups);
  if (elapsed < pace.min * names.length) return names;
  const capped = elapsed > pace.max * names.length;
  return names.filter((name) => groups[name].filter(isClean).length < pace.groups
    && !(capped && groups[name].length >= 2 * pace.groups));
}

function isClean(group) {
  const half = Math.max(1, group.candidate.length / 2);
  const drift = (one, other) => Math.abs(Math.log(median(one) / median(other)));
  const own = drift(group.candidate.slice(0, half), group.candidate.slice(-half));
  return Math.max(own, drift(group.baseline_first, group.baseline_last)) <= Math.log(MAX_DRIFT);
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
