"""Properties of labels: names to ids, ids to features, and what is refused."""

import pytest
import torch
from conftest import LABELS

from wavenet import WaveNet, label_ids
from wavenet.conditioning import LabelEmbedding, checked_names


def test_one_category_holds_for_every_stream() -> None:
    ids = label_ids(LABELS, {"digit": "2", "speaker": "ann"}, 3)
    assert {name: value.tolist() for name, value in ids.items()} == {"digit": [2, 2, 2], "speaker": [0, 0, 0]}
    assert all(value.dtype == torch.int64 for value in ids.values())


def test_a_sequence_gives_one_category_a_stream() -> None:
    assert label_ids(LABELS, {"digit": ["2", "0"], "speaker": ("bob", "ann")}, 2)["digit"].tolist() == [2, 0]
    assert label_ids(LABELS, {"digit": [1, 2]}, 2)["digit"].tolist() == [1, 2]  # type: ignore[list-item]


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
    given = {"speaker": torch.tensor([1, 0]), "digit": torch.tensor([2, 1])}  # the order of names does not matter
    digit, speaker = module.parameters()
    expected = torch.stack([digit[2] + speaker[1], digit[1] + speaker[0]])[..., None]
    assert torch.equal(module(given), expected) and module(given).shape == (2, 4, 1)


@pytest.mark.parametrize("given", [None, {}, {"digit": [0]}, {"digit": [0], "speaker": [0], "pitch": [0]}])
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
def test_label_names_that_cannot_be_used_are_refused(labels: dict[str, list[str]], message: str) -> None:
    for build in (checked_names, lambda names: WaveNet(1, 1, labels=names)):
        with pytest.raises(ValueError, match=message):
            build(labels)


def test_names_are_copied_and_become_strings() -> None:
    given = {"digit": [0, 1]}
    names = checked_names(given)  # type: ignore[arg-type]
    given["digit"].append(2)
    assert names == {"digit": ["0", "1"]} and checked_names(None) == {}
