"""A WaveNet that speaks without PyTorch: ONNX Runtime, numpy, and what `onnx.export` wrote.

    python examples/speak_onnx.py model.onnx out.wav [seconds] [seed]

model.npz lies beside model.onnx. A model that was exported with a clip's plan speaks that clip, to
its end where no seconds are given; others speak 1 second. Temperature 1, without guidance. Of
codes; mixtures need a draw of their own. `wavenet export MODEL --onnx model.onnx` writes this file
beside it, as run.py.
"""

import sys
import wave

import numpy as np
import onnxruntime


def speak(
    path: str, seconds: float | None = None, seed: int = 0
) -> tuple[list[int], np.ndarray, int]:
    """The codes drawn one by one, their audio (T,), and the rate in Hz."""
    session = onnxruntime.InferenceSession(path)
    rate = int(session.get_modelmeta().custom_metadata_map["sample_rate"])
    given = dict(np.load(path.removesuffix(".onnx") + ".npz"))
    audio, sample = given.pop("audio"), given.pop("silence").reshape(1, 1)
    emphasis = float(given.pop("preemphasis", 0.0))
    hop, offset = (int(given.pop(name, 0)) for name in ("hop", "offset"))
    frames = given.pop("conditions", None)  # (1, channels, frames), each for `hop` samples
    most = rate if frames is None else frames.shape[2] * hop - offset
    count = most if seconds is None else round(seconds * rate)
    if frames is not None and count > most:
        sys.exit(f"error: this clip was planned for {most / rate:g} seconds; ask for no more.")
    codes = []
    for number, uniform in enumerate(np.random.default_rng(seed).random(count)):
        if frames is not None:
            frame = (number + offset) // hop
            given["condition"] = frames[:, :, frame : frame + 1]
        params, *states = session.run(None, {"samples": sample, **given})
        given |= {f"state_{i}": state for i, state in enumerate(states)}
        weights = np.exp(params[0, :, 0] - params.max(), dtype=np.float64).cumsum()
        sample = np.array([[np.searchsorted(weights, uniform * weights[-1], side="right")]])
        codes.append(int(sample[0, 0]))
    made = audio[codes]
    for t in range(1, len(made)):
        made[t] += emphasis * made[t - 1]
    return codes, made.clip(-1, 1), rate


def main(arguments: list[str]) -> None:
    if not 2 <= len(arguments) <= 4:
        sys.exit("usage: python speak_onnx.py model.onnx out.wav [seconds] [seed]")
    path, out, seconds, seed = (*arguments, *(None, "0")[len(arguments) - 2 :])
    _, audio, rate = speak(path, None if seconds is None else float(seconds), int(seed or 0))
    with wave.open(out, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes((audio * 32767).astype("<i2").tobytes())


if __name__ == "__main__":
    main(sys.argv[1:])
