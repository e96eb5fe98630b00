// Owns the network in a page: draws one clip at a time, chunk by chunk, beside the page's own
// thread. Knows nothing of labels' names, of sound or of pictures.
//
// In:  {kind: "model", wasm, arrays, residualScale}   player.cpp's module and arrays
//      {kind: "clip", id, seed, samples, rows, temperature, topK, topP, guidance}
//                      samples 0: drawn from the seed; rows: of each label's category
//      {kind: "stop"}
// Out: {kind: "ready"}; {kind: "length", id, samples}; {kind: "audio", id, pcm, seconds}, of 16
//      bits, and how long it took so far; {kind: "end", id, stopped}; {kind: "error", message}

const ALIGNED = 64 // bytes
const FIRST = 256 // samples of the first chunk, which is waited for
const CHUNK = 512 // of the others; player.cpp draws 1024 at most

const LIBRARY = { exp: Math.exp, log1p: Math.log1p, cos: Math.cos } // what else C++ calls

let network = null
let current = null // the id of the clip that is being drawn

// One player of a pair of streams, and the model's arrays before it.
async function load({ wasm, arrays, residualScale }) {
  const { instance } = await WebAssembly.instantiate(wasm, { env: LIBRARY })
  const library = instance.exports
  const place = library.memory.buffer.byteLength // the first byte that is not in use
  const player = place + Math.ceil(arrays.byteLength / ALIGNED) * ALIGNED
  const bytes = player + library.player_bytes(2) - place
  library.memory.grow(Math.ceil(bytes / 65536))
  new Uint8Array(library.memory.buffer).set(new Uint8Array(arrays), place)
  network = { library, place, player, residualScale }
}

function begin(clip) {
  const { library, place, player, residualScale } = network
  library.begin(player, place, clip.guidance > 0 ? 2 : 1, residualScale, clip.seed)
  clip.rows.forEach((row, label) => library.choose(player, label, row))
  library.how(player, clip.temperature, clip.topK, clip.topP, clip.guidance)
  return library.plan(player, clip.samples)
}

function chunk(count) {
  const { library, player } = network
  if (library.draw(player, count) < count) {
    throw new Error("The network's numbers are not finite: its weights are damaged.")
  }
  return new Int16Array(library.memory.buffer, library.audio(player), count).slice()
}

async function draw(clip) {
  const began = performance.now()
  current = clip.id
  const samples = begin(clip)
  self.postMessage({ kind: "length", id: clip.id, samples })
  for (let done = 0; done < samples && current === clip.id; ) {
    const pcm = chunk(Math.min(done ? CHUNK : FIRST, samples - done))
    done += pcm.length
    const seconds = (performance.now() - began) / 1000
    self.postMessage({ kind: "audio", id: clip.id, pcm, seconds }, [pcm.buffer])
    await messages()
  }
  self.postMessage({ kind: "end", id: clip.id, stopped: current !== clip.id })
}

// Resolves when those that wait have been read. A timer would add milliseconds to every chunk.
function messages() {
  return new Promise((resume) => {
    const { port1, port2 } = new MessageChannel()
    port1.onmessage = () => {
      port1.close()
      resume()
    }
    port2.postMessage(null)
  })
}

const ANSWERS = {
  model: (message) => load(message).then(() => self.postMessage({ kind: "ready" })),
  clip: draw,
  stop: async () => { current = null },
}

self.onmessage = ({ data }) => {
  ANSWERS[data.kind](data).catch((error) => {
    self.postMessage({ kind: "error", message: error.message })
  })
}
