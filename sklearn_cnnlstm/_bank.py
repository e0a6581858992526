"""What frozen kernels see in a sequence: the shares of time and space in which their responses are above thresholds."""

import itertools
import math

import torch
from torch import nn
from torch.nn import functional as F

N_DILATIONS = 7
N_THRESHOLDS = 5
N_PARTS = 8  # of the time, with shares of their own
_MOST_STEPS = 32  # parts of the time whose mean values are features
MOST_PIXELS = {0: 1, 1: 128, 2: 32, 3: 16}  # along each axis of space, by the number of axes
_VALUE_CELLS = {0: 1, 1: 16, 2: 12, 3: 6}
_SHARE_CELLS = {0: 1, 1: 4, 2: 4, 3: 2}
_SOFTNESS = 0.05  # width of a threshold, in standard deviations of the response
_MOST_DEVIATIONS = 10.0  # of a value from its channel's mean
LEAST_SPREAD = 0.01  # of a feature, by which it is divided: what hardly ever varied in training is not magnified
_GRID = 2.0**13  # values per standard deviation: few enough that float32 holds every sum of a response exactly
FEW_SAMPLES = 2000  # of more series there are fewer kernels, and mixes without the parts, which are most features
_MIXES = (1, 0, 0), (1, 5, 1), (0, 5, 1)
_MIXES_OF_MANY = (1, 0, 0), (1, 5, 0)
_MIXES_OF_FRAMES = (1, 0, 0, 0), (0, 1, 1, 0)
_POOLS = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


class KernelBank(nn.Module):
    """Features of standardised sequences (batch, time, *space, channel) that no training changes.

    Behind the channels of `sample_shape` stand `n_indicators` of missing values, of which the levels alone are read.

    The kernels are MiniRocket's (Dempster et al., KDD 2021): length 9, three weights of 2 among six of -1, dilations up
    to an eighth of the axis, each on a random subset of the channels. Here they lie along time and along each axis of
    space, and a threshold is a short ramp, so that gradients to the input exist. Side by side stand

    - levels: mean, standard deviation, least, greatest and last value of each channel, then its mean in up to 32 parts
      of the time; on a grid of cells, if there is space;
    - changes, of images and volumes: the same of the absolute differences between frames;
    - whole: the share of time and space in which the response of a kernel is above each of its thresholds;
    - parts: for each eighth of the time, that share for the middle threshold, on a coarser grid of cells.

    In images and volumes the kernels see what moves: frames less their mean over time.
    """

    def __init__(self, sample_shape, n_kernels, n_indicators=0):
        super().__init__()
        n_timesteps, *space, n_channels = sample_shape
        self.n_channels = n_channels
        self.pixels, self.value_cells, self.share_cells = (
            [min(side, most[len(space)]) for side in space] for most in (MOST_PIXELS, _VALUE_CELLS, _SHARE_CELLS)
        )
        self.n_steps = min(n_timesteps, _MOST_STEPS)
        axes = enumerate([n_timesteps, *self.pixels])
        self.places = [(axis, dilation) for axis, length in axes for dilation in _dilations(length)][:n_kernels]
        self.sizes = [len(part) for part in torch.arange(n_kernels).tensor_split(len(self.places))]
        self.register_buffer("weight", torch.cat([_kernels(size, n_channels) for size in self.sizes]))
        self.register_buffer("threshold", torch.zeros(n_kernels, N_THRESHOLDS))
        self.register_buffer("softness", torch.ones(n_kernels, 1))

        self.of_frames = len(space) >= 2
        of_channel = 5 + self.n_steps  # levels, if there is no space; the fifth is the last value
        self.last_columns = range(4, n_channels * of_channel, of_channel) if not space else ()
        n_levels = of_channel * math.prod(self.value_cells) * (n_channels + n_indicators)
        levels = (n_levels, n_levels) if self.of_frames else (n_levels,)
        self.part_width = n_kernels * math.prod(self.share_cells)
        self.blocks = *levels, n_kernels * N_THRESHOLDS, N_PARTS * self.part_width
        self.width = sum(self.blocks)
        self.n_flat = self.width - self.blocks[-1]

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
            levels.append(self._levels(_changes(X, lengths), lengths))
        return torch.cat([*levels, *(share.flatten(1) for share in whole), parts.flatten(1)], dim=1)

    def mixes(self, n_samples):
        """Shares in the variance of all features that the groups may have, where so many samples are fitted."""
        if self.of_frames:
            return _MIXES_OF_FRAMES
        return _MIXES if n_samples <= FEW_SAMPLES else _MIXES_OF_MANY

    def split(self, features):
        """The features of all of the time (batch, number), and those of its parts (batch, part, number)."""
        flat, parts = features.split([self.n_flat, N_PARTS * self.part_width], dim=1)
        return flat, parts.unflatten(1, (N_PARTS, self.part_width))

    def calibrate(self, X, lengths=None):
        """Set the thresholds at quantiles of the responses to some training samples, spread over (0, 1)."""
        lengths = lengths if lengths is None else lengths.to(X.device)
        thresholds, deviations = [], []
        for R, *_ in self._responses(self._maps(X), lengths):
            R = R.transpose(0, 1)  # (kernel, batch, time, pixel)
            R = R.flatten(1) if lengths is None else R[:, _is_valid(R.shape[2], lengths)].flatten(1)
            golden = (torch.arange(1, len(R) * N_THRESHOLDS + 1, device=R.device) * 0.618034) % 1
            order = (golden.view(N_THRESHOLDS, len(R)).mT.sort(dim=1).values * R.shape[1]).long()
            thresholds.append(R.sort(dim=1).values.gather(1, order))
            deviations.append(R.std(dim=1, correction=0))
        self.threshold.copy_(torch.cat(thresholds))
        self.softness.copy_(_SOFTNESS * torch.cat(deviations)[:, None] + 1e-6)

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
            R = F.conv1d(lines.flatten(0, -3), weight, padding=4 * dilation, dilation=dilation)
            R = R.unflatten(0, lines.shape[:-2]).movedim(-2, 1).movedim(-1, 2 + axis)
            yield R.flatten(3) if R.ndim > 3 else R.unsqueeze(3), threshold.mT[:, :, None, None], softness[:, :, None]

    def _levels(self, X, lengths):
        V = _on_grid(X.flatten(3) if X.ndim > 3 else X.unsqueeze(3), self.pixels, self.value_cells)
        V = V.mT.flatten(1, 2)  # (batch, channel * cell, time)
        mean = _over_time(V, 1, lengths)
        variance = _over_time((V - mean) ** 2, 1, lengths)
        valid = torch.ones_like(V[:, :1], dtype=torch.bool)
        last = V[:, :, -1:]
        if lengths is not None:
            valid = _is_valid(V.shape[2], lengths)[:, None]
            last = V.gather(2, (lengths - 1)[:, None, None].expand(-1, V.shape[1], 1))
        least = V.masked_fill(~valid, torch.inf).amin(2, keepdim=True)
        greatest = V.masked_fill(~valid, -torch.inf).amax(2, keepdim=True)
        deviation = variance.clamp(min=1e-12).sqrt()
        steps = _over_time(V, self.n_steps, lengths)
        return torch.cat([mean, deviation, least, greatest, last, steps], dim=2).flatten(1)


def _rounded(X):
    """X on a grid, so that its sums do not depend on their order, which changes with the samples beside it.

    A threshold is steep: it would magnify the rounding of a response. Gradients pass through.
    """
    return X + ((X * _GRID).round() / _GRID - X).detach()


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
    n_used = (min(n_channels, 9) ** torch.rand(n_kernels)).round()
    ranks = torch.rand(n_kernels, n_channels).argsort(dim=1).argsort(dim=1)
    return patterns[rows][:, None, :] * (ranks < n_used[:, None])[:, :, None]


def _is_valid(n_timesteps, lengths):
    return torch.arange(n_timesteps, device=lengths.device) < lengths[:, None]


def _movements(X, lengths):
    """X (batch, channel, time, *pixel) less its mean over the valid time, 0 behind its end."""
    if lengths is None:
        return X - X.mean(2, keepdim=True)
    mean = X.sum(2, keepdim=True) / lengths.reshape(-1, *[1] * (X.ndim - 1))
    return (X - mean) * _like(_is_valid(X.shape[2], lengths), X)


def _changes(X, lengths):
    """Absolute differences between steps, 0 for the first one and behind the end."""
    D = torch.cat([torch.zeros_like(X[:, :, :1]), X.diff(dim=2).abs()], dim=2)
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
