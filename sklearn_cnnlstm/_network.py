"""What the model is: a CNN reads the space inside each step, an LSTM the order of the steps, a head answers."""

import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ._bank import FEW_SAMPLES, FOR_CLASSES, FOR_NUMBERS, LEAST_SPREAD, KernelBank, Levels, LevelsFromLast
from ._readout import validated_loss

POOLINGS = ("last", "mean", "max", "attention")
_OF_A_VOTE = 2.0  # divides the sum of three opinions, which is surer than their mean (benchmarks/recipe.md)
_CAUTION = 2  # steps of the readout's penalties, a decade together
_MARGIN = 0.5  # of a feature's range, on each side, where series are read: steps of a spectrum are not cut alone
_LEAST_VARIANCE = 0.01  # added to that of a standardised series, by whose root it is divided
_TRUST = 0.35, 0.3  # in the learned network of a Blend, what is usual and how far off that is
_NEGLIGIBLE = 1e-6  # of the greatest weight of a held-out sample
_PARTS = 6  # of held-out samples, which are taken to be independent of each other
_LEAST_HELD_OUT = 5  # samples, of fewer of which quantiles learn nothing
_LARGEST = 1e15  # of standardised values, whose squares are summed
_RAGGED_ROWS = 64  # samples whose levels are found at once, before training
_ROUNDING = 1e-6  # of shares of samples that add up

_LAYERS = {
    1: (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d),
    2: (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d),
    3: (nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d),
}
_DECODERS = {1: (nn.Conv1d, "linear"), 2: (nn.Conv2d, "bilinear"), 3: (nn.Conv3d, "trilinear")}
_BACKBONE_GIVES = (
    "expected (batch, features) or (batch, features, *space) of frames (batch, channels, *space), "
    "and (batch, features, time) of 3-D X."
)


class CNNLSTM(nn.Module):
    """Sequences (batch, time, *space, channel) in the user's units to logits or standardised targets (batch, output).

    `sample_shape` is (time, *space, channel) of one training sample; time may differ later, the rest may not.
    `lengths` (batch,) on the CPU are the valid steps of each sequence of a ragged batch, the longest as long as time.
    `gaps` is None (X has no NaN), "carry" or the channels that get an indicator of their missing values.
    `size_jitter` is the standard deviation of the factor about 1 by which each standardised sample is multiplied in
    training. `units` is OwnUnits, or None where series are seen in their channels' units alone.
    """

    by_step = False  # whether there is an answer for each step

    def __init__(
        self,
        sample_shape,
        n_outputs,
        *,
        conv_channels,
        kernel_size,
        pool_size,
        hidden_size,
        num_layers,
        bidirectional,
        pooling,
        dropout,
        backbone=None,
        norm="layer",
        quantiles=(),
        gaps=None,
        size_jitter=0.0,
        units=None,
    ):
        super().__init__()
        self.n_outputs = n_outputs
        n_channels = sample_shape[-1]
        self.register_buffer("input_mean", torch.zeros(n_channels))
        self.register_buffer("input_scale", torch.ones(n_channels))
        self.register_buffer("target_mean", torch.zeros(n_outputs))
        self.register_buffer("target_scale", torch.ones(n_outputs))

        self.squash = nn.Identity()
        self.gaps = make_gaps(gaps)
        self.vary = SizeJitter(size_jitter) if size_jitter else nn.Identity()
        self.units = units or SharedUnits()
        seen_shape = (*sample_shape[:-1], self.units.n_views * n_channels + self.gaps.n_indicators)

        n_spatial = len(sample_shape) - 2
        self.is_static = backbone is None  # dense batches of one shape are all computed in the same steps
        make_cnn = backbone or ConvStack.factory(conv_channels, kernel_size, pool_size)
        cnn = make_cnn(seen_shape[-1], n_spatial)
        along_time = AlongTime if backbone is None else LengthByLength
        self.cnn = self.over_frames(cnn) if n_spatial else along_time(cnn)
        self.lstm = LSTMStack(self._cnn_width(seen_shape), hidden_size, num_layers, bidirectional, dropout)
        self.pool = TimePool(self.lstm.width, pooling)
        self.n_features = self.pool.width
        self.head = make_head(self.n_features, n_outputs, dropout, quantiles, norm=norm)

    def standardise(self, X):
        """X without NaN, each channel of mean 0 and deviation 1, and indicators of its missing values behind them."""
        return self.gaps(self.scaled(X))

    def seen(self, X, lengths=None):
        """What the CNN sees of X."""
        X = self.scaled(X)
        return self.units(self.gaps(X), X, lengths)

    def scaled(self, X):
        """X of mean 0 and deviation 1, channel by channel, in which NaN may be left."""
        return self.squash((self.gaps.carried(X) - self.input_mean) / self.input_scale)

    def over_frames(self, cnn):
        return PerFrame(cnn)

    def embed(self, X, lengths=None):  # (batch, time, *space, channel)
        X, last, lengths = self.states(X, lengths)  # (batch, step, hidden), (batch, hidden)
        return self.pool(X, last) if lengths is None else self.pool.ragged(X, last, lengths)  # (batch, feature)

    def states(self, X, lengths=None):
        """States of the LSTM at all steps, the last of each direction, and what the CNN leaves of the lengths."""
        X = self.vary(self.seen(X, lengths))
        if lengths is None:
            return *self.lstm(self.cnn(X)), None
        X, lengths = self.cnn.ragged(zero_behind(X, lengths), lengths)
        return *self.lstm.ragged(X, lengths), lengths

    def forward(self, X, lengths=None):
        return self.head(self.embed(X, lengths))  # (batch, output[, quantile])

    def answers(self, X, lengths=None):
        """What is compared with the targets in training: the output, of a network that is trained as a whole."""
        return (self(X, lengths),)

    def set_statistics(self, **statistics):
        """Set the named buffers to arrays: of the input a value per channel, or per step and channel."""
        for name, values in statistics.items():
            setattr(self, name, torch.tensor(values, dtype=torch.float32))

    def target_statistics(self):
        """Mean and scale of the targets as float64 arrays that hold the buffers' float32 values exactly."""
        return self.target_mean.cpu().double().numpy(), self.target_scale.cpu().double().numpy()

    def _cnn_width(self, sample_shape):
        """Filters per step, found by passing zeros through the CNN: a backbone need not tell its width."""
        n_steps, *frame = sample_shape
        X = torch.zeros(2, n_steps if len(frame) == 1 else 3, *frame)
        training = self.cnn.training
        try:
            with torch.no_grad():
                steps = self.cnn.eval()(X)
        except RuntimeError as error:
            raise ValueError(
                f"backbone does not take X of shape {tuple(X.shape)}: {error}; {_BACKBONE_GIVES}"
            ) from error
        self.cnn.train(training)
        if steps.ndim != 3:
            raise ValueError(f"backbone made {steps.ndim} axes of X of shape {tuple(X.shape)}; {_BACKBONE_GIVES}")
        return steps.shape[-1]


class StepCNNLSTM(CNNLSTM):
    """An answer for each step (batch, time, output), from the LSTM's states in place of their pool."""

    by_step = True

    def __init__(self, sample_shape, n_outputs, *, pool_size, dropout, backbone=None, quantiles=(), **sizes):
        super().__init__(sample_shape, n_outputs, pool_size=pool_size, dropout=dropout, backbone=backbone, **sizes)
        del self.pool
        self.n_features = self.lstm.width
        self.head = make_head(self.n_features, n_outputs, dropout, quantiles)
        over_time = len(sample_shape) == 2 and backbone is None
        self.stride = math.prod(pool_size[: len(sizes["conv_channels"])]) if over_time else 1

    def embed(self, X, lengths=None):  # (batch, time, *space, channel)
        n_timesteps = X.shape[1]
        X, *_ = self.states(X, lengths)  # (batch, step, hidden)
        if X.shape[1] * self.stride < n_timesteps:
            raise ValueError(
                f"backbone made {X.shape[1]} steps of {n_timesteps}; target='step' needs as many as X has."
            )
        return X.repeat_interleave(self.stride, 1)[:, :n_timesteps]  # (batch, time, hidden)


class MapCNNLSTM(CNNLSTM):
    """Maps (batch, horizon, *space, output): a sequence of states at each place of the CNN's maps, and a decoder.

    With `from_last_frame` an answer is the change from the first channels of the last frame, both of them measured from
    what is usual at the pixel.
    """

    def __init__(self, sample_shape, n_outputs, *, horizon, from_last_frame, dropout, quantiles=(), **sizes):
        super().__init__(sample_shape, n_outputs, dropout=dropout, **sizes)
        *space, n_channels = sample_shape[1:]
        frame = *space, n_channels + self.gaps.n_indicators
        self.places = self.cnn.places(frame)
        self.head = MapDecoder(self.n_features, frame, horizon, n_outputs, dropout, quantiles)
        shape = (horizon, *space, n_outputs)
        self.register_buffer("target_mean", torch.zeros(shape))
        self.register_buffer("target_scale", torch.ones(shape))
        self.last_frame = LastFrame(shape[1:], quantiles) if from_last_frame else FromNothing()

    def over_frames(self, cnn):
        return PerPlace(cnn)

    def set_frame_statistics(self, mean, scale):
        self.last_frame.set_statistics(mean, scale)

    def embed(self, X, lengths=None):
        return super().embed(X, lengths).unflatten(0, (len(X), *self.places))  # (batch, *place, feature)

    def forward(self, X, lengths=None):
        frame = self.standardise(X)[:, -1]
        return self.head(self.embed(X, lengths), frame) + self.last_frame(self.gaps.carried(X)[:, -1])


class MapDecoder(nn.Module):
    """Features of places (batch, *place, feature) and the last frame to maps (batch, horizon, *space, output)."""

    def __init__(self, n_features, frame, horizon, n_outputs, dropout, quantiles, width=32):
        super().__init__()
        *self.space, n_channels = frame
        conv, self.mode = _DECODERS[len(self.space)]
        self.narrow = make_head(n_features, width, dropout)
        self.conv = conv(width + n_channels, width, 3, padding="same")
        self.output = make_output(width, horizon * n_outputs, quantiles)
        nn.init.zeros_(next(self.output.parameters()))  # a forecast starts from the last frame itself
        if not quantiles:
            nn.init.zeros_(self.output.bias)
        self.outputs_axis = 1 + len(self.space)
        self.maps = (horizon, n_outputs)

    def forward(self, X, frame):
        X = self.narrow(X).movedim(-1, 1)  # (batch, width, *place)
        X = F.interpolate(X, size=self.space, mode=self.mode)  # (batch, width, *space)
        X = F.relu(self.conv(torch.cat([X, frame.movedim(-1, 1)], dim=1)))
        X = self.output(X.movedim(1, -1))  # (batch, *space, horizon * output[, quantile])
        return X.unflatten(self.outputs_axis, self.maps).movedim(self.outputs_axis, 1)


class LastFrame(nn.Module):
    """The first channels of a frame, measured from what is usual at each pixel, which is what a missing value is."""

    def __init__(self, shape, quantiles):
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(shape))
        self.quantile_axis = (1,) if quantiles else ()

    def set_statistics(self, mean, scale):
        self.mean.copy_(torch.as_tensor(mean))
        self.scale.copy_(torch.as_tensor(scale))

    def forward(self, X):  # (batch, *space, channel)
        X = (X[..., : self.mean.shape[-1]] - self.mean) / self.scale
        return X.masked_fill(X.isnan(), 0).reshape(len(X), 1, *self.mean.shape, *self.quantile_axis)


class FromNothing(nn.Module):
    """In place of LastFrame where the answers do not continue what X holds."""

    def set_statistics(self, mean, scale):
        pass

    def forward(self, X):
        return 0.0


class BankCNNLSTM(CNNLSTM):
    """A CNN-LSTM that learns, beside what is read off a bank of frozen kernels; `join` is Vote or Blend.

    Both answer with changes from a LastValue where targets persist, or where levels drift. In the latter case frozen
    kernels give way to levels, and both see series measured from their last values, the learned network in units of how
    far each series spreads, in which it answers too (as Kim et al., ICLR 2022). A missing value then is the last one.
    """

    def __init__(self, sample_shape, n_outputs, *, conv_bank, n_groups=0, join, hidden_size, **sizes):
        super().__init__(sample_shape, n_outputs, hidden_size=hidden_size, **sizes)
        n_timesteps, *space, n_channels = sample_shape
        views = n_timesteps, *space, self.units.n_frozen_views * n_channels
        self.bank = KernelBank(views, conv_bank, self.gaps.n_indicators, n_groups, fineness=join.fineness)
        self.join = join(self.bank, n_outputs, hidden_size, sizes.get("quantiles", ()))
        self.start = None

    def start_from(self, start, sample_shape):
        """Let the answers start at a LastValue."""
        self.start = start
        if start.is_change:
            self.bank = LevelsFromLast(sample_shape, knows_last=True)
            self.join.read_from(self.bank, self.n_outputs)

    @property
    def is_change(self):
        return self.start is not None and self.start.is_change

    def features(self, X, lengths=None):
        """What is read off X without training: (batch, feature)."""
        return self.bank(self.bridged(X, lengths), lengths)

    def bridged(self, X, lengths=None):
        """What frozen kernels see of X."""
        X = self.scaled(X)
        lines = self.gaps.lines(X)
        X = self.units.for_kernels(self.gaps.filled(lines, X), lines, lengths)
        return X if lengths is None else zero_behind(X, lengths)

    def seen(self, X, lengths=None):
        if not self.is_change:
            return super().seen(X, lengths)
        X = self.scaled(X)
        last = self.last_step(X, lengths).nan_to_num(0.0)
        return self.gaps((X - last[:, None]) / _spread(X, lengths)[:, None])

    def learned(self, X, lengths=None):
        """The answer of the learned network, or the change that it answers with."""
        answer = super().forward(X, lengths)
        return answer * self.start.of_outputs(_spread(self.scaled(X), lengths)) if self.is_change else answer

    def forward(self, X, lengths=None, features=None):
        features = self.features(X, lengths) if features is None else features
        return self.started(self.join(self.learned(X, lengths), features), X, lengths)

    def answers(self, X, lengths=None, features=None):
        """What is compared with the targets in training, each on its own."""
        if features is None and self.join.reads_features:
            features = self.features(X, lengths)
        changes = self.join.opinions(self.learned(X, lengths), features)
        return [self.started(change, X, lengths) for change in changes]

    def opinions(self, X, lengths=None):
        """What the join may trust or not, side by side: (batch, opinion, output[, quantile])."""
        return torch.stack(self.answers(X, lengths), dim=1)

    def started(self, answer, X, lengths=None):
        """A change as an answer."""
        return answer if self.start is None else answer + self.start(self.last_step(X, lengths))

    def start_of(self, X, lengths=None):
        """Where the answers start, if they start at a LastValue: (batch, output)."""
        return self.start(self.last_step(X, lengths)).reshape(len(X), self.n_outputs)

    def last_step(self, X, lengths=None):
        """The last values (batch, channel) that are not missing; NaN if all are."""
        if lengths is not None or self.gaps.are_there:
            X = carry(X)  # NaN is behind the ends, too
        return X[:, -1].float()

    def loss_of_levels(self, start, X, lengths, targets, weight, *, folds):
        """Sum of squares that ridge on levels of X leaves of folds that it has not seen, if answers started there."""
        X, targets = torch.as_tensor(X), torch.as_tensor(targets)
        lengths, weight = (None if values is None else torch.as_tensor(values) for values in (lengths, weight))
        shape = X.shape[1:]
        bank = LevelsFromLast(shape, knows_last=False) if start.is_change else Levels(shape)
        changes = targets - start(self.last_step(X, lengths)).reshape(targets.shape)
        if lengths is None:
            features = bank(self.bridged(X))
        else:  # whose parts of the time are each sample's own: a matrix for each
            blocks = zip(X.split(_RAGGED_ROWS), lengths.split(_RAGGED_ROWS), strict=True)
            features = torch.cat([bank(self.bridged(*block), block[1]) for block in blocks])
        return validated_loss(bank, features, changes, [torch.as_tensor(fold) for fold in folds], weight)

    def calibrate(self, X, lengths=None):
        """Set the thresholds of the frozen kernels by some training samples in the user's units."""
        lengths = lengths if lengths is None else torch.as_tensor(lengths)
        self.bank.calibrate(self.bridged(torch.as_tensor(X), lengths), lengths)


def _spread(X, lengths):
    """Standard deviation (batch, channel) of the known values of standardised series (batch, time, channel)."""
    if lengths is not None:
        X = X.masked_fill(~valid_steps(X, lengths)[..., None], torch.nan)
    variance = (X - X.nanmean(1, keepdim=True)).square().nanmean(1).nan_to_num(0.0)
    return (variance + _LEAST_VARIANCE).sqrt()


NETWORKS = {"sample": CNNLSTM, "step": StepCNNLSTM, "map": MapCNNLSTM}  # by what a target belongs to


class NoGaps(nn.Module):
    """X has no missing values."""

    are_there = False
    n_indicators = 0

    def carried(self, X):  # (batch, time, *space, channel)
        """X with what is known of missing values in the user's units."""
        return X

    def forward(self, X):
        """Standardised X without NaN."""
        return self.filled(X, X)

    def lines(self, X):
        """X with gaps as frozen kernels are to see them, to which a leap to the mean would be an event."""
        return X

    def filled(self, values, X):
        """What `values` are of X, without NaN, and indicators of what X misses."""
        return values


class CarriedGaps(NoGaps):
    """A missing value is the last one before it at its place, or else its channel's mean."""

    are_there = True

    def carried(self, X):
        return carry(X)

    def filled(self, values, X):
        return values.masked_fill(values.isnan(), 0)


class MarkedGaps(NoGaps):
    """A missing value is its channel's mean, and an indicator for each of some channels tells where that is so."""

    are_there = True

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("channels", torch.as_tensor(channels))
        self.n_indicators = len(channels)

    def lines(self, X):
        return X.index_copy(-1, self.channels, bridge(X[..., self.channels]))

    def filled(self, values, X):
        indicators = X[..., self.channels].isnan().to(X.dtype)
        return torch.cat([values.masked_fill(values.isnan(), 0), indicators], dim=-1)


def carry(X):  # (batch, time, *space, channel)
    """X with the last known value at their place for missing ones; NaN where there is none before."""
    step = torch.arange(X.shape[1], device=X.device).reshape(-1, *[1] * (X.ndim - 2))
    return X.gather(1, torch.where(X.isnan(), 0, step).cummax(1).values)


def bridge(X):  # (batch, time, *space, channel)
    """X with missing values on the line between the last and the next known one at their place, or as the only one."""
    is_nan, n_steps = X.isnan(), X.shape[1]
    step = torch.arange(n_steps, device=X.device).reshape(-1, *[1] * (X.ndim - 2))
    before = torch.where(is_nan, -1, step).cummax(1).values
    after = torch.where(is_nan, n_steps, step).flip(1).cummin(1).values.flip(1)
    last, following = X.gather(1, before.clamp(min=0)), X.gather(1, after.clamp(max=n_steps - 1))
    last, following = torch.where(before < 0, following, last), torch.where(after == n_steps, last, following)
    way = (step - before).to(X.dtype) / (after - before).clamp(min=1)
    return torch.where(is_nan, last + way * (following - last), X)


def make_gaps(gaps):
    """None: no missing values, "carry": the last value goes on, channel numbers: these get indicators."""
    if gaps is None or len(gaps) == 0:
        return NoGaps()
    return CarriedGaps() if isinstance(gaps, str) else MarkedGaps(gaps)


class Squash(nn.Module):
    """Standardised values of skewed channels, as those of rain or of prices, on a scale that is logarithmic far out."""

    def __init__(self, is_skewed):
        super().__init__()
        self.register_buffer("is_skewed", torch.as_tensor(is_skewed))

    def forward(self, X):  # (..., channel), about as far from 0 afterwards
        return torch.where(self.is_skewed, (2 * X).asinh(), X)


class SharedUnits(nn.Module):
    """Series are seen in the units of their channels."""

    n_views = n_frozen_views = 1

    def forward(self, X, gappy, lengths=None):
        """What the CNN sees of standardised X, in which the gaps of `gappy` are filled."""
        return X

    def for_kernels(self, X, gappy, lengths=None):
        """What frozen kernels see of it."""
        return X


class OwnUnits(SharedUnits):
    """Beside standardised series they are seen in units of their own, each of mean 0 and deviation 1.

    It may be the shape that tells, of those that are a hundred times as large as others, too: of a walk and of standing
    still, of a heater and of a lamp. The CNN also sees how large each of them is, by the logarithm of its deviation.
    `least` (channel,) is added to deviations, `usual` and `spread` (channel,) are mean and deviation of the logarithms
    in training. What is missing has no say, and is the mean.
    """

    n_views, n_frozen_views = 3, 2

    def __init__(self, least, usual, spread):
        super().__init__()
        for name, values in (("least", least), ("usual", usual), ("spread", spread)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))

    def forward(self, X, gappy, lengths=None):  # (batch, time, channel), indicators of missing values behind channels
        own, deviation = self._of_each(gappy, lengths)
        size = (deviation.log() - self.usual) / self.spread
        return self._beside(X, own, size.expand_as(own))

    def for_kernels(self, X, gappy, lengths=None):
        own, _ = self._of_each(gappy, lengths)
        return self._beside(X, own)

    def _beside(self, X, *views):
        n_channels = len(self.least)
        return torch.cat([X[..., :n_channels], *views, X[..., n_channels:]], dim=-1)

    def _of_each(self, X, lengths):
        is_known = ~X.isnan()
        if lengths is not None:
            is_known &= valid_steps(X, lengths)[..., None]
        n_known = is_known.sum(1, keepdim=True).clamp(min=1)
        # from one of its values: of a constant series nothing is left then, not even rounding
        any_known = X.gather(1, is_known.int().argmax(1, keepdim=True))
        X = (X - any_known).masked_fill(~is_known, 0).clamp(-_LARGEST, _LARGEST)
        X = (X - X.sum(1, keepdim=True) / n_known).masked_fill(~is_known, 0)
        deviation = (X.square().sum(1, keepdim=True) / n_known + self.least**2).sqrt()
        return X / deviation, deviation


class SizeJitter(nn.Module):
    """Each sample times a random factor about 1, in training: the same movement is a little larger or smaller."""

    def __init__(self, deviation):
        super().__init__()
        self.deviation = deviation

    def forward(self, X):
        if not self.training:
            return X
        return X * X.new_empty(len(X), *[1] * (X.ndim - 1)).normal_(1.0, self.deviation)


def make_head(n_features, n_outputs, dropout, quantiles=(), norm="layer"):
    """Features to a number per output, or to one per output and quantile."""
    norm = nn.BatchNorm1d(n_features) if norm == "batch" else nn.LayerNorm(n_features)
    return nn.Sequential(norm, nn.Dropout(dropout), make_output(n_features, n_outputs, quantiles))


def make_output(n_features, n_outputs, quantiles=()):
    """A number per output, or one per output and quantile."""
    return Quantiles(n_features, n_outputs, quantiles) if quantiles else nn.Linear(n_features, n_outputs)


class Quantiles(nn.Module):
    """Quantiles of each output, put in order: sorting never raises the pinball loss (Chernozhukov et al., 2010)."""

    def __init__(self, n_features, n_outputs, quantiles):
        super().__init__()
        self.linear = nn.Linear(n_features, n_outputs * len(quantiles))
        self.unflatten = nn.Unflatten(-1, (n_outputs, len(quantiles)))
        normal = torch.special.ndtri(torch.tensor(quantiles, dtype=torch.float64))
        self.linear.bias.data.copy_(normal.repeat(n_outputs))  # targets are standardised: start from their spread

    def forward(self, X):  # (..., feature)
        return self.unflatten(self.linear(X)).sort(-1).values  # (..., output, quantile)


class PerPlace(nn.Module):
    """One CNN shared by all steps; each place of its maps is a sequence of its own."""

    def __init__(self, cnn):
        super().__init__()
        self.cnn = cnn

    def forward(self, X):  # (batch, time, *space, channel)
        maps = self.cnn(X.flatten(0, 1).movedim(-1, 1))  # (batch * time, filter, *place)
        maps = maps.reshape(*X.shape[:2], maps.shape[1], -1)  # (batch, time, filter, place)
        return maps.permute(0, 3, 1, 2).flatten(0, 1)  # (batch * place, time, filter)

    def places(self, frame):
        """Shape of the CNN's maps of a frame (*space, channel); a CNN that gives no maps has one place."""
        *space, n_channels = frame
        training = self.cnn.training
        with torch.no_grad():
            maps = self.cnn.eval()(torch.zeros(2, n_channels, *space))
        self.cnn.train(training)
        return tuple(maps.shape[2:]) or (1,) * len(space)


class AlongTime(nn.Module):
    """A 1-D CNN over the series itself, which may shorten it."""

    def __init__(self, cnn):
        super().__init__()
        self.cnn = cnn

    def forward(self, X):  # (batch, time, channel)
        return self.cnn(X.mT).mT  # (batch, step, filter)

    def ragged(self, X, lengths):
        X, lengths = self.cnn.ragged(X.mT, lengths)
        return X.mT, lengths


class LengthByLength(AlongTime):
    """A CNN that knows nothing of lengths: samples of one length are read together, and without padding."""

    def ragged(self, X, lengths):
        rows = {int(length): torch.nonzero(lengths == length)[:, 0] for length in lengths.unique()}
        parts = [self.of_one_length(X[rows[length], :length]) for length in rows]
        order = torch.cat(list(rows.values())).argsort().to(X.device)
        n_steps = max(part.shape[1] for part in parts)
        steps = torch.cat([F.pad(part, (0, 0, 0, n_steps - part.shape[1])) for part in parts])[order]
        short = torch.cat([torch.full((len(part),), part.shape[1]) for part in parts])
        return steps, short[order.cpu()]

    def of_one_length(self, X):
        is_lone = self.training and len(X) == 1  # batch norm needs two values: a sample and its copy
        try:
            return self(X.repeat(2, 1, 1))[:1] if is_lone else self(X)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ValueError(f"backbone does not take samples of {X.shape[1]} steps: {error}") from error


class PerFrame(nn.Module):
    """One CNN shared by all steps, its maps averaged and maximised over space."""

    def __init__(self, cnn):
        super().__init__()
        self.cnn = cnn

    def forward(self, X):  # (batch, time, *space, channel)
        return self.read(X.flatten(0, 1)).unflatten(0, X.shape[:2])  # (batch, time, filter)

    def ragged(self, X, lengths):
        return on_valid_steps(self.read, X, lengths), lengths

    def read(self, frames):  # (frame, *space, channel)
        maps = self.cnn(frames.movedim(-1, 1))  # (frame, filter, *space)
        if maps.ndim > 2:
            maps = maps.flatten(2)
            maps = torch.cat([maps.mean(2), maps.amax(2)], dim=1)
        return maps  # (frame, filter)


class ConvStack(nn.Sequential):
    """Blocks of convolution, batch norm, ReLU and max pool over `n_spatial` axes (over time, if there are none).

    The channel is the last axis in memory all the way, as it is in X. torch has that memory format for images and
    volumes alone, so a line becomes an image one pixel high.
    """

    def __init__(self, n_channels, n_spatial, conv_channels, kernel_size, pool_size):
        n_axes = max(n_spatial, 1)
        widths = (n_channels, *conv_channels)
        blocks = [
            ConvBlock(n_axes, *sizes) for sizes in zip(widths, conv_channels, kernel_size, pool_size, strict=False)
        ]
        if n_axes == 1:
            blocks = [nn.Unflatten(2, (1, -1)), *blocks, nn.Flatten(2)]
        super().__init__(*blocks)
        self.to(memory_format=torch.channels_last_3d if n_axes == 3 else torch.channels_last)

    def ragged(self, X, lengths):
        for layer in self:
            X, lengths = layer.ragged(X, lengths) if isinstance(layer, ConvBlock) else (layer(X), lengths)
        return X, lengths

    @classmethod
    def factory(cls, *sizes):
        return lambda n_channels, n_spatial: cls(n_channels, n_spatial, *sizes)


class ConvBlock(nn.Module):
    def __init__(self, n_axes, in_channels, out_channels, kernel_size, pool_size):
        super().__init__()
        conv, norm, pool = _LAYERS[n_axes]
        self.stride = pool_size
        if n_axes == 1:
            kernel_size, pool_size = (1, kernel_size), (1, pool_size)
        self.conv = conv(in_channels, out_channels, kernel_size, padding="same", bias=False)
        self.norm = norm(out_channels)
        pools = self.stride > 1
        self.pool = pool(pool_size, ceil_mode=True) if pools else nn.Identity()  # ceil: an axis of length 1 stays
        self.skip = in_channels == out_channels

    def forward(self, X):  # (batch, channel, *space)
        Y = self.norm(self.conv(X))
        Y = F.relu(Y + X if self.skip else Y)
        return self.pool(Y)

    def ragged(self, X, lengths):  # (batch, channel, 1, time), 0 behind the ends
        Y = self.conv(X).movedim(1, -1)[:, 0]
        Y = on_valid_steps(lambda steps: self.norm(steps[:, :, None, None]).flatten(1), Y, lengths)
        Y = Y[:, None].movedim(-1, 1)
        Y = F.relu(Y + X if self.skip else Y)
        return self.pool(Y), -(-lengths // self.stride)  # no value is less than the 0 behind the ends


class Vote(nn.Module):
    """Half the sum of three opinions: of the learned network, and of two that read the frozen features.

    One of these is linear in them, where kernels compete in what these see alone or in levels alone, the other an LSTM
    over those of the parts of time, with what belongs to all of the time beside it. Each opinion is trained by itself:
    trained as a sum, the quickest to fit leaves the others nothing to learn. Of images and volumes there are often too
    few to train on; how far the two that are trained are then to be trusted, between 0 and 1, shows on samples left
    out, unless early stopping chooses the epoch.
    """

    reads_features = True  # in training
    fineness = FOR_CLASSES

    def __init__(self, bank, n_outputs, hidden_size, quantiles):
        super().__init__()
        self.holds_out = bank.of_frames
        self.register_buffer("trust", torch.ones(()))
        self.split = bank.split
        self.readout = FrozenReadout(bank.width, n_outputs)
        self.norm = FrozenNorm(bank.width)
        self.narrow = nn.Sequential(nn.Dropout(0.3), nn.Linear(bank.part_width, hidden_size), nn.ReLU())
        self.lstm = LSTMStack(hidden_size, hidden_size, 1, True, 0.0)
        self.pool = TimePool(self.lstm.width, ("mean", "max"))
        self.head = nn.Linear(self.pool.width, n_outputs)
        self.beside = nn.Linear(bank.n_flat, n_outputs)
        for layer in (self.head, self.beside):
            nn.init.zeros_(layer.weight)

    def forward(self, learned, features):  # (batch, output), (batch, feature)
        return self.blend(self.base(features), self.opinions(learned, features), self.trust)

    def base(self, features):
        """What is linear in the features."""
        return self.readout(features)

    def opinions(self, learned, features):
        """What is trained, each by itself, and may be trusted or not."""
        return learned, self.read(features)

    def blend(self, base, opinions, trust):
        return torch.lerp(base, (base + sum(opinions)) / _OF_A_VOTE, trust)

    def caution(self, n_samples):
        """By how many steps the penalty of what is linear is to be above the one that predicts best."""
        return 0

    def settle(self, base, opinions, y, weight, criterion):
        """Set what samples show that were left out."""
        self.trust.fill_(self.choose(base, opinions, y, weight, criterion))

    def choose(self, base, opinions, y, weight, criterion):
        """The trust with the least loss of samples that were left out."""
        trusts = [i / 40 for i in range(41)]
        losses = [(criterion(self.blend(base, opinions, trust), y) * weight).mean() for trust in trusts]
        return trusts[int(torch.stack(losses).argmin())]

    def learn(self, features, coefficients, intercept):
        """Take over what was solved for; returns what `answers` is to be given for each training sample."""
        self.readout.set(features, coefficients, intercept)
        self.norm.set(features)
        self.trust.fill_(1.0)
        return {"features": features}

    def read(self, features):
        whole, parts = self.split(self.norm(features))
        states, last = self.lstm(self.narrow(parts))  # (batch, part, hidden)
        return self.head(self.pool(states, last)) + self.beside(whole)


def _neighbours_as_one(errors):
    """How many neighbours tell as much as one sample, if errors (sample, output) are autoregressive of first order."""
    alike = (errors[1:] * errors[:-1]).sum() / errors.square().sum()
    return float((1 + alike) / (1 - alike)) if alike > 0 else 1.0


class Blend(nn.Module):
    """Between what is linear in the frozen features and what the learned network answers, each trained by itself.

    How far the learned network is to be trusted, between 0 and 1, shows on samples that it was not trained on, as far
    as they tell it, unless early stopping chooses the epoch. So does how far quantiles are from the median (much as in
    conformal quantile regression; Romano et al., NeurIPS 2019): of what it was trained on a network is too sure.
    """

    holds_out = True
    reads_features = False  # in training
    fineness = FOR_NUMBERS

    def __init__(self, bank, n_outputs, hidden_size, quantiles):
        super().__init__()
        self.quantiles = tuple(quantiles)
        self.median = quantiles.index(0.5) if quantiles else None
        self.read_from(bank, n_outputs)
        self.register_buffer("trust", torch.tensor(_TRUST[0]))
        if quantiles:
            self.register_buffer("shift", torch.zeros(n_outputs, len(quantiles)))

    def read_from(self, bank, n_outputs):
        """Take the features of this bank to read the answers off, which are still to be solved for."""
        self.readout = FrozenReadout(bank.width, n_outputs, margin=0.0 if bank.of_frames else _MARGIN)

    def forward(self, learned, features):  # (batch, output[, quantile]), (batch, feature)
        blended = self.blend(self.base(features), self.opinions(learned, features), self.trust)
        return blended if self.median is None else self._in_order(blended + self.shift)

    def base(self, features):
        """What is linear in the features."""
        return self.readout(features)

    def opinions(self, learned, features):
        """What is trained, and may be trusted or not."""
        return (learned,)

    def blend(self, base, opinions, trust):
        learned = opinions[0].to(base.dtype)  # of autocast a narrower one
        if self.median is None:
            return torch.lerp(base, learned, trust)
        way = (1 - trust) * (base - learned[..., self.median])  # the other quantiles keep their distance
        return learned + way.unsqueeze(-1)

    def _in_order(self, answer):
        """Quantiles none of which is nearer to the median than those between them, or on its other side."""
        below, above = answer[..., : self.median + 1], answer[..., self.median :]
        below = below.flip(-1).cummin(-1).values.flip(-1)
        return torch.cat([below, above.cummax(-1).values[..., 1:]], dim=-1)

    def caution(self, n_samples):
        """By how many steps the penalty of what is linear is to be above the one that predicts best.

        Many samples rarely are as many independent ones: places that share a day, say, fall into different folds.
        """
        return _CAUTION if n_samples > FEW_SAMPLES else 0

    def settle(self, base, opinions, y, weight, criterion):
        """Set what samples show that were left out."""
        trust = self.choose(base, opinions, y, weight, criterion)
        self.trust.fill_(trust)
        if self.median is not None:
            self.shift.copy_(self._shifts(y.unsqueeze(-1) - self.blend(base, opinions, trust), weight))

    def _shifts(self, missed, weight):
        """How far to move each quantile from the median, so that they are as far apart as those of samples left out.

        `missed` (sample, output, quantile) is by how much these are above a quantile. The median stays: were they all
        of one kind, as the last ones in order may be, they would draw it to theirs.
        """
        if len(missed) < _LEAST_HELD_OUT:
            return torch.zeros_like(missed[0])
        missed, order = missed.sort(0)
        share = weight.double()[order].cumsum(0) / weight.double().sum()
        levels = torch.tensor(self.quantiles, dtype=torch.float64)
        ranks = ((share < levels + rounding).sum(0, keepdim=True) for rounding in (-_ROUNDING, _ROUNDING))
        quantiles = sum(missed.gather(0, rank.clamp(max=len(missed) - 1))[0] for rank in ranks) / 2
        return quantiles - quantiles[:, [self.median]]

    def choose(self, base, opinions, y, weight, criterion):
        """The trust of least squares in samples that were left out, drawn to what is usual as far as they do not tell.

        Samples often follow each other in time, and neighbours err together. The more alike they err, the fewer samples
        there are to learn from, the less trust is usual, and the fewer tell it. How far off it may be shows in parts of
        them, too.
        """
        learned = opinions[0] if self.median is None else opinions[0][..., self.median]
        way, rest = (learned - base).double(), (y - base).double()
        counts = weight > _NEGLIGIBLE * weight.max()
        way, rest, weight = way[counts], rest[counts], weight[counts].double()
        rest_along, length = (weight * (way * part).mean(1) for part in (rest, way))  # (sample,)
        total = length.sum()
        n_parts = min(_PARTS, len(weight))
        if n_parts < 2 or not total > 0:
            return _TRUST[0]
        best = rest_along.sum() / total
        missed = [part.sum() for part in (rest_along - best * length).tensor_split(n_parts)]  # which add up to 0
        by_parts = sum(part**2 for part in missed) * n_parts / (n_parts - 1) / total**2
        errors = rest - best * way
        as_one = _neighbours_as_one(weight.sqrt()[:, None] * errors)
        n_samples = weight.sum() ** 2 / weight.square().sum() / as_one
        variance = torch.maximum(by_parts, weight @ errors.square().mean(1) / (n_samples * total))
        usual, deviation = (part / math.sqrt(as_one) for part in _TRUST)
        told = deviation**2 / (deviation**2 + variance)
        return (usual + told * (best - usual)).clamp(0, 1)

    def learn(self, features, coefficients, intercept):
        """Take over what was solved for; returns what `answers` is to be given for each training sample."""
        self.readout.set(features, coefficients, intercept)
        self.trust.fill_(_TRUST[0])
        if self.median is not None:
            self.shift.zero_()
        return {}


class LastValue(nn.Module):
    """Where the answers start: for a target that persists at the last value of a channel, for others at their mean.

    `channel`, `centre` and `slope` have an entry per target: a slope of 0 is that of one that does not persist.
    `is_change`: all targets are changes from there, whatever the levels are.
    """

    def __init__(self, channel, centre, slope, quantiles=(), *, is_change=False):
        super().__init__()
        self.register_buffer("channel", torch.as_tensor(channel))
        self.register_buffer("centre", torch.as_tensor(centre, dtype=torch.float32))
        self.register_buffer("slope", torch.as_tensor(slope, dtype=torch.float32))
        self.is_change = is_change
        self.quantile_axis = (1,) if quantiles else ()

    def forward(self, last):  # (batch, channel) in the user's units, NaN where there is no value
        return self._as_answer((last[:, self.channel] - self.centre).nan_to_num(0.0) * self.slope)

    def of_outputs(self, values):  # (batch, channel)
        """The value that belongs to the channel of each target."""
        return self._as_answer(values[:, self.channel])

    def _as_answer(self, values):
        return values.reshape(*values.shape, *self.quantile_axis)


class FrozenReadout(nn.Module):
    """A linear function that is solved for, not trained, of features cut to the range that they had in training.

    What they tell far beyond that range nobody knows; by a share of it, the `margin`, they may be beyond on each side.
    The cross-validation that solves for it does not cut them: where they lead a fold astray, the penalty gets larger,
    logits smaller and the trust in what is trained larger.
    """

    def __init__(self, n_features, n_outputs, *, margin=0.0):
        super().__init__()
        self.margin = margin
        self.register_buffer("least", torch.full((n_features,), -torch.inf))
        self.register_buffer("greatest", torch.full((n_features,), torch.inf))
        self.register_buffer("coefficients", torch.zeros(n_features, n_outputs))
        self.register_buffer("intercept", torch.zeros(n_outputs))

    def forward(self, X):
        X = X.clamp(self.least, self.greatest)
        wide = torch.float32 if X.device.type == "mps" else torch.float64  # thousands of terms, which nearly cancel
        return (X.to(wide) @ self.coefficients.to(wide) + self.intercept).float()

    def set(self, X, coefficients, intercept):
        least, greatest = X.amin(0).float(), X.amax(0).float()
        margin = self.margin * (greatest - least)
        self.least.copy_(least - margin)
        self.greatest.copy_(greatest + margin)
        self.coefficients.copy_(coefficients)
        self.intercept.copy_(intercept)


class FrozenNorm(nn.Module):
    """Features less their mean, by their standard deviation, as they were in the training data."""

    def __init__(self, n_features):
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))

    def forward(self, X):
        return (X - self.mean) / self.scale

    def set(self, X):
        self.mean.copy_(torch.cat([part.float().mean(0) for part in X.split(256, dim=1)]))
        scale = torch.cat([part.float().std(0, correction=0) for part in X.split(256, dim=1)])
        self.scale.copy_(torch.where(scale < 1e-6, 1.0, scale.clamp(min=LEAST_SPREAD)))


class LSTMStack(nn.Module):
    """One `nn.LSTM` per layer, dropout between them: dropout inside cuDNN's LSTM cannot be reproduced."""

    def __init__(self, input_size, hidden_size, num_layers, bidirectional, dropout):
        super().__init__()
        self.width = hidden_size * (2 if bidirectional else 1)
        self.layers = nn.ModuleList(
            nn.LSTM(input_size if i == 0 else self.width, hidden_size, batch_first=True, bidirectional=bidirectional)
            for i in range(num_layers)
        )
        self.dropout = nn.Dropout(dropout)
        for layer in self.layers:
            _init_lstm(layer)

    def __setstate__(self, state):
        super().__setstate__(state)
        for layer in self.layers:  # cuDNN wants the weights in one piece of memory, which those of a copy are not
            layer.flatten_parameters()

    def forward(self, X):  # (batch, step, filter)
        for i, layer in enumerate(self.layers):
            X, (last, _) = layer(self.dropout(X) if i else X)  # (batch, step, hidden), (direction, batch, hidden)
        return X, last.movedim(0, 1).flatten(1)

    def ragged(self, X, lengths):
        for i, layer in enumerate(self.layers):
            packed = pack_padded_sequence(self.dropout(X) if i else X, lengths, True, enforce_sorted=False)
            packed, (last, _) = layer(packed)
            X, _ = pad_packed_sequence(packed, True, total_length=X.shape[1])
        return X, last.movedim(0, 1).flatten(1)


def _init_lstm(lstm):
    """Orthogonal recurrence, Xavier input, forget gate open (Jozefowicz et al., 2015)."""
    for name, parameter in lstm.named_parameters():
        if name.startswith("weight_hh"):
            for gate in parameter.data.chunk(4):
                nn.init.orthogonal_(gate)
        elif name.startswith("weight_ih"):
            nn.init.xavier_uniform_(parameter)
        else:
            nn.init.zeros_(parameter)
            if name.startswith("bias_ih"):
                parameter.data.chunk(4)[1].fill_(1.0)  # torch orders the gates input, forget, cell, output


class TimePool(nn.Module):
    """The states of all steps to one vector: the views named in `pooling`, side by side."""

    def __init__(self, width, pooling):
        super().__init__()
        self.pooling = tuple(pooling)
        self.width = width * len(self.pooling)
        self.attention = nn.Linear(width, 1) if "attention" in self.pooling else None

    def forward(self, X, last):  # (batch, step, hidden), (batch, hidden)
        return torch.cat([self.view(name, X, last) for name in self.pooling], dim=1)

    def view(self, name, X, last):
        if name == "last":
            return last
        if name == "mean":
            return X.mean(1)
        if name == "max":
            return X.amax(1)
        return (self.attention(X).softmax(1) * X).sum(1)

    def ragged(self, X, last, lengths):  # X is 0 behind the ends
        valid = valid_steps(X, lengths)[..., None]
        views = {
            "last": lambda: last,
            "mean": lambda: X.sum(1) / lengths.to(X.device)[:, None],
            "max": lambda: X.masked_fill(~valid, -torch.inf).amax(1),
            "attention": lambda: (self.attention(X).masked_fill(~valid, -torch.inf).softmax(1) * X).sum(1),
        }
        return torch.cat([views[name]() for name in self.pooling], dim=1)


# -- ragged batches: (batch, time, ...) of which the first `lengths` steps are valid


def valid_steps(X, lengths):
    return torch.arange(X.shape[1], device=X.device) < lengths.to(X.device)[:, None]  # (batch, time)


def zero_behind(X, lengths):
    """X with 0 behind the ends."""
    valid = valid_steps(X, lengths)
    return X.masked_fill(~valid.reshape(*valid.shape, *[1] * (X.ndim - 2)), 0)


def on_valid_steps(function, X, lengths):
    """A function (step, ...) -> (step, feature) of the valid steps of X alone, 0 behind the ends."""
    valid = valid_steps(X, lengths)
    steps = function(X[valid])
    result = steps.new_zeros(*valid.shape, steps.shape[1])
    result[valid] = steps
    return result
