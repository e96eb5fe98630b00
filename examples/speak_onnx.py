"""A WaveNet that speaks without PyTorch: ONNX Runtime, numpy, and what `onnx.export` wrote.

    python examples/speak_onnx.py model.onnx out.wav [seconds] [seed]

model.npz lies beside model.onnx. Of codes; mixtures need a draw of their own.
"""

import sys
import wave

import numpy as np
import onnxruntime


def speak(path: str, seconds: float, seed: int = 0) -> tuple[list[int], np.ndarray, int]:
    """The codes drawn one by one, their audio (T,), and the rate in Hz."""
    session = onnxruntime.InferenceSession(path)
    rate = int(session.get_modelmeta().custom_metadata_map["sample_rate"])
    given = dict(np.load(path.removesuffix(".onnx") + ".npz"))
    audio, sample = given.pop("audio"), given.pop("silence").reshape(1, 1)
    codes = []
    for uniform in np.random.default_rng(seed).random(round(seconds * rate)):
        params, *states = session.run(None, {"samples": sample, **given})
        given |= {f"state_{i}": state for i, state in enumerate(states)}
        weights = np.exp(params[0, :, 0] - params.max(), dtype=np.float64).cumsum()
        sample = np.array([[np.searchsorted(weights, uniform * weights[-1], side="right")]])
        codes.append(int(sample[0, 0]))
    return codes, audio[codes], rate


def main(arguments: list[str]) -> None:
    path, out, seconds, seed = (*arguments, *("1", "0")[len(arguments) - 2 :])
    _, audio, rate = speak(path, float(seconds), int(seed))
    with wave.open(out, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes((audio * 32767).astype("<i2").tobytes())


if __name__ == "__main__":
    main(sys.argv[1:])
