"""Owns `AudioDataModule`: the corpus's batches as Lightning asks for them, and its flags.

Knows nothing of files (`wavenet.corpus` does) or of networks: of a model it knows `ModelFacts`.
"""

import math
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from wavenet.conditioning.durations import ClipLength
from wavenet.corpus import (
    UNAUGMENTED,
    Augment,
    Batch,
    Clip,
    ClipBatches,
    ClipTable,
    Corpus,
    CropBatches,
    DecodeSettings,
    Framing,
    Listing,
    ResumableSampler,
    Scoring,
    batch_loader,
)
from wavenet.corpus.checks import require_not_negative, require_positive, require_share
from wavenet.corpus.listing import remedy
from wavenet.installation import spelled
from wavenet.machine import memory
from wavenet.training.exchange import CorpusFacts, ModelFacts

SHORTEST_PIECE = 16384  # scored samples of a long clip that make a row of a validation
FEWEST_FIELDS = 4  # receptive fields in such a row: its context is a quarter of it at most


class AudioDataModule(LightningDataModule):
    """A folder of audio as batches: prepared once, labelled, split by clip and cropped.

    Without a trainer, `receptive_field` (samples) and `framing` say what the model would; they can
    be set.

    Args:
        root: Folder of audio, searched recursively for .wav, .flac, .ogg, .mp3, .aiff and .aif.
        sample_rate: Rate of the prepared audio in Hz; files at other rates are resampled.
        prepare: A prepare.py, run as `python PREPARE --out ROOT` when root holds no audio yet.
        label_pattern: Regular expression with named groups, searched for in the path relative to
            root; each is a label.
        label_from_folder: Name of the label that is taken from the parent folder's name, such as
            "speaker".
        metadata: CSV with a header: `path` (relative to root), optionally `split` (train, val,
            test), every other column a label. Found relative to the working folder or to root.
            Files it does not list are not used.
        label_names: The labels to keep of those found; [] for an unconditional model. All by
            default.
        val_pattern: Regular expression over the relative path; clips it matches are for validation.
        test_pattern: Regular expression over the relative path; clips it matches are for testing.
        val_fraction: Share of the clips for validation where neither the CSV nor val_pattern says.
        normalize: "peak" (-1 dBFS) or "loudness" (RMS of -23 dBFS, less where that would clip);
            none by default.
        trim_silence_db: Cut leading and trailing samples that lie this many dB below the clip's
            peak; off by default.
        crop_samples: Scored samples per training row, beside their context.
        trailing_silence: Seconds of silence behind each training clip, scored like the clip, so
            that a model of short clips learns to stop. Validation and test clips stay as they are.
        label_dropout: Share of the training rows that are left without labels. The model then
            learns the corpus as a whole too, and generate.py can guide it (--guidance). 0.1 is
            usual.
        label_dropout_each: The same of each label by itself, beside those. The model then also
            learns what each adds to the others, and one alone can guide it.
        augment: What is changed in training rows; validation and test clips stay as they are.
        batch_size: Rows of a training batch, per process.
        val_batch_size: Clips of a validation or test batch, per process; long ones are cut into
            pieces, each with its whole context.
        val_seconds: Seconds of held-out audio that the validations of a run score, spread over the
            clips. It is a part where there is more; the whole is scored at the run's end, and by
            `validate`. null: always the whole.
        num_workers: Worker processes that cut batches.
        protocol: sashimi: clips are scored as in the SaShiMi paper (Goel et al. 2022), for figures
            to set beside its own: each is scaled until its lowest sample is -1 and its highest 1,
            and its first sample is predicted from one receptive field of silence. This changes the
            bits per sample; see data/README.md. Without it: as they are, from the zero state.
        cache_dir: Where prepared audio is kept. Default: a folder for this root in the user's cache
            folder, or in the one that the environment variable WAVENET_CACHE names.
        seed: Decides the order of the clips and where they are cropped. On the command line it is
            --seed_everything where it is not given; elsewhere 0.
    """

    def __init__(
        self,
        root: str,
        sample_rate: int,
        prepare: str | None = None,
        label_pattern: str | None = None,
        label_from_folder: str | None = None,
        metadata: str | None = None,
        label_names: list[str] | None = None,
        val_pattern: str | None = None,
        test_pattern: str | None = None,
        val_fraction: float = 0.05,
        normalize: Literal["peak", "loudness"] | None = None,
        trim_silence_db: float | None = None,
        crop_samples: int = 4096,
        trailing_silence: float = 0.0,
        label_dropout: float = 0.0,
        label_dropout_each: float = 0.0,
        augment: Augment = UNAUGMENTED,
        batch_size: int = 16,
        val_batch_size: int = 16,
        val_seconds: float | None = 120.0,
        num_workers: int = 1,
        protocol: Literal["sashimi"] | None = None,
        cache_dir: str | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        labels = (label_pattern, label_from_folder, metadata, label_names)
        listing = Listing(root, *labels, val_pattern, test_pattern, val_fraction)
        decoding = DecodeSettings(sample_rate, normalize, trim_silence_db)
        self.corpus = Corpus(listing, decoding, prepare, cache_dir)
        self.crop_samples, self.trailing_silence = crop_samples, trailing_silence
        self.label_dropout, self.label_dropout_each = label_dropout, label_dropout_each
        self.augment, self.seed, self.protocol = augment, seed or 0, protocol
        self.batch_size, self.val_batch_size = batch_size, val_batch_size
        self.num_workers, self.val_seconds = num_workers, val_seconds
        self.receptive_field: int | None = None
        self.framing = Framing()
        self._check_settings()

    def _check_settings(self) -> None:
        require_positive(
            crop_samples=self.crop_samples,
            batch_size=self.batch_size,
            val_batch_size=self.val_batch_size,
        )
        require_not_negative(
            num_workers=self.num_workers, seed=self.seed, trailing_silence=self.trailing_silence
        )
        require_share(label_dropout=self.label_dropout, label_dropout_each=self.label_dropout_each)
        if self.val_seconds is not None:
            require_positive(val_seconds=self.val_seconds)
        if self.protocol not in (None, "sashimi"):
            raise ValueError(f"--data.protocol is sashimi or none, but got {self.protocol!r}.")
        if self.protocol and self.trailing_silence:
            raise ValueError(
                "--data.protocol sashimi scales each clip to its own extremes, and "
                "--data.trailing_silence makes silence part of it. Leave one of them out."
            )
        if self.protocol and self.augment:
            raise ValueError(
                "--data.protocol sashimi scales each clip to its own extremes, and --data.augment "
                "changes them. Leave one of them out."
            )

    # The corpus

    def prepare_data(self) -> None:
        """Decode the audio into the cache, unless that is done.

        Lightning calls it in one process of each node.
        """
        self.corpus.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Open the prepared audio, preparing it first where that was not done."""
        self.corpus.open()

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        return self.corpus.sample_rate

    @property
    def labels(self) -> dict[str, list[str]]:
        """Label names and their categories, in the order that the ids in batches count."""
        return self.corpus.labels

    def clips(self, split: str) -> list[Clip]:
        """The clips of one split, by path. Raises ValueError, saying what to change, for none."""
        return self.corpus.clips(split)

    def num_samples(self, split: str) -> int:
        """Samples of a split, all clips together."""
        return self.corpus.num_samples(split)

    def table(self, split: str) -> ClipTable:
        """The clips of a split as arrays."""
        return self.corpus.table(split)

    def audio(self, clip: Clip) -> np.ndarray:
        """One clip: (length,) float32 in [-1, 1)."""
        return self.corpus.audio(clip)

    @property
    def clip_length(self) -> ClipLength:
        """How long the training clips are, by their labels; the silence behind them counts."""
        return self.corpus.clip_length(self._tail)

    @property
    def _tail(self) -> int:
        return round(self.trailing_silence * self.sample_rate)

    # What the model and the data tell each other

    @property
    def facts(self) -> CorpusFacts:
        """What a model needs to know of this corpus."""
        clip_length = self.clip_length if self.corpus.has("train") else None
        unlabelled = self.label_dropout > 0 or self.label_dropout_each > 0
        return CorpusFacts(
            self.sample_rate, self.labels, unlabelled, clip_length, self.protocol is not None
        )

    def _receptive_field(self) -> int:
        facts = _facts_from(self.trainer)
        found = facts.receptive_field if facts is not None else self.receptive_field
        if found is None:
            raise ValueError(
                "Without a trainer, set the data module's receptive_field (samples) first."
            )
        return found

    def _framing(self) -> Framing:
        facts = _facts_from(self.trainer)
        return facts.framing if facts is not None else self.framing

    def _scoring(self, receptive_field: int) -> Scoring:
        return Scoring() if self.protocol is None else Scoring(True, receptive_field)

    # Batches

    def batches(
        self, split: str = "train", *, receptive_field: int, rank: int = 0, world_size: int = 1
    ) -> CropBatches:
        """Crops of a split, without a trainer; item b is a whole batch."""
        shape = (receptive_field, self.crop_samples, self.batch_size)
        share = (self.seed, rank, world_size)
        table = self.table(split)
        longest = int(table.lengths.max()) + self._tail
        self._require_memory(min(self.crop_samples + receptive_field, longest))
        silence = (self._tail, self.label_dropout)
        how = (self._framing(), self._scoring(receptive_field))
        changed = (self.label_dropout_each, self.augment)
        return CropBatches(table, *shape, *share, *silence, *how, *changed)

    def _require_memory(self, width: int) -> None:
        """Raises ValueError where a batch of rows of `width` samples is more than the machine has.

        Making it would show that only after minutes, and Linux would then kill the process.
        """
        needed = self.batch_size * (2 * width + 8)  # 16-bit audio; a row's number in the plan
        there = memory(torch.device("cpu"))
        if needed > there:
            raise ValueError(
                f"A batch of --data.batch_size {self.batch_size} rows of {width} samples takes "
                f"{needed / 2**30:.0f} GiB, but this machine has {there / 2**30:.0f}. Lower "
                "--data.batch_size or --data.crop_samples."
            )

    def whole_clips(
        self,
        split: str,
        rank: int = 0,
        world_size: int = 1,
        piece: int | None = None,
        most: int | None = None,
    ) -> ClipBatches:
        """Whole clips of a split, without a trainer; item b is a whole batch.

        piece, most: see `ClipBatches`. Raises ValueError if a process gets none.
        """
        needs_context = piece is not None or self.protocol is not None
        receptive_field = self._receptive_field() if needs_context else 1
        how = {"framing": self._framing(), "scoring": self._scoring(receptive_field)}
        cut = {"receptive_field": receptive_field, "piece": piece, "most": most}
        return self.corpus.whole_clips(split, self.val_batch_size, rank, world_size, **how, **cut)

    def _in_pieces(self, split: str, most: int | None = None) -> ClipBatches:
        """This process's share of whole clips, in rows that are not longer than need be."""
        share = _share_of(self.trainer)
        if _facts_from(self.trainer) is None and self.receptive_field is None:
            return self.whole_clips(split, **share)
        piece = max(SHORTEST_PIECE, FEWEST_FIELDS * self._receptive_field())
        return self.whole_clips(split, **share, piece=piece, most=most)

    @property
    def scored_seconds(self) -> tuple[float, float]:
        """Of the held-out audio: what validations score while a model is trained, and all."""
        batches = self._in_pieces("val", self._most)
        return batches.num_samples / self.sample_rate, self.num_samples("val") / self.sample_rate

    @property
    def _most(self) -> int | None:
        if self.val_seconds is None:
            return None
        return max(1, round(self.val_seconds * self.sample_rate))

    def train_dataloader(self) -> DataLoader[Batch]:
        """Crops from where the trainer stands.

        An epoch is the whole run where max_steps is set, otherwise one pass.
        """
        dataset = self.batches(
            "train", receptive_field=self._receptive_field(), **_share_of(self.trainer)
        )
        return batch_loader(dataset, self.num_workers, _sampler_for(self.trainer, len(dataset)))

    def val_dataloader(self) -> DataLoader[Batch]:
        """This process's share of the validation clips: while a model is trained `val_seconds`."""
        training = self.trainer is not None and self.trainer.state.fn == "fit"
        return batch_loader(
            self._in_pieces("val", self._most if training else None), self.num_workers
        )

    def test_dataloader(self) -> DataLoader[Batch]:
        """This process's share of the test clips. Raises ValueError where there are none."""
        if not self.corpus.has("test"):
            raise ValueError(
                f"This data has no test clips. {remedy(self.corpus.listing, 'test')}. The "
                f"validation clips are scored by: {spelled('train')} validate"
            )
        return batch_loader(self._in_pieces("test"), self.num_workers)


def _facts_from(trainer: Trainer | None) -> ModelFacts | None:
    """What the trainer's model tells; None without one."""
    model: Any = trainer.lightning_module if trainer is not None else None
    return model.model_facts if model is not None else None


def _share_of(trainer: Trainer | None) -> dict[str, int]:
    """This process's number and the number of processes."""
    if trainer is None:
        return {"rank": 0, "world_size": 1}
    connector = getattr(trainer, "_accelerator_connector", None)
    if trainer.world_size > 1 and getattr(connector, "use_distributed_sampler", False):
        raise ValueError(
            "This data module shares clips out among the processes itself; set "
            "--trainer.use_distributed_sampler false, so that Lightning does not do so again."
        )
    return {"rank": trainer.global_rank, "world_size": trainer.world_size}


def _sampler_for(trainer: Trainer | None, one_pass: int) -> ResumableSampler:
    if trainer is None:
        return ResumableSampler(one_pass, lambda: 0)
    together = trainer.accumulate_grad_batches
    length = trainer.max_steps * together if trainer.max_steps > 0 else one_pass
    return ResumableSampler(length, lambda: _batches_done(trainer.global_step, length, together))


def _batches_done(steps: int, length: int, together: int) -> int:
    """Batches that `steps` optimizer steps took, `together` each.

    An epoch's last step takes what is left of it.
    """
    epochs, rest = divmod(steps, math.ceil(length / together))
    return epochs * length + rest * together
