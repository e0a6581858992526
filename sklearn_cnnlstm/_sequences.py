"""What users pass, as arrays (sample, time, *space, channel) in the user's numeric dtype, not copied."""

import copy
import math
import numbers
from functools import partial

import numpy as np
import pandas as pd

_SPACE = {0: "", 1: "S", 2: "HW", 3: "DHW"}
_NUMBERS = ("boolean", "integer", "floating", "mixed-integer-float", "decimal")  # of pandas' infer_dtype
_CHUNK_BYTES = 16 * 2**20
_UNITS_DIFFER = 10.0  # deviations of a column, in those of the median column


def to_array(X, layout=None):
    """X itself, or what it holds where that is not yet an array; samples of unequal length are padded with NaN."""
    if isinstance(X, Padded):
        return X.values
    if _is_stream(X):
        n_samples, *shape = X.shape
        is_small = n_samples * math.prod(shape) * np.dtype(X.dtype).itemsize <= _CHUNK_BYTES
        return np.asarray(X[0:n_samples]) if is_small else Rows(X)
    if hasattr(X, "detach"):  # a torch.Tensor, which this module need not import
        if X.device.type != "cpu":
            raise TypeError(f"X is a torch.Tensor on {X.device}; expected one on the cpu: pass X.cpu().")
        return X.detach().numpy()
    if is_listed(X):
        shapes = {_known_shape(sample) for sample in X}
        if len(shapes) > 1:
            return _pad([np.asarray(sample) for sample in X], layout)
        if not isinstance(X, list | tuple) and shapes and shapes != {()}:
            return np.stack(list(X))
    return X


def is_listed(X):
    """Whether samples stand side by side in a list, or as objects in an array or Series, so that lengths may differ."""
    return isinstance(X, list | tuple) or (isinstance(X, np.ndarray | pd.Series) and X.dtype == object and X.ndim == 1)


def _known_shape(sample):
    if hasattr(sample, "shape"):
        return tuple(sample.shape)
    return (len(sample),) if isinstance(sample, list | tuple) else ()


def _pad(samples, layout):
    """Samples whose lengths differ as one array, in floats that hold their values exactly, NaN behind their ends."""
    n_axes = samples[0].ndim
    lone = next((i for i, sample in enumerate(samples) if sample.ndim == 0), None)
    if lone is not None:
        raise ValueError(f"X has {samples[lone]} in place of sample {lone}; expected an array (n_timesteps, ...).")
    if all(sample.ndim == 1 for sample in samples):
        raise ValueError(
            f"X is a list of samples of one axis, sample 0 of shape {samples[0].shape}; expected (n_timesteps, "
            "n_channels), as [x[:, np.newaxis] for x in X] has it."
        )
    odd = next((i for i, sample in enumerate(samples) if sample.ndim != n_axes or not 2 <= n_axes <= 5), None)
    time = 0 if layout is None else layout.find("T") - 1
    if odd is None:
        check_layout(layout, n_axes + 1)
        frames = [np.delete(sample.shape, time).tolist() for sample in samples]
        odd = next((i for i, frame in enumerate(frames) if frame != frames[0]), None)
    if odd is not None:
        raise ValueError(
            f"X is ragged: sample {odd} has shape {samples[odd].shape} and sample 0 has {samples[0].shape}; expected "
            "samples (n_timesteps, *spatial, n_channels) that differ in the number of time steps alone."
        )
    empty = next((i for i, sample in enumerate(samples) if sample.size == 0), None)
    if empty is not None:
        raise ValueError(f"X has an empty sample {empty} of shape {samples[empty].shape}; expected at least one step.")
    shape = list(samples[0].shape)
    shape[time] = max(sample.shape[time] for sample in samples)
    padded = np.full((len(samples), *shape), np.nan, dtype=np.result_type(np.float16, *{s.dtype for s in samples}))
    for row, sample in zip(np.moveaxis(padded, time + 1, 1), samples, strict=True):
        row[: sample.shape[time]] = np.moveaxis(sample, time, 0)
    return padded


def listed_lengths(X, layout=None):
    """Time steps of each sample if X is a list of arrays, or of lists of unequal length; None for what is an array."""
    if not is_listed(X) or len(X) == 0:
        return None
    is_array = all(len(getattr(sample, "shape", ())) >= 2 for sample in X)
    if not is_array and len({_known_shape(sample) for sample in X}) == 1:
        return None
    time = 0 if layout is None else layout.find("T") - 1
    return np.array([np.shape(sample)[time] for sample in X])


def match_steps(y, lengths, n_timesteps):
    """y with an answer per step as an array of `n_timesteps`, NaN behind the `lengths` valid steps of each sample.

    It may come as a list of samples of unequal length, or with more steps, of which nothing is known.
    """
    if is_listed(y):
        samples = [np.asarray(sample) for sample in y]
        short = next((i for i, sample in enumerate(samples) if len(np.atleast_1d(sample)) < lengths[i]), None)
        if short is not None:
            raise ValueError(
                f"y has shape {samples[short].shape} in sample {short}, whose X has {lengths[short]} steps; expected "
                "an answer per step."
            )
        y = _stack_steps(samples, n_timesteps)
    array = np.asarray(y)
    if array.ndim < 2 or array.shape[1] < n_timesteps or (array.shape[1] == n_timesteps == lengths.min()):
        return y
    behind = ~pd.isna(array).reshape(*array.shape[:2], -1).all(axis=2)
    behind &= np.arange(array.shape[1]) >= lengths[:, np.newaxis]
    if behind.any():
        sample, step = np.argwhere(behind)[0]
        raise ValueError(
            f"y has a value at step {step} of sample {sample}, whose X has {lengths[sample]} steps; expected NaN "
            "behind them."
        )
    return array[:, :n_timesteps]


def _stack_steps(samples, n_timesteps):
    """Answers per step (n_timesteps_i, ...) as one array: floats as they are, all else as objects, NaN behind."""
    frames = [sample.shape[1:] for sample in samples]
    odd = next((i for i, frame in enumerate(frames) if frame != frames[0] or samples[i].ndim == 0), None)
    if odd is not None:
        raise ValueError(
            f"y has shape {samples[odd].shape} in sample {odd} and {samples[0].shape} in sample 0; expected shapes "
            "that differ in the number of time steps alone."
        )
    lengths = {len(sample) for sample in samples}
    if len(lengths) == 1:
        return np.stack(samples)
    n_timesteps = max(n_timesteps, *lengths)
    is_float = all(sample.dtype.kind == "f" for sample in samples)
    dtype = np.result_type(*{sample.dtype for sample in samples}) if is_float else object
    stacked = np.full((len(samples), n_timesteps, *frames[0]), np.nan, dtype=dtype)
    for row, sample in zip(stacked, samples, strict=True):
        row[: len(sample)] = sample
    return stacked


def up_to(answers, n_timesteps, lengths):
    """Answers per step (sample, time, ...) as `n_timesteps`, NaN behind the `lengths` valid steps of each sample."""
    full = np.full((len(answers), n_timesteps, *answers.shape[2:]), np.nan, dtype=answers.dtype)
    full[:, : answers.shape[1]] = answers
    full[np.arange(n_timesteps) >= lengths[:, np.newaxis]] = np.nan
    return full


def _is_stream(X):
    """Whether X is an array that lies elsewhere (HDF5, zarr, xarray): told by what it can do, nothing is imported."""
    known = isinstance(X, np.ndarray | Rows) or hasattr(X, "detach")  # a torch.Tensor is an array that is here
    frame_or_sparse = hasattr(X, "iloc") or hasattr(X, "nnz")
    if known or frame_or_sparse or not all(hasattr(X, name) for name in ("shape", "dtype", "__getitem__")):
        return False
    return len(X.shape) >= 2


class Rows:
    """Rows of an array that lies elsewhere, read when numpy asks for them: `np.asarray(rows[3:7])` reads four.

    A selection of rows is Rows again; `mapped(function)` applies a function to each block of rows that is read.
    """

    def __init__(self, source, functions=()):
        self._source = source
        self._functions = functions
        self._index = np.arange(source.shape[0])
        like = self._apply(np.zeros((min(1, len(self)), *source.shape[1:]), dtype=source.dtype))
        self._row_shape, self.dtype = like.shape[1:], like.dtype

    def mapped(self, function):
        mapped = Rows(self._source, (*self._functions, function))
        mapped._index = self._index
        return mapped

    @property
    def shape(self):
        return len(self), *self._row_shape

    @property
    def ndim(self):
        return len(self.shape)

    @property
    def size(self):
        return math.prod(self.shape)

    @property
    def nbytes(self):
        return self.size * self.dtype.itemsize

    def __len__(self):
        return len(self._index)

    def __getitem__(self, key):
        selected = copy.copy(self)
        selected._index = np.atleast_1d(self._index[key])
        return selected if np.ndim(self._index[key]) else np.asarray(selected)[0]

    def parts(self, n_rows):
        """The rows as arrays of `n_rows` and the rest, each read when it is its turn."""
        return (np.asarray(self[start : start + n_rows]) for start in range(0, len(self), n_rows))

    def __array__(self, dtype=None, copy=None):
        if len(self) == 0:
            return np.empty(self.shape, dtype or self.dtype)
        rows, places = np.unique(self._index, return_inverse=True)  # h5py takes indices that grow, each once
        first, span = rows[0], rows[-1] - rows[0] + 1
        if span <= 2 * len(rows):  # one slice is many times as fast as a list of rows that lie close together
            rows, places = slice(first, first + span), self._index - first
        block = np.asarray(self._source[rows])
        in_order = len(places) == len(block) and (places == np.arange(len(block))).all()
        return np.asarray(self._apply(block if in_order else block[places]), dtype=dtype)

    def _apply(self, block):
        for function in self._functions:
            block = function(block)
        return block


class Padded:
    """Canonical X whose samples end early: `lengths` steps of each are valid, and NaN in `values` behind them."""

    def __init__(self, values, lengths):
        self.values = values
        self.lengths = lengths

    shape = property(lambda self: self.values.shape)
    ndim = property(lambda self: self.values.ndim)
    dtype = property(lambda self: self.values.dtype)

    def __len__(self):
        return len(self.values)

    def __getitem__(self, key):
        values, lengths = self.values[key], self.lengths[key]
        return Padded(values, lengths) if np.ndim(lengths) else values[:lengths]

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype=dtype)


def trim(X, *, may_be_padded):
    """Canonical X cut to its longest sample, as Padded if others are shorter, and where it has missing values.

    These are told by (sample, channel). Padding is steps at the end of a sample whose every value is NaN; any other NaN
    is a missing value.
    """
    lengths = np.full(len(X), X.shape[1])
    has_gaps = np.zeros((len(X), X.shape[-1]), dtype=bool)
    if X.dtype.kind != "f" or (isinstance(X, np.ndarray) and _has_finite_sum(X)):  # dense, and no copy is made
        return X, has_gaps
    for part in _blocks(X, np.arange(len(X))):
        is_nan = np.isnan(np.asarray(X[part[0] : part[-1] + 1]))
        if may_be_padded:
            lengths[part] = _steps_up_to_last_value(is_nan)
            is_nan[np.arange(X.shape[1]) >= lengths[part, np.newaxis]] = False
        has_gaps[part] = is_nan.any(axis=tuple(range(1, X.ndim - 1)))
    if not lengths.all():
        first = lengths.argmin()
        raise ValueError(f"X has no value that is not NaN in sample {first} of shape {X.shape[1:]}; expected one step.")
    longest = lengths.max()
    if longest < X.shape[1]:
        X = X.mapped(partial(_first_steps, n=longest)) if isinstance(X, Rows) else _first_steps(X, longest)
    return (X if (lengths == longest).all() else Padded(X, lengths)), has_gaps


def carried_forward(X):
    """Rows of canonical X in which a missing value is the last one before it at its place, NaN where there is none."""
    values = np.asarray(X)
    is_nan = np.isnan(values)
    if not is_nan.any():
        return values
    step = np.arange(values.shape[1]).reshape(1, -1, *[1] * (values.ndim - 2))
    last = np.maximum.accumulate(np.where(is_nan, 0, step), axis=1)
    filled = np.take_along_axis(values, last, axis=1)
    if isinstance(X, Padded):
        filled[np.arange(values.shape[1]) >= X.lengths[:, np.newaxis]] = np.nan
    return filled


def is_finite_array(X):
    """Whether X is an array of samples, all of them finite numbers, in which scikit-learn would find nothing wrong."""
    is_plain = type(X) is np.ndarray and X.ndim >= 2 and X.size > 0
    return is_plain and (X.dtype.kind in "biu" or (X.dtype.kind == "f" and _has_finite_sum(X)))


def _has_finite_sum(X):
    with np.errstate(over="ignore", invalid="ignore"):
        return np.isfinite(X.sum(dtype=np.result_type(X, np.float32)))


def _steps_up_to_last_value(is_nan):
    has_value = ~is_nan.reshape(*is_nan.shape[:2], -1).all(axis=2)
    return np.where(has_value.any(axis=1), has_value.shape[1] - has_value[:, ::-1].argmax(axis=1), 0)


def _first_steps(X, n):
    return X[:, :n]


def read_through(X, index):
    """Read the rows `index` of a stream once in blocks: what is wrong with them is found before they are used."""
    if isinstance(X, Rows):
        for part in _blocks(X, index):
            np.asarray(X[part])


def _blocks(X, index):
    """The row numbers `index` in parts whose rows are some 16 MB in float64."""
    rows = max(1, _CHUNK_BYTES // (8 * max(1, math.prod(X.shape[1:]))))
    return (index[start : start + rows] for start in range(0, len(index), rows))


def check_columns(frame, name="X"):
    """An error that names the columns of a DataFrame that hold no numbers; objects that are numbers pass."""
    if not isinstance(frame, pd.DataFrame):
        return
    odd = [
        f"{column!r} ({values.dtype})"
        for column, values in frame.items()
        if not pd.api.types.is_numeric_dtype(values.dtype)
        and not (values.dtype == object and pd.api.types.infer_dtype(values) in _NUMBERS)
    ]
    if odd:
        raise ValueError(
            f"{name} has columns that are not numeric: {', '.join(odd)}; expected numbers: encode (OneHotEncoder, "
            "OrdinalEncoder) or drop them."
        )


def check_layout(layout, n_axes):
    """The letters of `layout` checked against the number of axes of X, the sample axis included."""
    if layout is None:
        return
    expected = "NT" + _SPACE[n_axes - 3] + "C" if n_axes >= 3 else None
    if expected is None or sorted(layout) != sorted(expected):
        known = " or ".join(f"{'NT' + space + 'C'!r}" for space in _SPACE.values())
        raise ValueError(
            f"layout={layout!r} does not name the {n_axes} axes of X; expected the letters of {known} in the order "
            "that X has them (for 2-D X, once input_shape has unfolded it)."
        )
    if layout[0] != "N":
        raise ValueError(f"layout={layout!r} must begin with 'N': scikit-learn splits X along its first axis.")


def canonical(X, *, layout=None, input_shape=None):
    """X as (sample, time, *space, channel): a view, axes in order, 2-D X unfolded.

    Without `input_shape` a 2-D X is one channel whose columns are the steps.
    """
    if isinstance(X, Rows):
        return X.mapped(partial(canonical, layout=layout, input_shape=input_shape))
    if X.ndim == 2:
        if input_shape is None:
            if layout is not None:
                raise ValueError(f"layout={layout!r} needs X of 3 to 6 dimensions or input_shape; got 2-D X.")
            return X[:, :, np.newaxis]
        X = X.reshape(len(X), *input_shape)
    check_layout(layout, X.ndim)
    if layout is None:
        return X
    order = "NT" + _SPACE[X.ndim - 3] + "C"
    return X.transpose([layout.index(letter) for letter in order])


def check_shape(X, input_shape):
    """An error unless X has 2 to 6 axes, none of them empty, and agrees with `input_shape`."""
    if not 2 <= X.ndim <= 6:
        raise ValueError(
            f"X has {X.ndim} dimensions {X.shape}; expected 2 to 6: (n_samples, n_timesteps, *spatial, n_channels)."
        )
    if 0 in X.shape[1:]:
        raise ValueError(f"X has an empty axis in shape {X.shape}; expected at least one step, place and channel.")
    if input_shape is None:
        return
    entries = isinstance(input_shape, tuple | list) and 2 <= len(input_shape) <= 5
    if not entries or not all(isinstance(size, numbers.Integral) and size > 0 for size in input_shape):
        raise ValueError(
            f"input_shape={input_shape!r}; expected the shape of one sample: 2 to 5 positive integers such as (128, 9)."
        )
    if X.ndim == 2 and X.shape[1] != math.prod(input_shape):
        raise ValueError(
            f"X has {X.shape[1]} features, but input_shape={tuple(input_shape)} unfolds {math.prod(input_shape)}."
        )
    if X.ndim > 2 and X.shape[1:] != tuple(input_shape):
        raise ValueError(f"X has samples of shape {X.shape[1:]}, but input_shape is {tuple(input_shape)}.")


def check_range(X, name="X"):
    """An error if X holds dates, or a value too large for float32, in which networks compute."""
    if X.dtype.kind in "mM":
        raise ValueError(f"Input {name} holds {X.dtype}; expected numbers: subtract a start and divide by a unit.")
    largest = np.finfo(np.float32).max
    is_wide = X.size and X.dtype.kind == "f" and X.dtype.itemsize > 4
    if is_wide and (np.fmax.reduce(X, None) > largest or np.fmin.reduce(X, None) < -largest):  # NaN is looked over
        raise ValueError(
            f"Input {name} contains a value too large for dtype('float32'); expected {name} scaled to less than 3e38."
        )


def channel_statistics(X, index, sample_weight=None, *, read=np.asarray):
    """Mean and standard deviation of each channel of the rows `index` of canonical X, in one pass, in float64.

    NaN has no say; of a channel that is nothing else the mean is 0 and the deviation infinite. `read` is a function of
    a block of rows that gives its values.
    """
    total, mean, squares = _sums(X, index, sample_weight, read)
    return mean, _deviation(total, squares)


def table_statistics(X, index, sample_weight=None, *, read=np.asarray):
    """As `channel_statistics` of a table (sample, column, 1) whose columns are of one kind, of shape (1,).

    (column, 1), each column by itself, if one of them spreads ten times as far as the median one: things that are
    measured in different units.
    """
    total, mean, squares = _sums(X, index, sample_weight, read=lambda rows: read(rows).swapaxes(1, 2))
    deviation = _deviation(total, squares)
    known = deviation[np.isfinite(deviation) & (deviation > 0)]
    if len(known) and known.max() > _UNITS_DIFFER * np.median(known):
        return mean[:, np.newaxis], deviation[:, np.newaxis]
    whole = np.broadcast_to(total, mean.shape).sum(keepdims=True)
    whole_mean = (total * mean).sum(keepdims=True) / _or_1(whole)
    squares = squares.sum(keepdims=True) + (total * (mean - whole_mean) ** 2).sum()
    return whole_mean, _deviation(whole, squares)


def _sums(X, index, sample_weight, read):
    """Weight, mean and weighted squares about it of each channel of the rows `index`."""
    total = mean = squares = 0.0
    for part in _blocks(X, index):
        chunk = read(X[part]).astype(np.float64, copy=False)
        weight = np.ones(len(part)) if sample_weight is None else sample_weight[part]
        values, chunk_mean, chunk_squares = _moments(chunk, weight.reshape(-1, *[1] * (chunk.ndim - 1)))
        # Chan et al. (1979): parts are merged about their own means, so large offsets cost no digits
        shift = chunk_mean - mean
        total = total + values
        mean = mean + shift * values / _or_1(total)
        squares = squares + chunk_squares + shift**2 * values * (total - values) / _or_1(total)
    return total, mean, squares


def _deviation(total, squares):
    return np.where(total == 0, np.inf, np.sqrt(squares / _or_1(total)))


def _moments(chunk, weight):
    """Weight, mean and weighted squares about it of each channel, over the values that are not NaN."""
    axes = tuple(range(chunk.ndim - 1))
    values = weight.sum() * math.prod(chunk.shape[1:-1])
    total = (weight * chunk).sum(axes)
    if np.isnan(total).any():
        weight = weight * ~np.isnan(chunk)
        chunk = np.nan_to_num(chunk)
        values, total = weight.sum(axes), (weight * chunk).sum(axes)
    mean = total / _or_1(values)
    return values, mean, (weight * (chunk - mean) ** 2).sum(axes)


def _or_1(total):
    return np.where(total == 0, 1.0, total)


def deviations(X, index, *, least_steps, read=np.asarray):
    """Standard deviations (sample, channel) of the rows `index` of a 3-D X, NaN of fewer than `least_steps` known."""
    return np.concatenate([_deviations(read(X[part]).astype(np.float64), least_steps) for part in _blocks(X, index)])


def _deviations(X, least_steps):
    known = ~np.isnan(X)
    n_known = known.sum(axis=1)
    mean = np.where(known, X, 0.0).sum(axis=1) / _or_1(n_known)
    squares = np.where(known, (X - mean[:, np.newaxis]) ** 2, 0.0).sum(axis=1)
    return np.where(n_known < least_steps, np.nan, np.sqrt(squares / _or_1(n_known)))


def last_values(X, index):
    """The last values (sample, channel) of the rows `index` of a 3-D X that are not missing, else NaN, in float64."""
    parts = [carried_forward(np.asarray(X[part]))[:, -1] for part in _blocks(X, index)]  # padding is missing, too
    return np.concatenate(parts).astype(np.float64)


def last_frames(X, index, *, read=np.asarray):
    """The last steps (sample, *space, channel) of the rows `index` of canonical X, in float64."""
    parts = [read(X[part])[:, -1] for part in _blocks(X, index)]
    return np.concatenate(parts).astype(np.float64)


def safe_scale(mean, scale, *, dtype=np.float64):
    """The scale, 1 for a constant, and at least what values of `dtype` about the mean differ by."""
    constant = scale <= np.maximum(1e-12 * np.abs(mean), np.finfo(np.float32).tiny)
    return np.where(constant, 1.0, np.maximum(scale, np.finfo(dtype).eps * np.abs(mean)))
