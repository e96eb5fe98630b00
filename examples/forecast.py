"""A forecast with its uncertainty, of a signal that is no audio: three sensors of a building.

    python examples/forecast.py [--steps 800] [--out forecast.png]

Heat, power and water, an hour a sample: rhythms of a day and a week, levels that shift for good,
noise that is stronger by day and comes and goes for weeks. A causal stack of the library's blocks
reads the past and gives, for each sensor, a Gaussian of the next hour: p(x_{t+1} | x_1 ... x_t).
The clock of the hour that is predicted steers every block, since that is known in advance.

Training is in parallel over the hours, and the likelihood is exact. Forecasts are drawn: `step`
reads the past once, its state is handed to as many paths as are wanted, and every path goes on,
hour by hour, with what it drew. They are compared with the seasonal naive forecast: the same hour
a week before, and around it the errors that this made in the training data.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from wavenet import Block, CausalConv1d, Chain, FiLM, Gated, Residual, Select, Stack
from wavenet.plotting import save_figure

SENSORS = ("heat", "power", "water")
DAY, WEEK = 24, 7 * 24  # hours
TRAIN, TEST = 100 * WEEK, 10 * WEEK
HORIZON, PATHS = 3 * DAY, 200  # hours ahead; drawn for each forecast
CLOCK = 6  # channels of `clock`


def clock(hours: Tensor) -> Tensor:
    """Hours since the beginning (T,) -> what a calendar says of them, (6, T)."""
    day, week = 2 * math.pi * hours / DAY, 2 * math.pi * hours / WEEK
    return torch.stack([f(x) for x in (day, 2 * day, week) for f in (torch.sin, torch.cos)])


def sensors(hours: int, seed: int = 0) -> Tensor:
    """(3, hours), synthesised: rhythms, levels that shift, noise of a changing deviation."""
    generator = torch.Generator().manual_seed(seed)
    time, series = torch.arange(hours), []
    for number in range(len(SENSORS)):
        hour, weekend = time % DAY, (time // DAY) % 7 >= 5
        peaks = torch.tensor([8.0, 13.0, 19.0])[number], torch.tensor([20.0, 17.0, 7.0])[number]
        rhythm = sum(torch.exp(-((((hour - peak + 12) % DAY - 12) / 2.5) ** 2)) for peak in peaks)
        shifts = (torch.rand(hours, generator=generator) < 1 / (6 * WEEK)).float()
        level = (shifts * torch.randn(hours, generator=generator)).cumsum(0)
        calm = torch.sin(2 * math.pi * time / (5 * WEEK) + number).exp()  # for weeks
        deviation = 0.12 * calm * (1 + 1.5 * rhythm)
        noise, memory = torch.zeros(hours), 0.0
        for t, e in enumerate((deviation * torch.randn(hours, generator=generator)).tolist()):
            noise[t] = memory = 0.7 * memory + e
        series.append(
            level + rhythm * torch.where(weekend, 0.4, 1.0) * (1.5 + 0.5 * number) + noise
        )
    return torch.stack(series)


class Forecaster(nn.Module):
    """x (B, 3, T), clock of the hours after them (B, 6, T) -> mean and log deviation (B, 6, T)."""

    def __init__(self, channels: int = 32, layers: int = 8) -> None:
        super().__init__()
        self.network = Chain(
            CausalConv1d(len(SENSORS), channels, 1),
            Select(Stack(self._block(channels, 2**layer) for layer in range(layers)), 1),
            nn.ReLU(),
            nn.Conv1d(channels, channels, 1),
            nn.ReLU(),
            nn.Conv1d(channels, 2 * len(SENSORS), 1),
        )

    def _block(self, channels: int, dilation: int) -> Block:
        return Block(
            dilated=CausalConv1d(channels, 2 * channels, 2, dilation=dilation),
            steer=FiLM(CLOCK, 2 * channels),
            gate=Gated(),
            mix=Residual(channels, channels),
            skip=nn.Conv1d(channels, channels, 1),
        )

    @property
    def receptive_field(self) -> int:
        """Hours."""
        return self.network.receptive_field

    def init_state(self, batch_size: int) -> Any:
        return self.network.init_state(batch_size)

    def forward(self, x: Tensor, clock: Tensor) -> Normal:
        """Of the hours after x (B, 3, T); clock (B, 6, T) is theirs."""
        return self._after(x, self.network(x, clock))

    def step(self, x: Tensor, state: Any, clock: Tensor) -> tuple[Normal, Any]:
        """The next n hours and the state -> of the hours after them, and the new state."""
        made, state = self.network.step(x, state, clock)
        return self._after(x, made), state

    def _after(self, x: Tensor, made: Tensor) -> Normal:
        change, log_deviation = made.chunk(2, dim=1)
        return Normal(x + change, log_deviation.clamp(-7, 3).exp())


def train(model: Forecaster, series: Tensor, steps: int, crop: int = 2 * 256) -> None:
    """By the likelihood of crops of the series (3, T), where the past is as long as is seen."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    hours = torch.arange(crop)
    for _ in range(steps):
        starts = torch.randint(series.shape[1] - crop, (16, 1))
        x = series[:, starts + hours].transpose(0, 1)  # (B, 3, T)
        now = clock((starts + hours).flatten()).unflatten(1, (16, crop)).transpose(0, 1)
        predicted = model(x[..., :-1], now[..., 1:])
        loss = -predicted.log_prob(x[..., 1:])[..., model.receptive_field :].mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay.step()


@torch.no_grad()
def nats(model: Forecaster, series: Tensor, first: int) -> float:
    """-ln p of a value, mean over the hours from `first` on, each given all before it."""
    predicted = model(series[None, :, :-1], clock(torch.arange(1, series.shape[1]))[None])
    return float(-predicted.log_prob(series[None, :, 1:])[..., first - 1 :].mean())


@torch.no_grad()
def forecast(model: Forecaster, series: Tensor, origins: list[int], paths: int) -> Tensor:
    """Drawn paths of the HORIZON hours from each origin on, (origins, paths, 3, HORIZON).

    Of each past, `step` reads as much as the model sees; then it goes on from its own draws.
    """
    seen = model.receptive_field
    past = torch.stack([series[:, origin - seen : origin] for origin in origins])
    hours = torch.stack([torch.arange(o - seen + 1, o + HORIZON + 1) for o in origins])
    now = torch.stack([clock(each) for each in hours])
    predicted, state = model.step(past, model.init_state(len(origins)), now[..., :seen])
    mean, deviation = (
        p[..., -1:].repeat_interleave(paths, 0) for p in (predicted.mean, predicted.stddev)
    )
    predicted, state, drawn = Normal(mean, deviation), repeated(state, paths), []
    for hour in now[..., seen:].repeat_interleave(paths, 0).split(1, dim=-1):
        drawn.append(predicted.sample())
        predicted, state = model.step(drawn[-1], state, hour)
    return torch.cat(drawn, dim=-1).unflatten(0, (len(origins), paths))


def repeated(state: Any, paths: int) -> Any:
    """A state of B streams -> of B * paths: a state is a value, so that it can be forked."""
    if isinstance(state, Tensor):
        return state.repeat_interleave(paths, 0)
    return tuple(repeated(part, paths) for part in state)


def naive(series: Tensor, origins: list[int], paths: int) -> Tensor:
    """Seasonal naive paths: the hour a week before, and an error of the training data."""
    errors = series[:, WEEK:TRAIN] - series[:, : TRAIN - WEEK]
    before = torch.stack([series[:, o - WEEK : o - WEEK + HORIZON] for o in origins])
    chosen = torch.randint(errors.shape[1], (len(origins), paths, HORIZON))
    return before[:, None] + errors[:, chosen].movedim(0, 2)


def naive_nats(series: Tensor, lag: int) -> float:
    """-ln p of a value of the test hours, by a Gaussian around the value `lag` hours before."""
    errors = series[:, lag:] - series[:, :-lag]
    deviation = errors[:, : TRAIN - lag].std(dim=1, keepdim=True)
    return float(-Normal(0.0, deviation).log_prob(errors[:, TRAIN - lag :]).mean())


def crps(paths: Tensor, truth: Tensor) -> float:
    """E|X - y| - E|X - X'| / 2 over paths (N, P, ...), of truth (N, ...); mean, lower is better.

    Gneiting and Raftery 2007, equation 21; without the pairs of a path with itself.
    """
    count = paths.shape[1]
    ranks = 2 * torch.arange(1, count + 1) - count - 1
    spread = (paths.sort(dim=1).values.movedim(1, -1) * ranks).sum(-1) / (count * (count - 1))
    return float(((paths - truth[:, None]).abs().mean(dim=1) - spread).mean())


def coverage(paths: Tensor, truth: Tensor, share: float = 0.8) -> float:
    """How many of the true values lie within the paths' middle `share`."""
    edges = torch.tensor([(1 - share) / 2, (1 + share) / 2])
    low, high = paths.quantile(edges, dim=1)
    return float(((low <= truth) & (truth <= high)).float().mean())


def fan(series: Tensor, origin: int, paths: Tensor) -> Any:
    """A figure: a week before the origin, what came, and the paths' (P, 3, HORIZON) intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.5), layout="constrained")
    axes = figure.subplots(len(SENSORS), 1, sharex=True)
    ahead, seen = torch.arange(HORIZON), torch.arange(-WEEK, HORIZON)
    for number, (axis, name) in enumerate(zip(axes, SENSORS, strict=True)):
        axis.plot(seen, series[number, origin - WEEK : origin + HORIZON], "k", linewidth=0.9)
        for share in (0.95, 0.8, 0.5):
            edges = torch.tensor([(1 - share) / 2, (1 + share) / 2])
            low, high = paths[:, number].quantile(edges, dim=0)
            label = f"{share:.0%} of the paths"
            axis.fill_between(ahead, low, high, color="tab:blue", alpha=0.25, label=label)
        axis.plot(ahead, paths[:, number].median(dim=0).values, "tab:blue", linewidth=1)
        axis.axvline(0, color="tab:orange", linestyle="--", linewidth=1)
        axis.set(ylabel=name)
    axes[0].legend(loc="upper left", fontsize=8)
    axes[-1].set(xlabel="hours from the forecast on")
    return figure


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Forecast three sensors, with the uncertainty.")
    parser.add_argument("--steps", type=int, default=800, help="of training (%(default)s)")
    parser.add_argument("--paths", type=int, default=100, help="of a forecast (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("forecast.png"), help="(%(default)s)")
    args = parser.parse_args(arguments)
    torch.manual_seed(0)
    series = sensors(TRAIN + TEST)
    level, scale = (f(series[:, :TRAIN], dim=1, keepdim=True) for f in (torch.mean, torch.std))
    series = (series - level) / scale
    model = Forecaster()
    train(model, series[:, :TRAIN], args.steps)
    print(
        f"one hour ahead, nats a value: {nats(model, series, TRAIN):.3f}; of a Gaussian around "
        f"the hour before {naive_nats(series, 1):.3f}, a week before {naive_nats(series, WEEK):.3f}"
    )
    origins = list(range(TRAIN, TRAIN + TEST - HORIZON, 31))  # at all hours of the day
    truth = torch.stack([series[:, origin : origin + HORIZON] for origin in origins])
    print(f"{HORIZON} hours ahead, {len(origins)} forecasts   CRPS   within the 80% interval")
    drawn = forecast(model, series, origins, args.paths)
    for name, paths in (("model", drawn), ("seasonal naive", naive(series, origins, args.paths))):
        print(f"{name:32} {crps(paths, truth):.3f}   {coverage(paths, truth):.1%}")
    save_figure(args.out, fan(series, origins[1], drawn[1]))
    print(args.out)


if __name__ == "__main__":
    main()
