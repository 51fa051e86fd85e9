// One request, carried out in a worker of its own: { request, files, images } in; { figures } or { failed } out.

// A classic worker: LiteRT.js loads its scripts with importScripts, which a module has not.
const LOADS = 5;

// What opens files, by runtime: open(bytes, artifact) -> { run(values, shape) -> predictions, close() }.
const RUNTIMES = {
  "onnxruntime-web": (bytes, artifact) => openOnnx(bytes, artifact, "ort.wasm.min.mjs", "wasm"),
  "onnxruntime-webgpu": (bytes, artifact) => openOnnx(bytes, artifact, "ort.webgpu.min.mjs", "webgpu"),
  "litert-web": openLiteRt,
};

// WebAssembly's memory never shrinks, so its size at the end is its peak; the runtime makes it out of our sight.
const memories = [];
const Memory = WebAssembly.Memory;
WebAssembly.Memory = function (descriptor) {
  const made = new Memory(descriptor);
  memories.push(made);
  return made;
};
WebAssembly.Memory.prototype = Memory.prototype;
for (const name of ["instantiate", "instantiateStreaming"]) {
  const make = WebAssembly[name];
  WebAssembly[name] = async (...given) => {
    const made = await make.apply(WebAssembly, given);
    const values = Object.values((made.instance ?? made).exports);
    memories.push(...values.filter((value) => value instanceof Memory && !memories.includes(value)));
    return made;
  };
}
const heapBytes = () => memories.reduce((sum, memory) => sum + memory.buffer.byteLength, 0);

let request;
const engines = {};

async function openOnnx(bytes, artifact, script, provider) {
  const ort = await engine(artifact.runtime, async (place) => {
    const found = await import(`${place}${script}`);
    found.env.wasm.wasmPaths = place;
    found.env.wasm.numThreads = request.threads;
    found.env.logLevel = "error";
    return found;
  });
  const session = await ort.InferenceSession.create(bytes, {
    executionProviders: [provider], graphOptimizationLevel: "all", extra: nested(artifact.options),
  });
  const [input] = session.inputNames;
  const [output] = session.outputNames;
  return {
    feed: (values, shape) => ({ [input]: new ort.Tensor("float32", values, shape) }),
    run: async (feeds) => (await session.run(feeds))[output].data,
    close: () => session.release(),
  };
}

async function openLiteRt(bytes) {
  const litert = await engine("litert-web", async (place) => {
    const found = await import(`${place}index.js`);
    // Its script does not know where it came from.
    self.Module = { locateFile: (name) => `${place}${name}`, mainScriptUrlOrBlob: `${place}litert_wasm_threaded_internal.js` };
    await found.loadLiteRt(place, { threads: request.threads > 1 });
    return found;
  });
  const model = await litert.loadAndCompile(bytes, { accelerator: "wasm", cpuOptions: { numThreads: request.threads } });
  return {
    feed: (values, shape) => new litert.Tensor(values, shape),
    run: async (input) => {
      const outputs = await model.run(input);
      const values = outputs[0].toTypedArray().slice();
      for (const output of outputs) output.delete();
      return values;
    },
    close: () => model.delete(),
  };
}

function engine(name, load) {
  engines[name] ??= load(request.assets[name]);
  return engines[name];
}

// { "session.x": "1" } as ONNX Runtime Web takes it: { session: { x: "1" } }.
function nested(options) {
  const found = {};
  for (const [key, value] of Object.entries(options)) {
    const parts = key.split(".");
    const last = parts.pop();
    parts.reduce((at, part) => (at[part] ??= {}), found)[last] = String(value);
  }
  return found;
}

function open(name, files) {
  const artifact = request.artifacts[name];
  if (!(artifact.runtime in RUNTIMES)) throw new Error(`this page has no ${artifact.runtime}`);
  return RUNTIMES[artifact.runtime](new Uint8Array(files[artifact.file]), artifact);
}

// Values that look like normalised pixels; the same every time (mulberry32).
function noise(count) {
  const values = new Float32Array(count);
  let state = 1;
  for (let place = 0; place < count; place += 1) {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed);
    values[place] = 4 * (((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296) - 2;
  }
  return values;
}

const shapeOf = (artifact) => [request.batch, ...artifact.shape.slice(1)];
const sizeOf = (shape) => shape.reduce((product, size) => product * size, 1);

async function time(files, images) {
  const { timeAll } = await import("/measure.js");
  const opened = {};
  for (const name of Object.keys(request.artifacts)) opened[name] = await open(name, files);
  const predictions = {};
  if (images) for (const name of Object.keys(opened)) predictions[name] = await predict(opened[name], name, images);
  const shape = shapeOf(request.artifacts[request.baseline]);
  const values = noise(sizeOf(shape));
  const runs = {};
  for (const [name, session] of Object.entries(opened)) {
    const feeds = session.feed(values, shape);
    runs[name] = () => session.run(feeds);
  }
  const told = { at: 0 };
  const groups = await timeAll(runs, request.baseline, request.plan, request.with_baseline, (found) => {
    if (performance.now() - told.at < 500) return;
    told.at = performance.now();
    postMessage({ groups: Math.min(...Object.values(found).map((done) => done.length)) });
  });
  return { groups, predictions };
}

// All predictions on images [N, C, H, W], one image a run.
async function predict(session, name, images) {
  const [, ...one] = request.artifacts[name].shape;
  const size = sizeOf(one);
  const pixels = new Float32Array(images);
  const found = [];
  for (let place = 0; place + size <= pixels.length; place += size) {
    found.push(...await session.run(session.feed(pixels.slice(place, place + size), [1, ...one])));
  }
  if (!found.every(Number.isFinite)) throw new Error("the artifact gives predictions that are not finite");
  return found;
}

async function probe(files) {
  const { median } = await import("/measure.js");
  const [name] = Object.keys(request.artifacts);
  const artifact = request.artifacts[name];
  const shape = shapeOf(artifact);
  const values = noise(sizeOf(shape));
  await engineOf(artifact);
  const before = heapBytes();
  const loads = [];
  let peak = 0;
  for (let times = 0; times <= LOADS; times += 1) {
    const begun = performance.now();
    const session = await open(name, files);
    await session.run(session.feed(values, shape));
    loads.push(performance.now() - begun);
    if (times === 0) peak = heapBytes();
    await session.close();
  }
  // The page holds the file beside what the runtime makes of it.
  const held = files[artifact.file].byteLength;
  const process = peak + held;
  return { memory_bytes: process - before, process_bytes: process, load_ms: Math.max(median(loads.slice(1)), 1e-3) };
}

// The runtime itself is no part of an artifact's memory: a model that is none makes it load.
async function engineOf(artifact) {
  await RUNTIMES[artifact.runtime](new Uint8Array(8), artifact).catch(() => null);
}

onmessage = async ({ data }) => {
  request = data.request;
  try {
    const figures = await (request.ask === "probe" ? probe(data.files) : time(data.files, data.images));
    postMessage({ figures });
  } catch (error) {
    postMessage({ failed: String(error?.message ?? error).split("\n")[0].slice(0, 250) });
  }
};
