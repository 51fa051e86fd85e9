// The page: claims the device, hands each request to a fresh worker, and tells when a session was disturbed.

import { median, tickOfClock } from "./measure.js";

const BEAT = 2000, AGAIN = 2000;
// Milliseconds between two looks at the time, and a gap between them that voids a session.
const LOOK = 250, GAP = 2500;

const token = takeToken();
const tab = kept("sousvit-tab", () => randomWord());
const load = randomWord();
const counts = { measured: 0, disturbed: 0 };
let working = null; // the request at hand: { number, worker, end }
let greeting = null;
let polling = new AbortController();

// The token comes in the fragment, which no request contains, and leaves the address bar and the history at once. A
// reload finds it in the tab's own storage.
function takeToken() {
  const given = location.hash.slice(1);
  if (given) history.replaceState(null, "", location.pathname);
  return given ? kept("sousvit-token", () => given, true) : kept("sousvit-token", () => "");
}

function kept(key, make, anew = false) {
  try {
    if (anew || !sessionStorage.getItem(key)) sessionStorage.setItem(key, make());
    return sessionStorage.getItem(key);
  } catch { return make(); }
}

function randomWord() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
const show = (id, text) => { document.getElementById(id).textContent = text; };

function tell(state, headline, detail) {
  document.getElementById("state").dataset.state = state;
  show("headline", headline);
  show("detail", detail);
}

class Refused extends Error {
  constructor(status, reason) { super(reason); this.status = status; }
}

async function call(name, content = {}, signal = null) {
  const answer = await fetch(`/v1/page/${name}`, {
    method: "POST", cache: "no-store", signal,
    headers: { "Authorization": `Bearer ${token}`, "Content-Type": "application/json" },
    body: JSON.stringify({ tab, load, ...content }),
  });
  const found = await answer.json();
  if (!answer.ok) throw new Refused(answer.status, found.error);
  return found;
}

async function fetchFile(hash) {
  const answer = await fetch(`/v1/page/files/${hash}`, { headers: { "Authorization": `Bearer ${token}` } });
  if (!answer.ok) throw new Refused(answer.status, "a file of the request is gone");
  return answer.arrayBuffer();
}

// The graphics processor's name; nothing where there is none, or the page is no secure context.
async function gpuName() {
  try {
    const adapter = await navigator.gpu?.requestAdapter();
    return adapter ? `${adapter.info.vendor} ${adapter.info.architecture}`.trim().slice(0, 100) || "unnamed" : "";
  } catch { return ""; }
}

async function browserFacts() {
  const agent = navigator.userAgent;
  const kinds = [["Edge", /Edg\w*\/([\d.]+)/], ["Opera", /OPR\/([\d.]+)/], ["Samsung Internet", /SamsungBrowser\/([\d.]+)/],
    ["Firefox", /(?:Firefox|FxiOS)\/([\d.]+)/], ["Chromium", /(?:Chrome|CriOS)\/([\d.]+)/], ["Safari", /Version\/([\d.]+).*Safari/]];
  const [name, found] = kinds.map(([kind, form]) => [kind, form.exec(agent)]).find(([, match]) => match) ?? ["a browser", null];
  return {
    name, version: found?.[1] ?? "unknown", system: (/\(([^)]*)\)/.exec(agent)?.[1] ?? "unknown").slice(0, 100),
    tick: 1e-3 * tickOfClock(), cores: Math.min(1024, navigator.hardwareConcurrency || 1),
    memory_gb: navigator.deviceMemory ?? 0, secure: isSecureContext, isolated: globalThis.crossOriginIsolated === true,
    gpu: await gpuName(),
  };
}

function showFacts(facts) {
  const { browser } = facts;
  const clock = browser.tick_us >= 1000 ? `${browser.tick_us / 1000} ms` : `${browser.tick_us} µs`;
  const rows = {
    browser: `${browser.name} ${browser.version}`,
    system: facts.os,
    cores: browser.isolated || facts.cores === 1 ? String(facts.cores) : `${facts.cores}; models get one thread`,
    ...(browser.gpu ? { graphics: browser.gpu } : {}),
    clock: facts.tails ? `fine, ${clock}` : `coarse, ${clock}: rounds of 50 ticks, no percentiles`,
    runtimes: Object.entries(facts.runtimes).map((one) => one.join(" ")).join(", "),
  };
  document.getElementById("facts").replaceChildren(...Object.entries(rows).map(([name, value]) => {
    const row = document.createElement("div");
    for (const [kind, text] of [["dt", name], ["dd", value]]) row.appendChild(document.createElement(kind)).textContent = text;
    return row;
  }));
  document.getElementById("device").hidden = false;
  if (!browser.secure && !document.getElementById("plain")) {
    const line = document.createElement("li");
    line.id = "plain";
    line.textContent = "Over plain HTTP a page gets one thread and a coarse clock, and cannot keep the screen on. "
      + "By https, or by localhost through adb reverse, it gets more.";
    document.getElementById("advice").appendChild(line);
  }
}

function ready() {
  tell("ready", "Ready", "Waiting for a search, or for sousvit measure.");
}

async function greet() {
  const { facts } = await call("hello", { facts: await browserFacts() });
  showFacts(facts);
  ready();
}

// Claims the device anew, once for all who notice that it must be.
function greetAgain() {
  greeting ??= greet().finally(() => { greeting = null; });
  return greeting;
}

// Repeats what is asked until the relay answers; what cannot be mended by waiting ends the page.
async function patiently(act) {
  for (;;) {
    try {
      return await act();
    } catch (error) {
      if (!(error instanceof Refused) && !(error instanceof TypeError) && error.name !== "AbortError") throw error;
      abandon();
      if (error.status === 401) {
        tell("stopped", "This address is old", "Open the address that sousvit device serve --web shows now.");
        await new Promise(() => {});
      }
      if (error.status === 410 && act !== greetAgain) {
        await patiently(greetAgain);
        continue;
      }
      const taken = error.status === 409;
      tell(taken ? "stopped" : "connecting", taken ? "Another page measures" : "No connection",
        taken ? "The first page that is opened gets the device. Close it, and this one takes over."
          : "sousvit device serve does not answer; this page goes on as soon as it does.");
      await pause(AGAIN);
      if (taken && act !== greetAgain) await patiently(greetAgain);
    }
  }
}

// Ends the work at hand without an answer.
function abandon() {
  working?.end(null);
}

function disturb(reason) {
  working?.end({ void: reason });
}

async function carryOut(request) {
  const names = Object.keys(request.artifacts).length;
  tell("busy", request.ask === "probe" ? "Measuring memory" : `Measuring ${names} model${names > 1 ? "s" : ""}`,
    "Please leave this page in front.");
  const outcome = await new Promise((end) => {
    working = { number: request.number, end };
    measure(request).then(end, (error) => end({ void: `a file did not arrive: ${error.message}` }));
  });
  working.worker?.terminate();
  working = null;
  if (outcome !== null) await patiently(() => call("answer", { number: request.number, ...outcome }).catch(unlessMalformed));
  if (outcome?.figures) count(request, outcome.figures);
  else if (outcome?.void) show("disturbed", String(counts.disturbed += 1));
  if (document.visibilityState === "visible") ready();
}

// An answer that the relay does not take is told to whoever asked.
function unlessMalformed(error) {
  if (![400, 413].includes(error.status)) throw error;
}

function count(request, figures) {
  show("measured", String(counts.measured += 1));
  const all = Object.values(figures.groups ?? {}).flat().flatMap((group) => [...group.baseline_first, ...group.baseline_last]);
  if (all.length) show("base", `${(1e3 * median(all)).toPrecision(3)} ms`);
}

async function measure(request) {
  const own = working;
  if (document.visibilityState !== "visible") return { void: "the page was hidden" };
  const files = {};
  for (const { file } of Object.values(request.artifacts)) files[file] ??= await fetchFile(file);
  const images = request.images ? await fetchFile(request.images) : null;
  if (working !== own) return null;
  own.worker = new Worker("/worker.js");
  return new Promise((done) => {
    own.worker.onmessage = ({ data }) => {
      look(); // figures may come before the timer that would have noticed
      if (data.groups) show("detail", `${data.groups} groups so far. Please leave this page in front.`);
      else done(data);
    };
    own.worker.onerror = (event) => done({ failed: `the worker ended: ${event.message ?? "out of memory?"}` });
    own.worker.postMessage({ request, files, images }, [...Object.values(files), ...(images ? [images] : [])]);
  });
}

const visible = () => new Promise((done) => {
  const check = () => {
    if (document.visibilityState !== "visible") return;
    document.removeEventListener("visibilitychange", check);
    done();
  };
  document.addEventListener("visibilitychange", check);
  check();
});

async function beat() {
  const hidden = document.visibilityState !== "visible";
  const own = working;
  try {
    const { number } = await call("beat", { hidden });
    if (own && own === working && number !== own.number) abandon();
  } catch {
    polling.abort(); // a call that waits may not notice for long; it tells, and mends it
  }
}

let screen = null;
async function keepScreenOn() {
  try { screen = await navigator.wakeLock?.request("screen"); } catch { screen = null; }
}

let looked = performance.now();
function look() {
  const now = performance.now();
  if (now - looked > GAP) disturb(`the page stood still for ${((now - looked) / 1000).toFixed(1)} s`);
  looked = now;
}
setInterval(look, LOOK);
setInterval(beat, BEAT);
document.addEventListener("freeze", () => disturb("the page was frozen"));
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") {
    keepScreenOn();
    if (document.getElementById("state").dataset.state === "hidden") ready();
  } else {
    disturb("the page was hidden");
    if (document.getElementById("state").dataset.state !== "stopped") tell("hidden", "In the background", "Bring this page to the front to go on.");
  }
  beat();
});

// A new address typed over the old one changes the fragment alone.
addEventListener("hashchange", () => { if (location.hash) location.reload(); });

if (!token) {
  tell("stopped", "This address has no key", "Open the whole address that sousvit device serve --web shows, or its code.");
} else {
  keepScreenOn();
  await patiently(greetAgain);
  for (;;) {
    await visible();
    const { request } = await patiently(() => call("next", {}, (polling = new AbortController()).signal));
    if (request) await carryOut(request);
  }
}
