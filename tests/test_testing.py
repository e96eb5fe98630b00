"""assert_causal and assert_streams pass what is right, and say where what is wrong goes wrong."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import small_model, some_codes
from torch import Tensor, nn

from wavenet import CausalConv1d, CentredConv1d, Chain, ResidualStack
from wavenet.testing import assert_causal, assert_receptive_field, assert_streams, cuttings


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Summer(nn.Module):
    """Somebody else's module: a running sum. `fault` is what its step does wrong."""

    def __init__(self, fault: str = "", claimed: int | None = None) -> None:
        super().__init__()
        self.fault = fault
        if claimed is not None:
            self.receptive_field = claimed

    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(dim=-1)

    def init_state(self, batch_size: int) -> dict[str, Tensor]:
        return {"sum": torch.zeros(batch_size, 2, 1, dtype=torch.float64)}

    def step(self, x: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        y = state["sum"] + x.cumsum(dim=-1)
        last = y[..., -1:]
        if self.fault == "writes":
            state["sum"].copy_(last)
        if self.fault == "forgets" and x.shape[-1] == 1:
            last = x
        if self.fault == "shorter":
            y = y[..., 1:]
        return y, {"sum": last}


def test_what_is_right_passes() -> None:
    assert_causal(Summer(), noise(3, 2, 30))
    assert_streams(Summer(), noise(3, 2, 30))
    assert_causal(small_model(), some_codes(2, 30))
    assert_streams(small_model(), some_codes(2, 30))
    stack = ResidualStack([1, 2, 4], 5, 7, 6, condition_channels=2).double()
    for condition in (noise(3, 2, 30), noise(3, 2, 1)):
        assert_causal(stack, noise(3, 5, 30), condition)
        assert_streams(stack, noise(3, 5, 30), condition)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("writes", r"Summer\.step wrote to the state that it was given, at time 0"),
        (
            "forgets",
            r"output 0 differs from time 2 on, by [\d.]+ there and at most [\d.]+ "
            r"\(allowed \de-\d+\), at sample 0 of chunk 2, cut into \[1, 1, 1, 1, 1, 1, \.\.\.\]",
        ),
        ("shorter", r"Output 0 of the steps is .*\(3, 2, 29\), cut into \[30\].*\(3, 2, 30\)"),
    ],
)
def test_a_faulty_step_is_found_and_placed(fault: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        assert_streams(Summer(fault), noise(3, 2, 30))


def test_a_fault_at_one_chunk_border_is_found_there() -> None:
    class Clicks(CausalConv1d):
        def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            y, after = super().step(x, state)
            return y, torch.zeros_like(after) if x.shape[-1] == 7 else after

    conv = Clicks(2, 3, 2, dilation=4, dtype=torch.float64)
    assert_streams(conv, noise(1, 2, 30), cuts=[[5, 5, 20], [30], [1] * 30])
    with pytest.raises(AssertionError, match=r"from time 12 on, .* sample 0 of chunk 2, cut"):
        assert_streams(conv, noise(1, 2, 30), cuts=[[5, 7, 18]])


@pytest.mark.parametrize("ahead", [1, 3])
def test_a_module_that_looks_ahead_is_found_and_placed(ahead: int) -> None:
    conv, x = CentredConv1d(2, 3, 2 * ahead + 1, dtype=torch.float64), noise(1, 2, 20)
    with pytest.raises(AssertionError, match=r"It sees the future: output 0 changed at time 0, by"):
        assert_causal(conv, x)
    assert_causal(conv, x, lookahead=ahead)
    with pytest.raises(AssertionError, match="sees the future"):
        assert_causal(conv, x, lookahead=ahead - 1)


def test_a_look_at_a_later_condition_is_found() -> None:
    class Ahead(nn.Module):
        def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
            return x, x + condition.roll(-1, dims=-1)

    with pytest.raises(
        AssertionError, match=r"output 1 changed at time \d+, .* when input 1 from time \d+ on"
    ):
        assert_causal(Ahead(), noise(1, 2, 20), noise(1, 2, 20))


def test_a_chain_with_a_part_that_it_does_not_know_is_tested_all_the_same() -> None:
    chain = Chain(nn.Tanh(), nn.Conv1d(2, 2, 3, padding=1)).double()
    with pytest.raises(AssertionError, match="sees the future"):
        assert_causal(chain, noise(2, 2, 20))
    with pytest.raises(ValueError, match="Conv1d with kernel_size 3"):
        assert_streams(chain, noise(2, 2, 20))


def test_statistics_over_time_see_the_future() -> None:
    with pytest.raises(AssertionError, match="sees the future"):
        assert_causal(nn.GroupNorm(1, 2, dtype=torch.float64), noise(2, 2, 20))


@pytest.mark.parametrize("claimed", [4, 6])
def test_a_receptive_field_that_is_not_there_is_found(claimed: int) -> None:
    class Claims(nn.Module):
        receptive_field = claimed

        def forward(self, x: Tensor) -> Tensor:
            return F.conv1d(F.pad(x, (4, 0)), torch.ones(1, 2, 5, dtype=x.dtype))

    message = f"its receptive field is {claimed} samples, .* reach over 5"
    with pytest.raises(AssertionError, match=message):
        assert_causal(Claims(), noise(1, 2, 20))
    with pytest.raises(AssertionError, match=message):
        assert_receptive_field(Claims(), noise(1, 2, 20))
    assert_receptive_field(Claims(), noise(1, 2, 20), receptive_field=5)
    with pytest.raises(ValueError, match=r"receptive field of 30 samples .* longer"):
        assert_receptive_field(Claims(), noise(1, 2, 20), receptive_field=30)


class Silent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def init_state(self, batch_size: int) -> tuple[()]:
        return ()

    def step(self, x: Tensor, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        return self(x), ()


@pytest.mark.parametrize(
    ("test", "module", "inputs", "error", "message"),
    [
        (assert_causal, Silent(), [noise(1, 2, 9)], AssertionError, "nothing was tested"),
        (assert_streams, Silent(), [noise(1, 2, 9)], ValueError, "tests nothing"),
        (assert_streams, Summer(), [noise(1, 2, 1)], ValueError, "An input of 1 samples"),
        (assert_causal, Summer(), [], ValueError, "Give what forward takes"),
        (assert_causal, Summer(), [noise(9)], ValueError, "Give what forward takes"),
        (assert_causal, nn.Dropout(0.5), [noise(1, 2, 9)], ValueError, r"call eval\(\)"),
    ],
)
def test_what_would_test_nothing_is_refused(
    test: Any, module: nn.Module, inputs: list[Tensor], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        test(module, *inputs)


@pytest.mark.parametrize(("time", "history"), [(7, 0), (7, 3), (40, 12), (1000, 5), (2, 2000)])
def test_every_cutting_is_of_the_whole_clip(time: int, history: int) -> None:
    ways = cuttings(time, history)
    assert [time] in ways and len(ways) >= 4
    assert all(sum(lengths) == time and min(lengths) > 0 for lengths in ways)
    with pytest.raises(ValueError, match="A cutting of 6 samples was given for 30"):
        assert_streams(Summer(), noise(3, 2, 30), cuts=[[3, 3]])
