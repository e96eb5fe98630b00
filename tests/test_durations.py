"""Properties of the lengths of clips: what is fitted, what is drawn, and what is refused."""

import json
import math
from dataclasses import asdict
from typing import Any

import pytest
import torch

from wavenet.conditioning.durations import (
    WIDEST,
    ClipLength,
    checked_clip_length,
    draw_lengths,
    fit_clip_length,
)

CATEGORIES = {"digit": ["0", "1", "2"], "speaker": ["ann", "bob"]}
OFFSETS = {"digit": torch.tensor([-0.2, 0.0, 0.2]), "speaker": torch.tensor([-0.1, 0.1])}


def some_clips(spread: float, count: int = 6000) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Lengths about exp(8), by the offsets above, every combination as often."""
    ids = {"digit": torch.arange(count) % 3, "speaker": torch.arange(count) // 3 % 2}
    logs = 8 + sum(OFFSETS[name][ids[name]] for name in ids)
    return (logs + spread * torch.randn(count)).exp(), ids


def test_the_fit_finds_the_numbers_that_lengths_were_made_from() -> None:
    lengths, ids = some_clips(0.15)
    found = fit_clip_length(lengths, ids, CATEGORIES)
    assert found.log_mean == pytest.approx(8, abs=0.01) and found.log_std == pytest.approx(
        0.15, abs=0.01
    )
    for name, expected in OFFSETS.items():
        assert found.offsets[name] == pytest.approx(expected.tolist(), abs=0.02)


def test_the_fit_separates_labels_that_go_together() -> None:
    """Most of ann's clips are of the short digit: what is the digit's is not put down to her."""
    ids = {
        "digit": torch.tensor([0] * 90 + [2] * 10 + [0] * 10 + [2] * 90),
        "speaker": torch.arange(200) // 100,
    }
    lengths = (8 + OFFSETS["digit"][ids["digit"]] + OFFSETS["speaker"][ids["speaker"]]).exp()
    found = fit_clip_length(lengths, ids, CATEGORIES)
    digit, speaker = found.offsets["digit"], found.offsets["speaker"]
    assert digit[2] - digit[0] == pytest.approx(0.4, abs=0.01) and digit[1] == 0, "nobody says 1"
    assert speaker[1] - speaker[0] == pytest.approx(0.2, abs=0.01) and found.log_std < 0.01


def test_the_fit_is_plain_numbers() -> None:
    found = fit_clip_length(*some_clips(0.1), CATEGORIES)
    assert checked_clip_length(found, CATEGORIES) == found
    plain = json.loads(json.dumps(asdict(found)))
    assert plain == asdict(found) and checked_clip_length(plain, CATEGORIES) == found


def test_clips_without_labels_have_a_mean_and_a_spread() -> None:
    found = fit_clip_length(torch.tensor([100, 400]), {}, {})
    assert found == ClipLength(round(math.log(200), 4), round(math.log(2), 4), {})


def test_drawn_lengths_are_those_of_the_corpus() -> None:
    lengths, ids = some_clips(0.15)
    drawn = draw_lengths(fit_clip_length(lengths, ids, CATEGORIES), ids, len(lengths), seed=1)
    assert drawn.dtype == torch.int64 and len(drawn.unique()) > 1000
    logs, real = drawn.double().log(), lengths.double().log()
    for digit in range(3):
        mine, theirs = logs[ids["digit"] == digit], real[ids["digit"] == digit]
        assert (
            abs(float(mine.mean() - theirs.mean())) < 0.02
            and abs(float(mine.std() - theirs.std())) < 0.02
        )


def test_no_length_is_drawn_from_far_out() -> None:
    drawn = draw_lengths(ClipLength(8, 0.5), {}, 2000, seed=0).double().log()
    assert 0.9 * WIDEST < float((drawn - 8).abs().max()) / 0.5 < 1.01 * WIDEST


def test_a_length_is_its_seeds_alone_and_in_a_batch() -> None:
    prior = ClipLength(7.0, 0.3, {"speaker": [0.0, 0.5]})
    speakers = torch.tensor([0, 1, 0, 1])
    together = draw_lengths(prior, {"speaker": speakers}, 4, seed=5).tolist()
    alone = [
        int(draw_lengths(prior, {"speaker": speakers[i : i + 1]}, 1, seed=5 + i)) for i in range(4)
    ]
    assert together == alone and len(set(together)) == 4


@pytest.mark.parametrize(
    "given",
    [
        {"log_mean": 8.0, "log_std": 0.1},
        {"log_mean": "long", "log_std": 0.1, "offsets": {}},
        {
            "log_mean": 8.0,
            "log_std": math.nan,
            "offsets": {"digit": [0.0] * 3, "speaker": [0.0] * 2},
        },
        {"log_mean": 8.0, "log_std": 0.1, "offsets": {"digit": [0.0] * 3}},
        {"log_mean": 8.0, "log_std": 0.1, "offsets": {"digit": [0.0] * 3, "speaker": [0.0] * 3}},
        {"log_mean": 8.0, "log_std": 0.1, "offsets": [0.0]},
    ],
    ids=str,
)
def test_numbers_that_do_not_belong_to_the_labels_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="clip_length"):
        checked_clip_length(given, CATEGORIES)


def test_none_is_none() -> None:
    assert checked_clip_length(None, CATEGORIES) is None
