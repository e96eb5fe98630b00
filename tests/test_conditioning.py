"""Properties of labels: names to ids, ids to features, and what is refused."""

import pytest
import torch
from conftest import LABELS

from wavenet import WaveNet, label_ids
from wavenet.conditioning import (
    NO_LABEL,
    Condition,
    LabelEmbedding,
    PositionEmbedding,
    advanced,
    checked_names,
    with_and_without,
)
from wavenet.conditioning.position import FRAMES, SHARES


def test_one_category_holds_for_every_stream() -> None:
    ids = label_ids(LABELS, {"digit": "2", "speaker": "ann"}, 3)
    assert {name: value.tolist() for name, value in ids.items()} == {
        "digit": [2, 2, 2],
        "speaker": [0, 0, 0],
    }
    assert all(value.dtype == torch.int64 for value in ids.values())


def test_a_sequence_gives_one_category_a_stream() -> None:
    assert label_ids(LABELS, {"digit": ["2", "0"], "speaker": ("bob", "ann")}, 2)[
        "digit"
    ].tolist() == [2, 0]
    numbers = label_ids(LABELS, {"digit": [1, 2]}, 2)  # type: ignore[list-item]
    assert numbers["digit"].tolist() == [1, 2]


def test_a_category_of_several_letters_is_one_category_and_not_a_sequence() -> None:
    assert label_ids(LABELS, {"speaker": "bob"}, 3)["speaker"].tolist() == [1, 1, 1]


def test_an_unknown_label_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match=r"no label 'pitch'.*digit, speaker"):
        label_ids(LABELS, {"pitch": "c"}, 1)
    with pytest.raises(ValueError, match="trained without labels"):
        label_ids({}, {"pitch": "c"}, 1)


def test_an_unknown_category_is_refused_with_the_categories_there_are() -> None:
    with pytest.raises(ValueError, match=r"no category 'eve'.*ann, bob"):
        label_ids(LABELS, {"speaker": ["ann", "eve"]}, 2)


@pytest.mark.parametrize("given", [["0"], ["0", "1", "2"], []])
def test_a_sequence_of_another_length_than_the_batch_is_refused(given: list[str]) -> None:
    with pytest.raises(ValueError, match=f"{len(given)} categories for a batch of 2"):
        label_ids(LABELS, {"digit": given}, 2)


def test_features_are_the_sum_of_one_embedding_a_label() -> None:
    module = LabelEmbedding(LABELS, 4)
    given = {
        "speaker": torch.tensor([1, 0]),
        "digit": torch.tensor([2, 1]),
    }  # the order of names does not matter
    digit, speaker = module.parameters()
    expected = torch.stack([digit[2] + speaker[1], digit[1] + speaker[0]])[..., None]
    assert torch.equal(module(given), expected) and module(given).shape == (2, 4, 1)


@pytest.mark.parametrize(
    "given", [None, {}, {"digit": [0]}, {"digit": [0], "speaker": [0], "pitch": [0]}]
)
def test_labels_missing_or_too_many_are_refused(given: dict[str, list[int]] | None) -> None:
    ids = None if given is None else {name: torch.tensor(value) for name, value in given.items()}
    with pytest.raises(ValueError, match=r"\['digit', 'speaker'\].*label_ids"):
        LabelEmbedding(LABELS, 4)(ids)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"digit": []}, "at least one category"),
        ({"digit": ["1", "1"]}, "each once"),
        ({"digit": ["1", 1]}, "each once"),
        ({"two words": ["a"]}, "letters, digits and underscores"),
        ({"a=b": ["a"]}, "letters, digits and underscores"),
        ({"": ["a"]}, "letters, digits and underscores"),
        ({"3rd": ["a"]}, "not begin with a digit"),
    ],
)
def test_label_names_that_cannot_be_used_are_refused(
    labels: dict[str, list[str]], message: str
) -> None:
    for build in (checked_names, lambda names: WaveNet(1, 1, labels=names)):
        with pytest.raises(ValueError, match=message):
            build(labels)


def test_names_are_copied_and_become_strings() -> None:
    given = {"digit": [0, 1]}
    names = checked_names(given)  # type: ignore[arg-type]
    given["digit"].append(2)
    assert names == {"digit": ["0", "1"]} and checked_names(None) == {}


# Labels that are left out


def test_a_label_that_is_not_given_adds_nothing() -> None:
    embedding = LabelEmbedding(LABELS, 4, unlabelled=True)
    given = {
        "digit": torch.tensor([2, NO_LABEL, NO_LABEL]),
        "speaker": torch.tensor([1, 1, NO_LABEL]),
    }
    h = embedding(given)
    digits, speakers = (table.weight for table in embedding.tables)
    assert torch.equal(h[0, :, 0], digits[2] + speakers[1])
    assert torch.equal(h[1, :, 0], speakers[1]) and not h[2].any()
    h.sum().backward()
    assert digits.grad is not None and digits.grad[:2].eq(0).all() and digits.grad[2].eq(1).all()


def test_a_model_that_was_not_trained_for_it_wants_every_label() -> None:
    with pytest.raises(ValueError, match="has the ids 0"):
        LabelEmbedding(LABELS, 4)({"digit": torch.tensor([NO_LABEL]), "speaker": torch.tensor([0])})


# The position in the clip


def positions(hop: int = 16) -> PositionEmbedding:
    embedding = PositionEmbedding(hop, 5)
    for table in (embedding.since, embedding.left, embedding.share):
        torch.nn.init.normal_(table.weight)
    return embedding


def test_a_position_is_since_left_and_share_of_its_frame() -> None:
    embedding = positions()
    h = embedding(torch.tensor([[40, 100]]), 60)[0].T  # (T, C), samples 40 to 99 of 100
    for place, row in zip(range(40, 100), h, strict=True):
        begin = place // 16 * 16
        expected = (
            embedding.since.weight[begin // 16]
            + embedding.left.weight[-(-(100 - begin) // 16)]
            + embedding.share.weight[SHARES * begin // 100]
        )
        assert torch.allclose(row, expected, atol=1e-6), place


def test_positions_begin_as_nothing_so_that_a_trained_model_can_be_given_them() -> None:
    assert not PositionEmbedding(16, 5)(torch.tensor([[0, 50]]), 50).any()


def test_far_from_either_end_all_frames_are_alike_but_for_the_share() -> None:
    embedding = positions()
    torch.nn.init.zeros_(embedding.share.weight)
    length = 16 * 4 * FRAMES
    middle = embedding(torch.tensor([[length // 2, length]]), 64)[0]
    assert torch.allclose(
        middle, (embedding.since.weight[-1] + embedding.left.weight[-1])[:, None].expand(5, 64)
    )


def test_pieces_of_a_clip_have_the_positions_of_the_whole() -> None:
    embedding = positions()
    whole = embedding(torch.tensor([[0, 300], [7, 90]]), 100)
    position, pieces = torch.tensor([[0, 300], [7, 90]]), []
    for size in (1, 30, 16, 53):
        pieces.append(embedding(position, size))
        moved = advanced(position, size)
        assert moved is not None
        position = moved
    assert torch.equal(torch.cat(pieces, dim=2), whole)
    assert advanced(None, 3) is None


@pytest.mark.parametrize(
    "given", [None, torch.zeros(3), torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 2)]
)
def test_a_position_of_another_kind_is_refused(given: torch.Tensor | None) -> None:
    with pytest.raises(ValueError, match=r"Give position \(batch, 2\)"):
        positions()(given, 5)


def test_a_model_without_a_position_refuses_one_and_one_with_it_wants_it() -> None:
    codes, position = torch.zeros(1, 5, dtype=torch.int64), torch.tensor([[0, 5]])
    with pytest.raises(ValueError, match="built without position_hop"):
        WaveNet(1, 1)(codes, position=position)
    with pytest.raises(ValueError, match="conditioned on where in its clip"):
        WaveNet(1, 1, position_hop=16).condition(time=5)


@pytest.mark.parametrize("hop", [-1, 15, True, 1.5])
def test_a_hop_that_is_no_frame_is_refused(hop: object) -> None:
    with pytest.raises(ValueError, match="position_hop"):
        WaveNet(1, 1, position_hop=hop)  # type: ignore[arg-type]


# Conditions


def frames(count: int) -> torch.Tensor:
    """(2, 3, count), of which no two frames are alike."""
    return torch.randn(2, 3, count, generator=torch.Generator().manual_seed(0))


def test_a_condition_without_a_hop_holds_for_ever() -> None:
    condition = Condition(frames(1))
    assert torch.equal(condition.over(1000), condition.features)
    assert condition.after(7) is condition
    ((start, stop, here),) = condition.pieces(1000, 1)
    assert (start, stop, here.hop) == (0, 1000, 0) and here.features is condition.features


@pytest.mark.parametrize("offset", [0, 1, 3])
def test_each_frame_holds_for_its_samples(offset: int) -> None:
    condition = Condition(frames(4), 4, offset)
    each = torch.stack([condition.features[..., (offset + t) // 4] for t in range(9)], dim=-1)
    assert torch.equal(condition.over(9), each)
    for gone in range(9):
        assert torch.equal(condition.after(gone).over(9 - gone), each[..., gone:])


@pytest.mark.parametrize("at_once", [1, 2, 3, 50])
@pytest.mark.parametrize("offset", [0, 3])
def test_pieces_of_a_condition_are_the_whole(offset: int, at_once: int) -> None:
    condition, made, end = Condition(frames(6), 4, offset), [], 0
    for start, stop, here in condition.pieces(20, at_once):
        assert start == end and here.features.shape[-1] <= at_once
        made.append(here.over(stop - start))
        end = stop
    assert end == 20 and torch.equal(torch.cat(made, dim=-1), condition.over(20))


def test_a_condition_that_ends_too_early_is_refused() -> None:
    with pytest.raises(ValueError, match=r"12 samples from sample 1 .* 4 frames of 4.* has 3"):
        Condition(frames(3), 4, 1).over(12)


@pytest.mark.parametrize("settings", [{}, {"position_hop": 16}])
def test_a_timeline_in_pieces_is_the_condition_of_the_whole(settings: dict[str, int]) -> None:
    model = WaveNet(1, 1, labels=LABELS, **settings)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    labels, lengths = {"digit": torch.tensor([0, 2]), "speaker": torch.tensor([1, 1])}, [70, 300]
    position = model.beginning(2, torch.tensor(lengths))
    whole = model.condition(labels, position=position, time=90)
    timeline = model.timeline(labels, torch.tensor(lengths))
    pieces = [timeline.between(start, stop) for start, stop in ((0, 1), (1, 33), (33, 90))]
    assert whole is not None and all(piece is not None for piece in pieces)
    made = [piece.over(n).expand(-1, -1, n) for piece, n in zip(pieces, (1, 32, 57), strict=True)]
    assert torch.equal(torch.cat(made, dim=-1), whole.over(90).expand(-1, -1, 90))


@pytest.mark.parametrize("batch_size", [0, -1, 2**31, 1.0, True])
def test_a_batch_of_no_size_gets_no_labels(batch_size: int) -> None:
    with pytest.raises(ValueError, match="batch_size must be an integer from 1 to 16777216"):
        label_ids(LABELS, {"digit": "1"}, batch_size)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.tensor(1), "'digit' needs ids"),
        (torch.tensor([1.0]), "torch.float32"),
        ([1], "but got list"),
        (torch.tensor([3]), r"'digit' has the ids 0\.\.2, but got values from 3 to 3"),
        (torch.tensor([-1]), "but got values from -1 to -1"),
        (torch.tensor([1, 2]), r"an id for each clip, but there are \{'digit': 2, 'speaker': 1\}"),
    ],
)
def test_ids_of_another_kind_are_refused(ids: torch.Tensor, message: str) -> None:
    model = WaveNet(1, 1, labels=LABELS)
    with pytest.raises(ValueError, match=message):
        model.condition({"digit": ids, "speaker": torch.tensor([0])})


def steered_model() -> tuple[WaveNet, dict[str, torch.Tensor], torch.Tensor]:
    """A model with labels and position, labels of two clips, and the clips' lengths."""
    model = WaveNet(1, 1, labels=LABELS, position_hop=16)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model, label_ids(LABELS, {"digit": "1", "speaker": "bob"}, 2), torch.tensor([70, 300])


def test_a_timeline_is_that_of_the_model_in_its_dtype() -> None:
    """Sums too are rounded as that model rounds them, not once at their end."""
    model, labels, lengths = steered_model()
    made = model.timeline(labels, lengths, dtype=torch.bfloat16).between(5, 60)
    expected = model.bfloat16().timeline(labels, lengths).between(5, 60)
    assert made is not None and expected is not None
    assert made.features.dtype == torch.bfloat16 and torch.equal(made.features, expected.features)


def test_a_timeline_in_a_dtype_of_its_own_does_not_see_later_changes_to_the_model() -> None:
    model, labels, lengths = steered_model()
    timeline = model.timeline(labels, lengths, dtype=torch.float32)
    before = timeline.between(0, 40)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    after = timeline.between(0, 40)
    assert before is not None and after is not None
    assert torch.equal(before.features, after.features) and before.features.abs().sum() > 0


def test_a_timeline_of_a_model_that_nothing_steers_is_empty() -> None:
    assert WaveNet(1, 1).timeline().between(0, 5) is None
    with pytest.raises(ValueError, match="give the clips' lengths"):
        WaveNet(1, 1, position_hop=16).timeline()


def test_each_clip_with_labels_and_without() -> None:
    pairs = with_and_without({"digit": torch.tensor([2, 0])})
    assert pairs["digit"].tolist() == [2, NO_LABEL, 0, NO_LABEL]
    both = {"digit": torch.tensor([2, 0]), "speaker": torch.tensor([1, 3])}
    without_digit = with_and_without(both, ["digit"])
    assert without_digit["digit"].tolist() == [2, NO_LABEL, 0, NO_LABEL]
    assert without_digit["speaker"].tolist() == [1, 1, 3, 3]


@pytest.mark.parametrize(
    ("frames_given", "hop", "offset", "message"),
    [
        (3, 0, 0, "3 frames and offset 0. Give hop"),
        (1, 0, 2, "offset 2"),
        (3, 4, 4, r"0\.\.3.*got 4"),
        (3, 4, -1, r"0\.\.3.*got -1"),
    ],
)
def test_a_condition_that_makes_no_frames_is_refused(
    frames_given: int, hop: int, offset: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Condition(frames(frames_given), hop, offset).require(1)
