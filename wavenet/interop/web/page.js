// Owns the page: its form, what is heard and what is seen. The worker draws; see worker.js.

const element = (id) => document.getElementById(id)
const settings = JSON.parse(element("settings").textContent)
const { rate } = settings
const form = element("form")
const still = matchMedia("(prefers-reduced-motion: reduce)")

// --- The network ---

function bytesOf(id) {
  const text = atob(element(id).textContent.trim())
  const bytes = new Uint8Array(text.length)
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i)
  element(id).remove() // the text is not needed twice
  return bytes.buffer
}

function started() {
  const code = new Blob([element("worker").textContent], { type: "text/javascript" })
  const worker = new Worker(URL.createObjectURL(code))
  worker.onmessage = ({ data }) => {
    if (data.id === undefined || (clip && data.id === clip.id)) HEARD[data.kind](data)
  }
  worker.onerror = (event) => failed({ message: event.message })
  const [wasm, arrays] = [bytesOf("wasm"), bytesOf("arrays")]
  const model = { kind: "model", wasm, arrays, residualScale: settings.residualScale }
  worker.postMessage(model, [wasm, arrays])
  return worker
}

// --- The form ---

function field(name, label, control) {
  const row = document.createElement("div")
  const text = document.createElement("label")
  control.id = control.name = name
  text.htmlFor = name
  text.textContent = label
  row.append(text, control)
  return row
}

function select(name, categories) {
  const control = document.createElement("select")
  for (const category of categories) control.add(new Option(category))
  control.dataset.label = name
  return field("label-" + name, name, control)
}

const controls = () => [...element("labels").querySelectorAll("select")]

function described() {
  const words = controls().map((control) => control.dataset.label + " " + control.value)
  return [...words, "seed " + form.seed.value].join(", ")
}

// The rows of the tables behind each other, in the order of the labels.
function rows() {
  let first = 0
  return controls().map((control) => {
    const row = first + control.selectedIndex
    first += control.length
    return row
  })
}

const number = (name) => (form[name] && form[name].value !== "" ? Number(form[name].value) : null)

function asked(id) {
  return {
    kind: "clip",
    id,
    seed: Number(BigInt.asUintN(32, BigInt(form.seed.value))), // as torch takes it
    samples: (number("seconds") ?? 0) * rate,
    rows: rows(),
    temperature: number("temperature") ?? 1,
    guidance: number("guidance") ?? 0,
    topK: number("topK") ?? 0,
    topP: number("topP") ?? 1,
  }
}

// How Python draws the same clip.
function command() {
  const labels = controls().map((control) => control.dataset.label + "=" + control.value)
  const words = ["wavenet generate --checkpoint", quoted(settings.checkpoint)]
  if (labels.length) words.push("--labels", quoted(labels.join(",")))
  for (const { name, value, dataset } of form.querySelectorAll("input")) {
    if (value !== "" && value !== dataset.usual) words.push(dataset.flag ?? "--" + name, value)
  }
  return words.join(" ")
}

// As a shell takes a word.
function quoted(text) {
  return /^[\w.,=/-]+$/.test(text) ? text : "'" + text.replaceAll("'", "'\\''") + "'"
}

// --- One clip ---

// id; words: what it is; samples: of all of it; made: of them; until: those that will be there;
// pcm: all of them; seconds: that they took to draw; sound: what plays it, or null
let clip = null
let clips = 0
const worker = started()

function begin() {
  stop()
  clips += 1
  clip = { id: clips, words: described(), samples: 0, made: 0, until: 0, pcm: null, sound: null }
  performance.mark("asked " + clip.id)
  clip.sound = sounding()
  element("command").textContent = command()
  worker.postMessage(asked(clip.id))
  enable({ stop: true, again: false, download: false })
  say("Drawing " + clip.words + ".")
}

function stop() {
  if (!clip) return
  worker.postMessage({ kind: "stop" })
  clip.sound?.end()
  clip.sound = null
}

const HEARD = {
  ready() {
    enable({ draw: true, another: true })
    say("Ready.")
  },
  length({ samples }) {
    clip.samples = clip.until = samples
    clip.pcm = new Int16Array(samples)
    element("progress").max = samples
    element("length").textContent = (samples / rate).toFixed(2) + " s"
    pictures.begin()
  },
  audio({ pcm, seconds }) {
    clip.seconds = seconds
    clip.pcm.set(pcm, clip.made)
    clip.made += pcm.length
    if (soonEnough()) clip.sound?.play(clip.made)
    pictures.soon ??= setTimeout(() => pictures.paint(), FRAME)
  },
  end({ stopped }) {
    performance.mark("drawn " + clip.id)
    clip.until = clip.made
    clip.sound?.play(clip.made)
    enable({ stop: Boolean(clip.sound), again: clip.made > 0, download: clip.made > 0 })
    const speed = (clip.made / rate / clip.seconds).toFixed(2) + " times real time"
    const what = (clip.made / rate).toFixed(2) + " s of " + clip.words
    pictures.paint()
    say((stopped ? "Stopped after " : "Drawn: ") + what + ", at " + speed + ".")
    pictures.name()
  },
  error: failed,
}

// Whether the rest is drawn before it is to be heard, at the speed so far.
function soonEnough() {
  const rest = ((clip.samples - clip.made) * clip.seconds) / clip.made
  return rest <= (0.9 * clip.samples) / rate
}

function failed({ message }) {
  say("This page could not draw: " + message)
}

// --- Sound ---

const LEAD = 0.02 // seconds from now that a browser needs
let context = null

// What plays a clip's samples in time, as they come. null where the browser has no sound.
function sounding() {
  try {
    context ??= new AudioContext({ sampleRate: rate, latencyHint: "interactive" })
    context.resume()
  } catch {
    element("sound").hidden = false
    return null
  }
  const out = context.createGain()
  out.connect(context.destination)
  const mine = clip
  let given = 0 // samples
  let last = null // of the sources that play them
  let next = 0 // when the next sample is due, in seconds of the context
  let from = null // when the first one was
  return {
    // What is there up to that sample.
    play(to) {
      if (to === given) return
      const now = context.currentTime + LEAD
      if (from === null) {
        from = next = now
        performance.mark("heard " + mine.id)
      } else if (next < now) {
        from += now - next // a pause
        next = now
      }
      last = source(mine.pcm.subarray(given, to), out)
      last.start(next)
      last.onended = ({ target }) => {
        if (target === last && mine === clip && given === mine.until) enable({ stop: false })
      }
      next += (to - given) / rate
      given = to
      pictures.follow()
    },
    // Of the clip, that is heard now; null before it begins.
    second: () => (from === null ? null : context.currentTime - from),
    end() {
      out.disconnect()
      from = null
    },
  }
}

function source(pcm, out) {
  const buffer = context.createBuffer(1, pcm.length, rate)
  buffer.copyToChannel(Float32Array.from(pcm, (value) => value / 32768), 0)
  const made = context.createBufferSource()
  made.buffer = buffer
  made.connect(out)
  return made
}

function again() {
  clip.sound?.end()
  clip.sound = sounding()
  clip.sound?.play(clip.made)
  enable({ stop: true })
}

// --- Pictures: columns of pixels, each painted when its samples are there ---

const SPAN = 2 ** Math.round(Math.log2(rate * 0.032)) // samples of a spectrum: 32 ms
const FRAME = navigator.hardwareConcurrency > 2 ? 16 : 100 // ms; few cores are for the network
const DECIBELS = 80 // below a sine of full scale
const HANN = Float64Array.from({ length: SPAN }, (_, i) => Math.sin((Math.PI * i) / SPAN) ** 2)

// Fourier transform in place, of a power of two of numbers.
function transform(real, imaginary) {
  const n = real.length
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1
    for (; j & bit; bit >>= 1) j ^= bit
    j ^= bit
    if (i < j) [real[i], real[j]] = [real[j], real[i]] // the imaginary parts are zero yet
  }
  for (let size = 2; size <= n; size *= 2) {
    for (let k = 0; k < size / 2; k++) {
      const c = Math.cos((2 * Math.PI * k) / size), s = -Math.sin((2 * Math.PI * k) / size)
      for (let a = k; a < n; a += size) {
        const b = a + size / 2
        const re = real[b] * c - imaginary[b] * s, im = real[b] * s + imaginary[b] * c
        real[b] = real[a] - re
        imaginary[b] = imaginary[a] - im
        real[a] += re
        imaginary[a] += im
      }
    }
  }
}

const pictures = {
  begin() {
    for (const id of ["wave", "spectrum"]) {
      const canvas = element(id)
      canvas.width = Math.round(canvas.clientWidth * devicePixelRatio)
      canvas.height = Math.round(canvas.clientHeight * devicePixelRatio)
    }
    this.columns = { wave: 0, spectrum: 0 }
    this.ink = getComputedStyle(document.documentElement).getPropertyValue("--ink").trim()
    this.rgb = [1, 3, 5].map((i) => parseInt(this.ink.slice(i, i + 2), 16)) // of #rrggbb
    for (const id of ["wave", "spectrum"]) element(id).setAttribute("aria-label", "being drawn")
  },

  // What a column stands for: its first sample, and the one behind its last.
  span(canvas, column) {
    const each = clip.samples / canvas.width
    const first = Math.floor(column * each)
    return [first, Math.max(first + 1, Math.floor((column + 1) * each))]
  },

  paint() {
    clearTimeout(this.soon)
    this.soon = null
    element("progress").value = clip.made
    this.each("wave", 0, (canvas, brush, column, first, last) => {
      let low = Infinity, high = -Infinity
      for (let i = Math.max(0, first - 1); i < last; i++) {
        low = Math.min(low, clip.pcm[i])
        high = Math.max(high, clip.pcm[i])
      }
      const y = (value) => (0.5 - value / 65536) * canvas.height
      brush.fillStyle = this.ink
      brush.fillRect(column, y(high), 1, Math.max(1, y(low) - y(high)))
    })
    this.each("spectrum", SPAN / 2, (canvas, brush, column, first, last) => {
      const levels = this.levels(Math.floor((first + last) / 2))
      const pixels = brush.createImageData(1, canvas.height)
      for (let y = 0; y < canvas.height; y++) {
        const bin = Math.floor(((canvas.height - 1 - y) / canvas.height) * levels.length)
        pixels.data.set([...this.rgb, 255 * levels[bin]], 4 * y)
      }
      brush.putImageData(pixels, column, 0)
    })
  },

  // Those columns of a picture that are new, and whose samples and so many more are there.
  each(id, more, one) {
    const canvas = element(id)
    const brush = canvas.getContext("2d")
    for (let column = this.columns[id]; column < canvas.width; column++) {
      const [first, last] = this.span(canvas, column)
      if (Math.min(last + more, clip.samples) > clip.made) break
      one(canvas, brush, column, first, last)
      this.columns[id] = column + 1
    }
  },

  // 0 to 1 for each frequency, of the spectrum around a sample.
  levels(middle) {
    const real = new Float64Array(SPAN), imaginary = new Float64Array(SPAN)
    for (let i = 0; i < SPAN; i++) {
      real[i] = (HANN[i] * (clip.pcm[middle - SPAN / 2 + i] ?? 0)) / 32768
    }
    transform(real, imaginary)
    return Float64Array.from({ length: SPAN / 2 }, (_, i) => {
      const size = Math.hypot(real[i], imaginary[i]) / (SPAN / 4)
      return Math.min(1, Math.max(0, 1 + (20 * Math.log10(size + 1e-12)) / DECIBELS))
    })
  },

  name() {
    element("wave").setAttribute("aria-label", "Waveform of " + clip.words)
    element("spectrum").setAttribute("aria-label", "Spectrogram of " + clip.words)
  },

  // Moves a line to what is heard, but for those who asked for less motion.
  follow() {
    if (this.following || still.matches) return
    const line = element("place")
    const step = () => {
      const share = ((clip.sound?.second() ?? Infinity) * rate) / clip.samples
      this.following = share < 1
      line.hidden = !this.following
      line.style.transform = "translateX(" + share * element("wave").clientWidth + "px)"
      if (this.following) setTimeout(step, FRAME)
    }
    step()
  },

  again() {
    if (!clip?.pcm) return
    this.begin()
    this.paint()
    if (element("download").disabled === false) this.name()
  },
}

// --- A wav of 16 bits ---

function wav(pcm) {
  const file = new DataView(new ArrayBuffer(44 + 2 * pcm.length))
  const text = (at, word) => [...word].forEach((c, i) => file.setUint8(at + i, c.charCodeAt(0)))
  text(0, "RIFF")
  file.setUint32(4, 36 + 2 * pcm.length, true)
  text(8, "WAVEfmt ")
  file.setUint32(16, 16, true)
  file.setUint16(20, 1, true) // PCM
  file.setUint16(22, 1, true) // channels
  file.setUint32(24, rate, true)
  file.setUint32(28, 2 * rate, true) // bytes a second
  file.setUint16(32, 2, true) // bytes of all channels
  file.setUint16(34, 16, true)
  text(36, "data")
  file.setUint32(40, 2 * pcm.length, true)
  pcm.forEach((value, i) => file.setInt16(44 + 2 * i, value, true))
  return file.buffer
}

function download() {
  const file = new Blob([wav(clip.pcm.subarray(0, clip.made))], { type: "audio/wav" })
  const link = document.createElement("a")
  link.href = URL.createObjectURL(file)
  link.download = [settings.checkpoint, clip.words].join(" ").replace(/[^\w.-]+/g, "-") + ".wav"
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 1000)
}

// --- The page ---

function say(words) {
  element("status").textContent = words
}

function enable(buttons) {
  for (const [id, on] of Object.entries(buttons)) element(id).disabled = !on
}

for (const [name, categories] of Object.entries(settings.labels)) {
  element("labels").append(select(name, categories))
}
form.addEventListener("submit", (event) => {
  event.preventDefault()
  begin()
})
element("another").addEventListener("click", () => {
  if (form.seed.checkValidity()) form.seed.value = String(BigInt(form.seed.value || 0) + 1n)
  form.requestSubmit()
})
element("stop").addEventListener("click", () => {
  stop()
  enable({ stop: false })
  element("draw").focus() // a disabled button would lose it
})
element("again").addEventListener("click", again)
element("download").addEventListener("click", download)
addEventListener("resize", () => pictures.again())
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => pictures.again())
