"""Owns hypothesis's strategies for awkward inputs, as plain values that JSON can hold.

Each list of values holds a few that are meant, so that what follows them is reached, and many that
nobody means. Values whose work is honestly long (an hour of audio) are left out: they are no fault.
Knows nothing of what is done with them.
"""

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

NAN, INF = float("nan"), float("inf")
Cases = SearchStrategy[Any]

# --- Numbers and tensors ----------------------------------------------------------------------

COUNTS = st.sampled_from([1, 2, 3, 0, -1, 1.5, True, 10**6, 2**31, 2**63, -(2**63), 10**30, None])
SEEDS = st.sampled_from([0, 1, -1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30])
SECONDS = st.sampled_from([0.001, 0.002, 0, -1, 1e-9, NAN, INF, -INF, 1e18, 1e300, True])
LENGTHS = st.sampled_from([1, 2, 5, 0, -1, NAN, INF, 2.5, 10**18, 2**63, 10**30, True])
DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int16", "uint8", "bool", "int8")
FILLS = ("noise", "zeros", "ones", "nan", "inf", "-inf", "huge", "tiny", "ramp", "negative")
SHAPES = (
    [40],
    [2, 30],
    [1],
    [0],
    [],
    [2, 0],
    [0, 5],
    [1, 1, 8],
    [3, 20],
    [2, 1],
    [700],
    [20000],
)
shapes = st.sampled_from(SHAPES)
tensors = st.builds(
    lambda shape, dtype, fill: {"tensor": shape, "dtype": dtype, "fill": fill},
    shapes,
    st.sampled_from(DTYPES),
    st.sampled_from(FILLS),
)
arrays = tensors.map(lambda tensor: {**tensor, "numpy": True})

# --- Labels -----------------------------------------------------------------------------------

CATEGORIES = st.sampled_from(["0", "1", "2", "a", "b", "7", "", " ", "é", "\x00", "0 ", "one"])
label_choices: Cases = st.one_of(
    st.none(),
    st.dictionaries(
        st.sampled_from(["digit", "speaker", "DIGIT", "", "note"]),
        st.one_of(
            CATEGORIES,
            st.lists(CATEGORIES, max_size=3),
            st.sampled_from([1, True, None, [0, 1], [None], 1.5]),
        ),
        max_size=3,
    ),
)
label_names: Cases = st.one_of(
    st.none(),
    st.dictionaries(
        st.sampled_from(["digit", "a b", "", "class", "1st", "é", "x" * 300, "training"]),
        st.one_of(
            st.lists(CATEGORIES, max_size=3),
            st.sampled_from(["012", [0, 1], [None], [["a"]], [True, 1], 5, None]),
        ),
        max_size=2,
    ),
)

# --- Calls of the API -------------------------------------------------------------------------


def _call(name: str, **arguments: Cases) -> Cases:
    """Any of the arguments, left out or given."""
    given = st.fixed_dictionaries({}, optional=arguments)
    return given.map(lambda values: {"call": name, "args": values})


SIZES = {
    "cycles": st.sampled_from([1, 2, 0, -1, 1.5, True, None, 10**9, 2**63, NAN]),
    "layers_per_cycle": st.sampled_from([1, 3, 0, -1, 1.5, 64, 100, 10**6, None]),
    "kernel_size": st.sampled_from([1, 2, 3, 0, -1, 10**6, 2**40, 2.0, None]),
}
CHANNELS = st.sampled_from([1, 4, 5, 0, -1, 2**31, 2**62, 1.5, True, None])
WIDTHS = st.sampled_from([1, 4, 5, 0, -1])  # of layers, which take what nn.Conv1d takes
SAMPLING = {
    "temperature": st.sampled_from([1.0, 0.0, 0.5, -1, NAN, INF, 1e-30, 1e30, None, True]),
    "top_k": st.sampled_from([0, 1, 5, 300, -1, 1.5, True, 2**63, None]),
    "top_p": st.sampled_from([1.0, 0.5, 0.0, -0.1, 1.1, NAN, 1e-30, None]),
    "guidance": st.sampled_from([0.0, 0.5, -1, NAN, INF, None, {"digit": 0.5}, {"x": 1}, {}]),
}
ENGINE_NAMES = st.sampled_from(["auto", "naive", "step", "cached", "torch", "native", "triton"])
GENERATE = {
    "seconds": st.one_of(SECONDS, st.lists(SECONDS, max_size=3)),
    "num_samples": st.one_of(LENGTHS, st.lists(LENGTHS, max_size=3)),
    "batch_size": COUNTS,
    "labels": label_choices,
    "prompt": tensors,
    "seed": SEEDS,
    "engine": st.one_of(ENGINE_NAMES, st.sampled_from(["", "fast", None])),
    "precision": st.sampled_from(["float32", "bfloat16", "float64", "int8", "half", "", None]),
    **SAMPLING,
}
CONDITION = {
    "features": tensors,
    "hop": st.sampled_from([0, 1, 4, -1, 2**63, 1.5]),
    "offset": st.sampled_from([0, 1, 3, -1, 10**6]),
}
api: Cases = st.one_of(
    _call("generate", **GENERATE),
    _call("stream", **GENERATE, chunk_size=COUNTS),
    _call(
        "generate with condition", **CONDITION, num_samples=LENGTHS, batch_size=COUNTS, seed=SEEDS
    ),
    _call(
        "bits_per_sample",
        audio=tensors,
        labels=label_choices,
        lengths=st.one_of(st.lists(LENGTHS, max_size=3), tensors, st.none()),
        chunk_size=COUNTS,
    ),
    _call("nats_per_sample", codes=tensors, chunk_size=COUNTS, lengths=tensors),
    _call("label_ids", names=label_names, choice=label_choices, batch_size=COUNTS),
    _call("Sampling", **SAMPLING),
    _call(
        "Config",
        **SIZES,
        residual_channels=CHANNELS,
        gate_channels=CHANNELS,
        skip_channels=CHANNELS,
        head_channels=CHANNELS,
        condition_channels=CHANNELS,
        sample_rate=COUNTS,
        labels=label_names,
        residual_scale=st.sampled_from([1.0, 0.0, -1.0, NAN, INF, 1e-30, True, None]),
        position_hop=st.sampled_from([0, 16, 64, 1, -1, True, 2.5, 2**40, None]),
        unlabelled=st.sampled_from([True, False, 1, None]),
    ),
    _call("MuLaw", classes=st.sampled_from([256, 2, 3, 1, 0, -1, True, 2.5, 65536, 2**31, None])),
    _call("MuLaw.encode", audio=tensors),
    _call("MuLaw.decode", codes=tensors),
    _call("WaveNet.forward", samples=tensors, labels=tensors),
    _call(
        "CausalConv1d",
        channels=WIDTHS,
        out_channels=WIDTHS,
        kernel_size=SIZES["kernel_size"],
        dilation=COUNTS,
        x=tensors,
    ),
    _call("CentredConv1d", channels=WIDTHS, kernel_size=SIZES["kernel_size"], x=tensors),
    _call("Gated", x=tensors),
    _call("Residual", gate=WIDTHS, channels=WIDTHS, scale=SAMPLING["temperature"]),
    _call("Added", condition=WIDTHS, channels=WIDTHS),
    _call("FiLM", condition=WIDTHS, channels=WIDTHS),
    _call(
        "ResidualBlock",
        residual_channels=WIDTHS,
        gate_channels=WIDTHS,
        skip_channels=WIDTHS,
        kernel_size=SIZES["kernel_size"],
        dilation=COUNTS,
    ),
    _call(
        "ResidualStack",
        **SIZES,
        residual_channels=WIDTHS,
        gate_channels=WIDTHS,
        skip_channels=WIDTHS,
    ),
    _call("dilation_cycles", cycles=SIZES["cycles"], layers_per_cycle=SIZES["layers_per_cycle"]),
)
audio_arrays: Cases = st.one_of(
    _call("save_audio", audio=tensors, sample_rate=st.one_of(COUNTS, st.just(8000))),
    _call("pcm16", audio=tensors),
    _call(
        "resample",
        audio=tensors,
        from_rate=st.one_of(COUNTS, st.sampled_from([8000, 44100, 7919])),
        to_rate=st.one_of(COUNTS, st.sampled_from([8000, 16000, 11127])),
    ),
    _call("model.codec", audio=tensors),
)

# --- Bytes: mutations of files that are whole -------------------------------------------------

POSITIONS = st.floats(0, 1, exclude_max=True)  # share of the file
HEADER = st.integers(0, 63)
mutations: Cases = st.lists(
    st.one_of(
        st.fixed_dictionaries({"cut": POSITIONS}),
        st.fixed_dictionaries({"flip": POSITIONS, "bit": st.integers(0, 7)}),
        st.fixed_dictionaries({"byte": HEADER, "value": st.sampled_from([0, 1, 127, 128, 255])}),
        st.fixed_dictionaries({"append": st.sampled_from(["\0", "x" * 5, "RIFF", "\xff" * 64])}),
        st.fixed_dictionaries({"zeros": POSITIONS, "count": st.sampled_from([1, 4, 64, 4096])}),
    ),
    max_size=3,
)
WHOLE_AUDIO = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["WAV", "WAV", "FLAC", "OGG", "AIFF", "MP3"]),
        "rate": st.sampled_from([8000, 8000, 16000, 44100, 7919, 1, 192000, 16000000, 2**31 - 1]),
        "channels": st.sampled_from([1, 1, 2, 5]),
        "frames": st.sampled_from([400, 1, 0, 37, 3000]),
        "subtype": st.sampled_from(["PCM_16", "PCM_16", "FLOAT", "PCM_24", "DOUBLE", "PCM_U8"]),
    }
)
audio_files: Cases = st.one_of(
    st.fixed_dictionaries({"audio": WHOLE_AUDIO, "mutations": mutations}),
    st.fixed_dictionaries(
        {"floats": st.lists(st.sampled_from([0.5, 2.0, 1e30, NAN, INF, -INF, 1e-40]), max_size=4)}
    ),
    st.fixed_dictionaries({"bytes": st.text(st.characters(max_codepoint=255), max_size=80)}),
    st.fixed_dictionaries(
        {"other": st.sampled_from([*["folder", "dangling", "loop"] * 5, "fifo"])}
    ),
)
corpora: Cases = st.fixed_dictionaries(
    {
        "file": audio_files,
        "name": st.sampled_from(["x.wav", "x.flac", "x.MP3", "é.wav", "a b.wav", "\udcff.wav"]),
        "settings": st.just({})
        | st.fixed_dictionaries(
            {},
            optional={
                "normalize": st.sampled_from(["peak", "loudness", None, "loud"]),
                "trim_silence_db": st.sampled_from([None, 40.0, 0.0, -1.0, NAN, INF, 1e30, 1e-9]),
                "sample_rate": st.sampled_from([8000, 16000, 1, 0, -1, 10**9, 2**63, 7919]),
                "val_fraction": st.sampled_from([0.0, 0.5, 1.0, NAN, -1.0, 0.999]),
                "label_pattern": st.sampled_from([None, "(?P<x>.)", "(", "x", "(?P<x>q)?"]),
                "label_from_folder": st.sampled_from([None, "speaker", "a b", ""]),
                "val_pattern": st.sampled_from([None, "x", "[", ".", "(a+)+$"]),
            },
        ),
    }
)

# --- Label CSVs -------------------------------------------------------------------------------

FIELDS = st.sampled_from(
    [
        *("0_a_0.wav", "1_b_1.wav", "2_a_2.wav", "../outside/o.wav", "/etc/hostname", "none.wav"),
        *(
            "",
            "train",
            "val",
            "test",
            "a",
            "é",
            '"',
            "a,b",
            " ",
            "\x00",
            "x" * 200000,
            "./0_a_0.wav",
        ),
    ]
)
csv_tables: Cases = st.fixed_dictionaries(
    {
        "columns": st.lists(
            st.sampled_from(["path", "path", "split", "speaker", "1st", "a b", "", "speaker"]),
            min_size=1,
            max_size=4,
        ),
        "rows": st.lists(st.lists(FIELDS, min_size=1, max_size=4), max_size=4),
        "encoding": st.sampled_from(["utf-8", "utf-8", "latin-1", "utf-16", "utf-8-sig"]),
        "separator": st.sampled_from([",", ",", ";", "\t"]),
    }
)
csv_plausible: Cases = st.fixed_dictionaries(
    {
        "columns": st.just(["path", "speaker"]),
        "rows": st.lists(
            st.tuples(
                st.sampled_from(
                    ["0_a_0.wav", "1_b_1.wav", "2_a_2.wav", "../outside/o.wav", "none.wav"]
                ),
                st.sampled_from(["a", "b", "é", "1", " a ", "a,b", "x" * 200]),
            ).map(list),
            min_size=1,
            max_size=4,
            unique_by=lambda row: row[0],
        ),
        "encoding": st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "latin-1"]),
        "separator": st.just(","),
    }
)
csv_files: Cases = st.one_of(csv_tables, csv_plausible, csv_plausible)

# --- Checkpoints, exports, libraries ----------------------------------------------------------

JUNK = st.sampled_from(
    [None, 0, -1, 1, 1.5, "", "x", [], {}, True, 2**63, 10**9, NAN, INF, [1], {"a": 1}, "../x", 64]
)
CHECKPOINT_KEYS = (
    "state_dict",
    "hyper_parameters",
    "hyper_parameters.cycles",
    "hyper_parameters.labels",
    "hyper_parameters.sample_rate",
    "hyper_parameters.output",
    "hyper_parameters.clip_length",
    "hyper_parameters.position_hop",
    "current_model_state",
    "optimizer_states",
    "lr_schedulers",
    "callbacks",
    "loops",
    "global_step",
    "epoch",
    "samples_seen",
    "wavenet_version",
    "pytorch-lightning_version",
)
checkpoints: Cases = st.one_of(
    st.fixed_dictionaries({"mutations": mutations}),
    st.fixed_dictionaries(
        {
            "pickle": st.sampled_from(
                ["code", "code in zip", "code in state", "list", "tensor", "module", "plain", "old"]
            )
        }
    ),
    st.fixed_dictionaries({"key": st.sampled_from(CHECKPOINT_KEYS), "value": JUNK}),
    st.fixed_dictionaries({"key": st.sampled_from(CHECKPOINT_KEYS), "missing": st.just(True)}),
    st.fixed_dictionaries(
        {
            "weight": st.integers(0, 30),
            "change": st.sampled_from(["nan", "shape", "dtype", "gone", "more", "sparse", "int"]),
        }
    ),
)
CONFIG_KEYS = (
    "format_version",
    "library",
    "library_version",
    "output",
    "output.name",
    "output.classes",
    "codec",
    "codec.classes",
    "receptive_field",
    "model",
    "model.cycles",
    "model.layers_per_cycle",
    "model.kernel_size",
    "model.residual_channels",
    "model.head_channels",
    "model.sample_rate",
    "model.labels",
    "model.labels.digit",
    "model.condition_channels",
    "model.residual_scale",
    "model.position_hop",
    "model.unlabelled",
    "model.clip_length",
    "model.clip_length.log_mean",
    "model.more",
)
exports: Cases = st.tuples(
    st.booleans(),
    st.one_of(
        st.fixed_dictionaries({"key": st.sampled_from(CONFIG_KEYS), "value": JUNK}),
        st.fixed_dictionaries({"key": st.sampled_from(CONFIG_KEYS), "missing": st.just(True)}),
        st.fixed_dictionaries({"config mutations": mutations}),
        st.fixed_dictionaries(
            {
                "text": st.sampled_from(
                    ["", "[]", "null", "{}", "[" * 100000, '{"a": 1e999}', "\xff"]
                )
            }
        ),
        st.fixed_dictionaries(
            {
                "weights": st.sampled_from(["cut", "header", "empty", "folder"]),
                "at": POSITIONS,
                "value": st.integers(0, 255),
            }
        ),
        st.fixed_dictionaries(
            {
                "weight": st.integers(0, 30),
                "change": st.sampled_from(["nan", "shape", "dtype", "gone", "more", "int"]),
            }
        ),
    ),
).map(lambda pair: {"older": True, **pair[1]} if pair[0] else pair[1])
libraries: Cases = st.fixed_dictionaries(
    {
        "change": st.sampled_from(["cut", "flip", "empty", "canary", "canary hash", "folder"]),
        "at": POSITIONS,
    }
)

# --- Command lines ----------------------------------------------------------------------------


def _flags(table: dict[str, list[str]], most: int = 3) -> Cases:
    """Up to `most` flags, [name, value]; each value as it is typed."""
    pairs = [st.tuples(st.just(name), st.sampled_from(values)) for name, values in table.items()]
    return st.lists(st.one_of(pairs).map(list), max_size=most, unique_by=lambda pair: pair[0])


WHOLE_NUMBERS = ["0", "1", "2", "-1", "1.5", "x", "", "nan", "1e3", str(2**31), str(2**64)]
FRACTIONS = ["0", "0.5", "1", "-1", "1.1", "nan", "inf", "-inf", "x", "", "1e300", "1e-300"]
DRAWN = {
    "--temperature": FRACTIONS,
    "--top-k": WHOLE_NUMBERS,
    "--top-p": FRACTIONS,
    "--guidance": [*FRACTIONS, "digit=0.5", "digit=1,speaker=2", "x=1", "digit="],
    "--engine": ["auto", "naive", "step", "cached", "torch", "native", "triton", "x", ""],
    "--seed": [*WHOLE_NUMBERS, str(2**63 - 1), str(2**63), "-9223372036854775808", str(10**30)],
}
MODELS = ["RUN", "EXPORT", "CHECKPOINT", "/etc/passwd", "/dev/null", "none", "", ".", "/", "a/b"]
MODELS += ["CORPUS", "TONE", "~", "x" * 300, "../..", "/dev/zero"]
AUDIO = ["TONE", "/etc/passwd", "/dev/null", "none.wav", "", ".", "x" * 300, "CORPUS"]
generate_flags: Cases = _flags(
    {
        "--checkpoint": MODELS,
        "--runs": ["RUNS", "none", "", "/etc/passwd", "."],
        "--seconds": ["0.01", "0.002", "0", "-1", "nan", "inf", "-inf", "1e300", "1e-9", "x", ""],
        "--batch": ["1", "2", "3", "0", "-1", "1000000", str(2**63), "1.5", "x", ""],
        "--labels": [
            *("digit=1", "digit=7", "digit=", "=", "digit", ",", "digit=1,digit=0", ""),
            *("speaker=a,digit=0", "note=A4", " digit = 1 ", "digit=1=2", "digit=1;speaker=a"),
        ],
        "--prompt": AUDIO,
        "--mel-from": AUDIO,
        "--precision": ["float32", "bfloat16", "int8", "float64", "x", ""],
        "--threads": ["1", "2", "0", "-1", "100000", str(2**31), str(2**64), "x", ""],
        "--device": ["cpu", "auto", "cuda", "cuda:1", "cuda:99", "meta", "mps", "x", "", "cpu:7"],
        "--out": [
            *("o.wav", "new/o.wav", "o.mp3", "o", "-", "", ".", "/proc/o.wav", "o.WAV"),
            *("/dev/null", "/dev/null/o.wav", "x" * 300 + ".wav", "o.wav/", "é.wav"),
        ],
        "--plot": ["p.png", "p.xyz", "p", "", ".", "/proc/p.png", "new/p.png", "p.svg"],
        "--gallery": ["g", "", ".", "FILE", "/proc/g", "a/b/c"],
        "--nonsense": ["1", ""],
        **DRAWN,
    }
)
evaluate_flags: Cases = _flags(
    {
        "--checkpoint": MODELS,
        "--root": ["CORPUS", "none", "", "/etc/passwd", "RUN"],
        "--label-pattern": ["(", "x", "(?P<digit>.)", "", "(?P<digit>\\d)_(?P<speaker>q)?"],
        "--training-pattern": ["_[0-3]\\.wav$", "(", "q", "", ".", "(?i"],
        "--held-out-pattern": ["_[45]\\.wav$", "(", "q", "", "."],
        "--out": ["out", "", "FILE", "/proc/x", "a/b", "x" * 300],
        "--clips-per-cell": ["1", "2", "0", "-1", "x", "1000000000"],
        "--seconds": ["0.2", "0.01", "0", "-1", "nan", "inf", "1e-9", "1e300", "x"],
        "--real-lengths": ["", "x"],
        "--epochs": ["1", "0", "-1", "x", "1.5"],
        "--split": ["tune", "report", "x", ""],
        **DRAWN,
    }
)
train_flags: Cases = _flags(
    {
        "--data.root": ["none", "", "/etc/passwd", "/proc/self", "."],
        "--data.sample_rate": ["8000", "16000", "0", "-1", "x", "1", str(10**9), "8000.5"],
        "--data.prepare": ["null", "none.py", "/etc/passwd", "."],
        "--data.label_pattern": ["null", "(", "x", "(?P<digit>.)", "", "(?P<a>.)(?P<a>.)"],
        "--data.label_from_folder": ["null", "speaker", "", "a b"],
        "--data.metadata": ["null", "none.csv", "/etc/passwd", ".", ""],
        "--data.label_names": ["[]", "[digit]", "[none]", "digit", "[digit,digit]", "[1]"],
        "--data.val_pattern": ["null", ".", "q", "(", "[0-9]"],
        "--data.test_pattern": ["null", ".", "(", "_3"],
        "--data.val_fraction": FRACTIONS,
        "--data.normalize": ["peak", "loudness", "null", "x"],
        "--data.trim_silence_db": ["40", "0", "-1", "nan", "inf", "null"],
        "--data.crop_samples": WHOLE_NUMBERS,
        "--data.trailing_silence": ["0.01", "0", "-1", "nan", "inf", "1e300", "x"],
        "--data.label_dropout": FRACTIONS,
        "--data.label_dropout_each": FRACTIONS,
        "--data.augment.gain_db": FRACTIONS,
        "--data.augment.speed": FRACTIONS,
        "--data.augment.noise_snr_db": ["30", "-1", "nan", "null", "x"],
        "--data.augment.share": FRACTIONS,
        "--data.batch_size": WHOLE_NUMBERS,
        "--data.val_batch_size": WHOLE_NUMBERS,
        "--data.num_workers": ["0", "1", "-1", "1.5", "x", "100000"],
        "--data.cache_dir": ["cache", "null", "/proc/x", "FILE", "x" * 300],
        "--data.seed": [*WHOLE_NUMBERS, str(10**30)],
        "--model.cycles": ["1", "2", "0", "-1", "x", "1000000000", "1.5"],
        "--model.layers_per_cycle": ["3", "0", "64", "1000", "1000000000"],
        "--model.kernel_size": ["2", "1", "3", "0", "100000", str(2**40)],
        "--model.residual_channels": ["4", "0", "1", "-1", str(2**31), str(2**62)],
        "--model.head_channels": ["null", "4", "0", str(2**62)],
        "--model.residual_scale": FRACTIONS,
        "--model.position_hop": ["0", "16", "1", "-1", "64", str(2**40)],
        "--model.learning_rate": FRACTIONS,
        "--model.dropout": FRACTIONS,
        "--model.warmup_steps": WHOLE_NUMBERS,
        "--model.init_from": ["none", "EXPORT", "CHECKPOINT", "/etc/passwd", "", "a/b"],
        "--model.compile": ["false", "x", "null"],
        "--model.fused": ["false", "true", "x"],
        "--model.output": ["null", "x", "{class_path: os.system}", "{name: MuLaw}"],
        "--trainer.max_steps": ["1", "2", "0", "-2", "x", "1.5"],
        "--trainer.max_epochs": ["1", "0", "x"],
        "--trainer.devices": ["1", "0", "-1", "2.5", "x", "[]", "[0]", "[5]", "auto"],
        "--trainer.accelerator": ["cpu", "auto", "gpu", "tpu", "mps", "x", ""],
        "--trainer.strategy": ["auto", "x", "", "fsdp", "deepspeed"],
        "--trainer.num_nodes": ["0", "-1", "x"],
        "--trainer.precision": ["32-true", "bf16-mixed", "16-mixed", "64-true", "x", "16-true"],
        "--trainer.logger": ["false", "true", "null", "x"],
        "--trainer.val_check_interval": ["1", "0", "-1", "0.5", "x", "100", "null"],
        "--trainer.limit_val_batches": ["0", "1", "-1", "x", "1.5"],
        "--trainer.limit_train_batches": ["0", "1", "-1", "x", "1.5"],
        "--trainer.accumulate_grad_batches": ["1", "2", "0", "-1", "x"],
        "--trainer.gradient_clip_val": ["1", "0", "-1", "nan", "x", "null"],
        "--trainer.fast_dev_run": ["true", "1", "-1", "0", "x"],
        "--trainer.enable_checkpointing": ["false", "true", "x"],
        "--trainer.default_root_dir": ["here", "/proc/x"],
        "--trainer.callbacks": ["[]", "x", "null", "{class_path: os.system}"],
        "--trainer.log_every_n_steps": ["1", "0", "-1", "x"],
        "--trainer.deterministic": ["true", "warn", "x"],
        "--trainer.overfit_batches": ["1", "0.5", "-1"],
        "--trainer.max_time": ["00:00:00:01", "x", "{seconds: 1}"],
        "--trainer.profiler": ["null", "x", "simple"],
        "--checkpoint.every_n_steps": WHOLE_NUMBERS,
        "--ema.decay": FRACTIONS,
        "--samples.count": ["1", "0", "-1", "x", "1000000000"],
        "--samples.seconds": ["0.01", "0", "-1", "nan", "inf", "1e300", "null"],
        "--samples.every_n_validations": WHOLE_NUMBERS,
        "--samples.temperature": FRACTIONS,
        "--name": ["x", "", "a/b", "../up", "ABSOLUTE", ".", "..", "x" * 300, "é", " "],
        "--runs": ["runs2", "", "/proc/x", "FILE", "x" * 300],
        "--seed_everything": ["0", "-1", "x", str(2**32), str(10**30), "true", "false"],
        "--ckpt_path": ["last", "none", "", "CHECKPOINT", "/etc/passwd", "TONE", ".", "/dev/null"],
        "--config": ["none.yaml", "/etc/passwd", ".", "", "/dev/null", "TONE", "CHECKPOINT"],
        "--nonsense": ["1", ""],
    }
)
train_commands: Cases = st.fixed_dictionaries(
    {
        "command": st.sampled_from([None, None, None, None, "fit", "validate", "test", "predict"]),
        "flags": train_flags,
    }
)

# --- YAML -------------------------------------------------------------------------------------

YAML_VALUES = st.one_of(
    JUNK,
    st.sampled_from(
        [
            "!!python/object/apply:os.system",
            "*anchor",
            "1e1000",
            "2026-01-01",
            "{",
            "'",
            "~",
            "0x10",
        ]
    ),
)
YAML_KEYS = (
    "data",
    "model",
    "trainer",
    "checkpoint",
    "samples",
    "ema",
    "data.root",
    "data.batch_size",
    "data.label_names",
    "data.sample_rate",
    "data.val_pattern",
    "model.cycles",
    "model.learning_rate",
    "model.labels",
    "model.output",
    "trainer.max_steps",
    "trainer.logger",
    "trainer.callbacks",
    "trainer.plugins",
    "trainer.strategy",
    "samples.seconds",
    "checkpoint.every_n_steps",
    "seed_everything",
    "name",
    "runs",
    "unknown",
    "ckpt_path",
)
SNIPPETS = [
    "",
    "- a\n- b\n",
    "just words",
    "a: &a [x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
    "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\n"
    "f: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n",
    "data: !!python/object/apply:os.system ['touch code-ran']\n",
    "data: !!python/object/apply:subprocess.check_call [['touch', 'code-ran']]\n",
    "data: &x {root: *x}\n",
    "data:\n\troot: tab\n",
    "data: {root: a}\ndata: {root: b}\n",
    "\x00",
    "é: \xff\n",
    "data: " + "[" * 3000 + "\n",
    "model: {cycles: 1000000000}\n",
    "---\ndata: {}\n---\nmodel: {}\n",
]
yaml_files: Cases = st.one_of(
    st.fixed_dictionaries({"text": st.sampled_from(SNIPPETS)}),
    st.fixed_dictionaries(
        {
            "changes": st.lists(
                st.tuples(st.sampled_from(YAML_KEYS), YAML_VALUES).map(list), min_size=1, max_size=2
            )
        }
    ),
    st.fixed_dictionaries({"mutations": mutations}),
    st.fixed_dictionaries({"encoding": st.sampled_from(["latin-1", "utf-16"])}),
)
run_folders: Cases = st.one_of(
    st.fixed_dictionaries(
        {
            "config": st.sampled_from(
                [
                    *("prepare", "class_path callback", "class_path logger", "python tag"),
                    *("empty", "gone", "folder", "plugin"),
                ]
            ),
            "command": st.sampled_from(["fit", "validate"]),
        }
    ),
    st.fixed_dictionaries(
        {"checkpoint": checkpoints, "command": st.sampled_from(["fit", "validate"])}
    ),
)
