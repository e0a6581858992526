"""What frozen kernels see in a sequence: the shares of time and space in which their responses are above thresholds."""

import contextlib
import functools
import itertools
import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

N_DILATIONS = 7
N_COMPETING = 8  # kernels of a group, of which one responds most at a step
N_THRESHOLDS = 5
N_PARTS = 8  # of the time, with shares of their own
_FEWEST_STEPS = 8  # where there are many channels
MOST_PIXELS = {0: 1, 1: 128, 2: 32, 3: 16}  # along each axis of space, by the number of axes
_VALUE_CELLS = {0: 1, 1: 16, 2: 12, 3: 6}
_SHARE_CELLS = {0: 1, 1: 4, 2: 4, 3: 2}
_SOFTNESS = 0.05  # width of a threshold, in standard deviations of the response
_RIVALRY = 0.05  # the same, by which a kernel is to respond more than another one of its group
_LEAST_SUM = 1e-3  # added to what competing kernels sum up, before its root is taken
_MOST_DEVIATIONS = 10.0  # of a value from its channel's mean
LEAST_SPREAD = 0.01  # of a feature, by which it is divided: what hardly ever varied in training is not magnified
_GRID = 2.0**13  # values per standard deviation: few enough that float32 holds every sum of a response exactly
_WEIGHT_GRID = 2.0**8  # values per unit of a competing kernel's weights: few enough for TF32
_COARSE_GRID = 2.0**4  # so few that TF32, in which CUDA devices convolve, holds what is on it, and the rest of a value
FEW_SAMPLES = 2000  # of more there are fewer kernels, caution, other mixes (not of classifiers of series)
_POOLS = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


class Fineness(NamedTuple):
    """How finely levels are told: in how many parts of the time at most, and whether the past fades."""

    steps: int  # of a channel
    values: int  # of all channels together, unless the fewest parts are more
    fades: bool = False  # whether of few images or volumes what is long ago is taken to tell less


FOR_CLASSES = Fineness(32, 1024)
FOR_NUMBERS = Fineness(128, 2048, fades=True)  # of series: a forecast of tomorrow is read off each hour of today


class Mix(NamedTuple):
    """How ridge regression may weigh groups of features."""

    shares: tuple[float, ...]  # of the groups in the variance of all features
    rank: int | None = None  # how many principal components are read at most
    lead: float = 0.0  # by how many standard errors it has to be better than the best one before it
    gain: float = 0.0  # by which share of the squared error
    fades: bool = False  # whether what is long ago is to tell less


_MIXES = Mix((1, 0, 0)), Mix((1, 5, 1)), Mix((0, 5, 1))
_MIXES_OF_MANY = Mix((1, 0, 0)), Mix((1, 5, 0))
_MIXES_OF_COMPETITION = Mix((0, 0, 0, 1)), Mix((1, 0, 0, 0), lead=4.0, gain=0.1)  # the kernels see none
_MIXES_OF_CHANGES = Mix((1, 0)), Mix((1, 0.5), lead=4.0, gain=0.02)  # a walk seems to come back, in hindsight
_MOVEMENTS = Mix((0, 1, 1, 0), lead=2.0)
_MIXES_OF_FRAMES = Mix((1, 0, 0, 0), rank=20), Mix((1, 0, 0, 0), lead=2.0), _MOVEMENTS  # fields vary in few ways
_MIXES_THAT_FADE = Mix((1, 0, 0, 0), rank=20, fades=True), *(mix._replace(lead=2.0) for mix in _MIXES_OF_FRAMES)
_MIXES_OF_MANY_FRAMES = Mix((1, 0, 0, 0)), _MOVEMENTS


def _in_float32(method):
    """The method of X outside of autocast: thresholds are steep, and what is solved for nearly cancels."""

    @functools.wraps(method)
    def wrapped(self, X, *args, **keywords):
        device = X.device.type
        can_cast = torch.amp.is_autocast_available(device)
        with torch.autocast(device, enabled=False) if can_cast else contextlib.nullcontext():
            return method(self, X, *args, **keywords)

    return wrapped


class KernelBank(nn.Module):
    """Features of standardised sequences (batch, time, *space, channel) that no training changes.

    Behind the channels of `sample_shape` stand `n_indicators` of missing values, of which the levels alone are read.

    The kernels are MiniRocket's (Dempster et al., KDD 2021): length 9, three weights of 2 among six of -1, dilations up
    to an eighth of the axis, each on a random subset of the channels. Here they lie along time and along each axis of
    space, and a threshold is a short ramp, so that gradients to the input exist. Side by side stand

    - levels: mean, standard deviation, least, greatest and last value of each channel, then its mean in parts
      of the time, of as many as the `fineness` says; on a grid of cells, if there is space;
    - changes, of images and volumes: the same of the absolute differences between frames;
    - whole: the share of time and space in which the response of a kernel is above each of its thresholds;
    - parts: for each eighth of the time, that share for the middle threshold, on a coarser grid of cells;
    - competition: what `n_groups` groups of CompetingKernels see in series.

    In images and volumes the kernels see what moves: frames less their mean over time.
    """

    def __init__(self, sample_shape, n_kernels, n_indicators=0, n_groups=0, *, fineness=FOR_CLASSES):
        super().__init__()
        n_timesteps, *space, n_channels = sample_shape
        self.n_channels = n_channels
        self.pixels, self.value_cells, self.share_cells = (
            [min(side, most[len(space)]) for side in space] for most in (MOST_PIXELS, _VALUE_CELLS, _SHARE_CELLS)
        )
        self.n_steps = _n_steps(n_timesteps, n_channels, FOR_CLASSES if space else fineness)
        self.fades = fineness.fades
        axes = enumerate([n_timesteps, *self.pixels])
        self.places = [(axis, dilation) for axis, length in axes for dilation in _dilations(length)][:n_kernels]
        self.sizes = [len(part) for part in torch.arange(n_kernels).tensor_split(len(self.places))]
        self.register_buffer("weight", torch.cat([_kernels(size, n_channels) for size in self.sizes]))
        self.register_buffer("threshold", torch.zeros(n_kernels, N_THRESHOLDS))
        self.register_buffer("softness", torch.ones(n_kernels, 1))

        self.of_frames = len(space) >= 2
        of_channel = 5 + self.n_steps  # levels, if there is no space
        n_levels = of_channel * math.prod(self.value_cells) * (n_channels + n_indicators)
        levels = (n_levels, n_levels) if self.of_frames else (n_levels,)
        self.part_width = n_kernels * math.prod(self.share_cells)
        self.n_flat = sum(levels) + n_kernels * N_THRESHOLDS
        self.competing = CompetingKernels(sample_shape, n_groups) if n_groups else None
        competition = (self.competing.width,) if n_groups else ()
        self.blocks = *levels, n_kernels * N_THRESHOLDS, N_PARTS * self.part_width, *competition
        self.width = sum(self.blocks)

    @_in_float32
    def forward(self, X, lengths=None):  # (batch, time, *space, channel)
        lengths = lengths if lengths is None else lengths.to(X.device)
        X = self._maps(X)
        whole, parts = [], []
        for R, threshold, softness in self._responses(X, lengths):
            shares = [((R - t) / softness + 0.5).clamp(0, 1) for t in threshold]  # (batch, kernel, time, pixel)
            whole += [_over_time(share.mean(3), 1, lengths) for share in shares]
            cells = _on_grid(shares[N_THRESHOLDS // 2], self.pixels, self.share_cells)
            parts.append(_over_time(cells.mT.flatten(1, 2), N_PARTS, lengths))  # (batch, kernel * cell, part)
        parts = torch.cat(parts, dim=1).mT
        levels = [self._levels(X, lengths)]
        if self.of_frames:
            levels.append(self._levels(_differences(X, lengths).abs(), lengths))
        competition = [] if self.competing is None else [self.competing(X[:, : self.n_channels], lengths)]
        return torch.cat([*levels, *(share.flatten(1) for share in whole), parts.flatten(1), *competition], dim=1)

    def mixes(self, n_samples):
        """Mixes of the groups to choose from, where so many samples are fitted."""
        if self.competing is not None:
            return _MIXES_OF_COMPETITION
        if not self.of_frames:
            return _MIXES if n_samples <= FEW_SAMPLES else _MIXES_OF_MANY
        of_few = _MIXES_THAT_FADE if self.fades else _MIXES_OF_FRAMES
        return of_few if n_samples <= FEW_SAMPLES else _MIXES_OF_MANY_FRAMES

    def units(self):
        """For each feature a number, the same for all cells of an image: what varies more tells more."""
        units = torch.arange(self.width)
        if self.of_frames:
            n_cells = self.n_channels * math.prod(self.value_cells)  # but those of indicators, which have a unit each
            for levels in units.split(self.blocks)[:2]:
                levels[: n_cells * (5 + self.n_steps)] = int(levels[0])
        return units

    def fading(self):
        """For each feature how much it tells where the past fades: of the levels, the later a part of the time is."""
        levels, *others = torch.ones(self.width).split(self.blocks)
        of_channel = torch.cat([torch.zeros(5), 1 / torch.arange(self.n_steps, 0, -1)])
        return torch.cat([of_channel.repeat(len(levels) // len(of_channel)), *others])

    def split(self, features):
        """The features of all of the time (batch, number), and those of its parts (batch, part, number)."""
        flat, parts = features[:, : self.n_flat], features[:, self.n_flat :][:, : N_PARTS * self.part_width]
        return flat, parts.unflatten(1, (N_PARTS, self.part_width))

    @_in_float32
    def calibrate(self, X, lengths=None):
        """Set the thresholds at quantiles of the responses to some training samples, spread over (0, 1)."""
        lengths = lengths if lengths is None else lengths.to(X.device)
        X = self._maps(X)
        thresholds, deviations = [], []
        for R, *_ in self._responses(X, lengths):
            R = R.transpose(0, 1)  # (kernel, batch, time, pixel)
            R = R.flatten(1) if lengths is None else R[:, _is_valid(R.shape[2], lengths)].flatten(1)
            golden = (torch.arange(1, len(R) * N_THRESHOLDS + 1, device=R.device) * 0.618034) % 1
            order = (golden.view(N_THRESHOLDS, len(R)).mT.sort(dim=1).values * R.shape[1]).long()
            thresholds.append(R.sort(dim=1).values.gather(1, order))
            deviations.append(R.std(dim=1, correction=0))
        self.threshold.copy_(torch.cat(thresholds))
        self.softness.copy_(_SOFTNESS * torch.cat(deviations)[:, None] + 1e-6)
        if self.competing is not None:
            self.competing.calibrate(X[:, : self.n_channels], lengths)

    def _maps(self, X):
        """(batch, channel, time, *pixel): values cut to what can be trusted, frames averaged to a moderate size."""
        X = _rounded(X.clamp(-_MOST_DEVIATIONS, _MOST_DEVIATIONS)).movedim(-1, 1)
        if list(X.shape[3:]) == self.pixels:
            return X
        frames = _rounded(_POOLS[len(self.pixels)](X.transpose(1, 2).flatten(0, 1), self.pixels))
        return frames.unflatten(0, (X.shape[0], X.shape[2])).transpose(1, 2)

    def _responses(self, X, lengths):
        """For each place: responses (batch, kernel, time, pixel), thresholds and softness of its kernels."""
        X = X[:, : self.n_channels]
        if self.of_frames:
            X = _rounded(_movements(X, lengths))
        of_places = (values.split(self.sizes) for values in (self.weight, self.threshold, self.softness))
        for (axis, dilation), weight, threshold, softness in zip(self.places, *of_places, strict=True):
            lines = X.movedim(2 + axis, -1).movedim(1, -2)  # (batch, *other axis, channel, length)
            R = _convolved(lines.flatten(0, -3), weight, dilation)
            R = R.unflatten(0, lines.shape[:-2]).movedim(-2, 1).movedim(-1, 2 + axis)
            yield R.flatten(3) if R.ndim > 3 else R.unsqueeze(3), threshold.mT[:, :, None, None], softness[:, :, None]

    def _levels(self, X, lengths):
        V = _on_grid(X.flatten(3) if X.ndim > 3 else X.unsqueeze(3), self.pixels, self.value_cells)
        return _levels(V.mT.flatten(1, 2), self.n_steps, lengths).flatten(1)  # of each channel in each cell


class Levels(nn.Module):
    """Levels of each channel of standardised series (batch, time, channel), as a regressor's KernelBank has them."""

    of_frames = False
    n_of_all_time = 5  # levels of a channel beside those of parts of the time

    def __init__(self, sample_shape):
        super().__init__()
        n_timesteps, self.n_channels = sample_shape
        self.n_steps = _n_steps(n_timesteps, self.n_channels, FOR_NUMBERS)
        self.width = (self.n_of_all_time + self.n_steps) * self.n_channels
        self.blocks = (self.width,)

    def forward(self, X, lengths=None):
        return self._of_channels(X, lengths).flatten(1)

    def _of_channels(self, X, lengths):
        return _levels(X[..., : self.n_channels].mT, self.n_steps, lengths)  # (batch, channel, level)

    def mixes(self, n_samples):
        return (Mix((1,)),)

    def units(self):
        return torch.arange(self.width)

    def fading(self):
        return torch.ones(self.width)

    def calibrate(self, X, lengths=None):
        pass


class LevelsFromLast(Levels):
    """Levels of each channel, measured from its last value: those tell changes from there, wherever it is.

    With `knows_last` the last values stand beside them, as what is high may fall. They are read where folds of
    neighbours, among which levels drift as they will, are predicted clearly better.
    """

    n_of_all_time = 4  # the last one is 0

    def __init__(self, sample_shape, *, knows_last):
        super().__init__(sample_shape)
        self.knows_last = knows_last
        if knows_last:
            self.blocks = self.width, self.n_channels
            self.width += self.n_channels

    def forward(self, X, lengths=None):
        levels = self._of_channels(X, lengths)
        mean, deviation, least, greatest, last, steps = levels.split([1, 1, 1, 1, 1, self.n_steps], dim=2)
        levels = torch.cat([deviation, *(level - last for level in (mean, least, greatest, steps))], dim=2).flatten(1)
        return torch.cat([levels, last.flatten(1)], dim=1) if self.knows_last else levels

    def mixes(self, n_samples):
        return _MIXES_OF_CHANGES if self.knows_last else super().mixes(n_samples)


def _n_steps(n_timesteps, n_channels, fineness):
    """Into how many parts the time is divided whose mean values are features of each channel."""
    return min(n_timesteps, fineness.steps, max(_FEWEST_STEPS, fineness.values // n_channels))


def _levels(V, n_steps, lengths):
    """(batch, row, level) of V (batch, row, time): mean, deviation, least, greatest, last, means of parts of time."""
    mean = _over_time(V, 1, lengths)
    variance = _over_time((V - mean) ** 2, 1, lengths)
    valid = torch.ones_like(V[:, :1], dtype=torch.bool)
    last = V[:, :, -1:]
    if lengths is not None:
        lengths = lengths.to(V.device)
        valid = _is_valid(V.shape[2], lengths)[:, None]
        last = V.gather(2, (lengths - 1)[:, None, None].expand(-1, V.shape[1], 1))
    least = V.masked_fill(~valid, torch.inf).amin(2, keepdim=True)
    greatest = V.masked_fill(~valid, -torch.inf).amax(2, keepdim=True)
    deviation = variance.clamp(min=1e-12).sqrt()
    return torch.cat([mean, deviation, least, greatest, last, _over_time(V, n_steps, lengths)], dim=2)


class CompetingKernels(nn.Module):
    """How much, and how often, each kernel of a group responds most to standardised series (batch, channel, time).

    The kernels are Hydra's (Dempster et al., Data Mining and Knowledge Discovery 37, 2023): of length 9 and random
    weights, in groups of eight, half of the groups on the series and half on its differences, each on the sum of a
    random subset of the channels. Features are the square roots of two means over time: of the response where it is the
    greatest one of its group and positive, and of whether it is the least one. Here the greatest is a soft one, so that
    gradients to the input exist.
    """

    def __init__(self, sample_shape, n_groups):
        super().__init__()
        n_timesteps, n_channels = sample_shape
        self.dilations = _dilations(n_timesteps)
        self.n_groups = n_groups // 2  # on the series, and as many on its differences
        n_kinds = 2 * len(self.dilations)
        weight = torch.randn(n_kinds, self.n_groups * N_COMPETING, 1, 9)
        weight = _rounded(weight - weight.mean(-1, keepdim=True), _WEIGHT_GRID)
        weight[..., -1] -= weight.sum(-1)  # 0 after rounding, too: no level is seen
        self.register_buffer("weight", weight)
        subsets = _subsets(n_kinds * self.n_groups, n_channels)
        self.register_buffer("mixture", subsets.float().view(n_kinds, self.n_groups, n_channels))
        self.register_buffer("scale", torch.ones(n_kinds))
        self.width = 2 * n_kinds * self.n_groups * N_COMPETING

    def forward(self, X, lengths=None):  # (batch, channel, time)
        means = []
        for R, scale in zip(self._responses(X, lengths), self.scale, strict=True):
            R = R / scale
            most = (R / _RIVALRY).softmax(2) * R.clamp(min=0)
            least = (-R / _RIVALRY).softmax(2)
            means += [_over_time(V.flatten(1, 2), 1, lengths).flatten(1) for V in (most, least)]
        return (torch.cat(means, dim=1) + _LEAST_SUM).sqrt()

    def calibrate(self, X, lengths=None):
        """Learn from some training samples how far responses spread."""
        for i, R in enumerate(self._responses(X, lengths)):
            R = R if lengths is None else R.movedim(-1, 1)[_is_valid(R.shape[-1], lengths)]
            self.scale[i] = R.std(correction=0) + 1e-6

    def _responses(self, X, lengths):
        """(batch, group, kernel, time) for each dilation, of the series and of its differences."""
        D = _differences(X, lengths)
        kinds = itertools.product(self.dilations, (X, D))
        for (dilation, Z), weight, mixture in zip(kinds, self.weight, self.mixture, strict=True):
            R = _convolved(mixture @ Z, weight, dilation, groups=self.n_groups)
            yield R.unflatten(1, (self.n_groups, N_COMPETING))


def _rounded(X, grid=_GRID):
    """X on a grid, so that its sums do not depend on their order, which changes with the samples beside it.

    A threshold is steep: it would magnify the rounding of a response. Gradients pass through.
    """
    return X + ((X * grid).round() / grid - X).detach()


def _convolved(lines, weight, dilation, groups=1):
    """Responses as long as the lines, whatever a CUDA device is allowed to round to in a convolution."""

    def convolve(X):
        return F.conv1d(X, weight, padding=4 * dilation, dilation=dilation, groups=groups)

    return convolve(lines) if lines.device.type != "cuda" else sum(map(convolve, _in_two(lines)))


def _in_two(X):
    """Two addends of rounded X that TF32 and float16 hold exactly."""
    coarse = _rounded(X, _COARSE_GRID)
    return coarse, X - coarse


def _dilations(length):
    """Up to seven, spread evenly on a logarithmic scale from 1 to an eighth of the axis."""
    largest = max(1, (length - 1) // 8)
    return sorted({int(largest ** (i / (N_DILATIONS - 1)) + 1e-9) for i in range(N_DILATIONS)})


def _kernels(n_kernels, n_channels):
    """(kernel, channel, 9) weights: each kernel one of the 84 patterns, on a random subset of the channels."""
    patterns = torch.full((84, 9), -1.0)
    for row, places in zip(patterns, itertools.combinations(range(9), 3), strict=True):
        row[list(places)] = 2.0
    rows = torch.cat([torch.randperm(84) for _ in range(-(-n_kernels // 84))])[:n_kernels]
    return patterns[rows][:, None, :] * _subsets(n_kernels, n_channels)[:, :, None]


def _subsets(n, n_channels):
    """(n, channel): which channels belong to each of n random subsets, of 1 to 9, small ones more often."""
    n_used = (min(n_channels, 9) ** torch.rand(n)).round()
    ranks = torch.rand(n, n_channels).argsort(dim=1).argsort(dim=1)
    return ranks < n_used[:, None]


def _is_valid(n_timesteps, lengths):
    return torch.arange(n_timesteps, device=lengths.device) < lengths[:, None]


def _movements(X, lengths):
    """X (batch, channel, time, *pixel) less its mean over the valid time, 0 behind its end."""
    if lengths is None:
        return X - X.mean(2, keepdim=True)
    mean = X.sum(2, keepdim=True) / lengths.reshape(-1, *[1] * (X.ndim - 1))
    return (X - mean) * _like(_is_valid(X.shape[2], lengths), X)


def _differences(X, lengths):
    """Differences between steps of X (batch, channel, time, *pixel), 0 for the first one and behind the end."""
    D = torch.cat([torch.zeros_like(X[:, :, :1]), X.diff(dim=2)], dim=2)
    return D if lengths is None else D * _like(_is_valid(X.shape[2], lengths), X)


def _like(valid, X):
    """(batch, time) in the axes of X (batch, channel, time, *pixel)."""
    return valid.reshape(len(X), 1, -1, *[1] * (X.ndim - 3))


def _over_time(V, n_parts, lengths):
    """Means of V (batch, row, time) within parts of the valid time as equal as possible: (batch, row, part)."""
    n_timesteps = V.shape[2]
    length = torch.tensor([n_timesteps], device=V.device) if lengths is None else lengths
    part = torch.arange(n_parts, device=V.device)
    start = length[:, None] * part // n_parts
    end = -(-length[:, None] * (part + 1) // n_parts)
    step = torch.arange(n_timesteps, device=V.device)[:, None]
    inside = (step >= start[:, None]) & (step < end[:, None])  # (batch or 1, time, part)
    return V @ (inside / (end - start)[:, None]).to(V.dtype)


def _on_grid(V, pixels, cells):
    """Means of V (batch, row, time, pixel) over the cells of a coarser grid."""
    if list(pixels) == list(cells):
        return V
    return _POOLS[len(pixels)](V.unflatten(3, pixels).flatten(1, 2), cells).flatten(2).unflatten(1, V.shape[1:3])
