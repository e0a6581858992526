"""How long tables, long series and transformers of 2-D X serve estimators of sequences."""

import math
from numbers import Integral

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils import check_consistent_length, get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from . import _sequences

__all__ = ["TimeDistributed", "sequences_from_frame", "sliding_windows"]


# -- long tables ---------------------------------------------------------------------------------------------------


def sequences_from_frame(df, *, sample=None, time=None, target=None, groups=None, per_step=False):
    """Turn a long table, one row per sample and step, into sequences.

    Parameters
    ----------
    df : DataFrame
        Columns that are not named below are the channels, in their order, and must be numeric; NaN in them stays NaN.
        The rows of different samples may be interleaved.
    sample : column or list of columns, default=None
        Which sample a row belongs to. None reads `df` as a panel whose MultiIndex has two levels, (sample, time).
    time : column, default=None
        Time stamps (dates, numbers), which must increase strictly within each sample. None takes the rows as they come
        or, in a panel, the second level of the index.
    target : column or list of columns, default=None
        What to predict.
    groups : column, default=None
        What samples have in common (a subject, a site), the same in all rows of a sample: for `GroupKFold`.
    per_step : bool, default=False
        Whether every step has a target of its own, as estimators with ``target="step"`` want; else the target must be
        the same in all rows of a sample.

    Returns
    -------
    X : ndarray of shape (n_samples, n_timesteps, n_channels), or list of ndarray of shape (T_i, n_channels)
        A list if samples differ in length. Of the channels' type if they share one, else float64.
    y : ndarray of shape (n_samples,) or (n_samples, k), or None
        (n_samples, n_timesteps[, k]) or a list of (T_i[, k]) with `per_step`; k is there if `target` is a list.
    groups : ndarray of shape (n_samples,), or None
        Group of each sample.
    ids : Index of shape (n_samples,)
        The samples in the order in which they first appear in `df`; a MultiIndex if `sample` is a list.

    Raises
    ------
    ValueError
        If time stamps fall, repeat or are missing, a target or group varies within a sample, or a channel is not
        numeric.

    See Also
    --------
    sliding_windows : Samples out of one long series.

    Examples
    --------
    >>> import pandas as pd
    >>> from sklearn_cnnlstm.preprocessing import sequences_from_frame
    >>> df = pd.DataFrame({"trial": ["a", "a", "b", "b", "b"], "t": [0, 1, 0, 1, 2]})
    >>> df["x"], df["label"] = [0.1, 0.2, 0.3, 0.4, 0.5], ["up", "up", "down", "down", "down"]
    >>> X, y, groups, ids = sequences_from_frame(df, sample="trial", time="t", target="label")
    >>> [len(x) for x in X], y.tolist(), ids.tolist()
    ([2, 3], ['up', 'down'], ['a', 'b'])
    """
    if not isinstance(df, pd.DataFrame):
        raise TypeError(f"df is a {type(df).__name__}; expected a pandas DataFrame.")
    if df.empty:
        raise ValueError(f"df has shape {df.shape}; expected at least one row and one column.")
    if not df.columns.is_unique:
        twice = df.columns[df.columns.duplicated()].unique().tolist()
        raise ValueError(f"df has columns {twice} more than once; expected unique names.")
    named = [*_as_list(sample), *_as_list(time), *_as_list(target), *_as_list(groups)]
    unknown = [column for column in named if column not in df.columns]
    if unknown:
        raise ValueError(f"df has no columns {unknown}; expected names out of {df.columns.tolist()}.")
    channels = df[[column for column in df.columns if column not in named]]
    if channels.shape[1] == 0:
        raise ValueError(f"df has no columns but {named}; expected at least one channel beside them.")

    labels = _sample_labels(df, sample)
    codes, ids = pd.factorize(labels)
    nameless = (np.array(labels.codes) < 0).any(axis=0) if isinstance(labels, pd.MultiIndex) else codes < 0
    if nameless.any():
        raise ValueError(f"Row {nameless.argmax()} of df names no sample; expected one in each row.")
    order = np.argsort(codes, kind="stable")
    codes = codes[order]
    _check_stamps(df, sample, time, codes, ids, order)
    starts = np.flatnonzero(np.diff(codes, prepend=-1))

    X = _split(_numbers(channels, "df")[order], starts)
    y = _column(df, target)
    if y is not None:
        y = _split(y[order], starts) if per_step else _constant(y[order], "target", target, codes, starts, ids)
    groups_of = _column(df, groups)
    if groups_of is not None:
        groups_of = _constant(groups_of[order], "groups", groups, codes, starts, ids)
    return X, y, groups_of, ids


def _as_list(columns):
    return [] if columns is None else columns if isinstance(columns, list) else [columns]


def _column(df, columns):
    return None if columns is None else df[columns].to_numpy()


def _sample_labels(df, sample):
    """The index whose entries say which sample each row belongs to."""
    if isinstance(sample, list):
        return pd.MultiIndex.from_frame(df[sample])
    if sample is not None:
        return pd.Index(df[sample])
    if df.index.nlevels != 2:
        raise ValueError(
            f"sample is None and the index of df has {df.index.nlevels} levels; expected the column that names the "
            "samples, or a panel with the two levels (sample, time)."
        )
    return df.index.get_level_values(0)


def _check_stamps(df, sample, time, codes, ids, order):
    """An error unless time stamps increase strictly within each sample; rows are in the order of the samples."""
    if time is None and sample is not None:
        return
    name, stamps = ("the index", df.index.get_level_values(1)) if time is None else (repr(time), pd.Index(df[time]))
    stamps = stamps[order]
    if stamps.hasnans:
        raise ValueError(f"Row {order[stamps.isna().argmax()]} of df has no time in {name}; expected one in each row.")
    rises = np.asarray(stamps[1:] > stamps[:-1], dtype=bool) | (codes[1:] != codes[:-1])
    if not rises.all():
        row = rises.argmin() + 1
        raise ValueError(
            f"Time in {name} goes from {stamps[row - 1]} to {stamps[row]} in sample {ids[codes[row]]!r}; expected time "
            "stamps that increase strictly: sort df by sample and time and drop duplicates."
        )


def _split(values, starts):
    """Rows (row, ...) that lie sample by sample as one array (sample, step, ...), or as a list if lengths differ."""
    lengths = np.diff(starts, append=len(values))
    if (lengths == lengths[0]).all():
        return values.reshape(len(starts), lengths[0], *values.shape[1:])
    return np.split(values, starts[1:])


def _constant(values, parameter, name, codes, starts, ids):
    """The value of each sample; an error if it has several."""
    labels = np.stack([pd.factorize(column)[0] for column in values.reshape(len(values), -1).T], axis=1)
    varies = (labels != labels[starts][codes]).any(axis=1)
    if varies.any():
        row = varies.argmax()
        hint = "; per_step=True takes one per step" if parameter == "target" else ""
        raise ValueError(
            f"{parameter}={name!r} varies in sample {ids[codes[row]]!r}, from {values[starts[codes[row]]]} to "
            f"{values[row]}; expected one value per sample{hint}."
        )
    return values[starts]


def _numbers(frame, name):
    """The values of a frame as floats, uncopied if it is of one dtype already; NaN where a value is missing."""
    _sequences.check_columns(frame, name)
    dtypes = set(frame.dtypes)
    if len(dtypes) == 1 and isinstance(next(iter(dtypes)), np.dtype) and next(iter(dtypes)).kind in "iuf":
        return frame.to_numpy()
    return frame.to_numpy(dtype=np.float64, na_value=np.nan)


# -- long series ---------------------------------------------------------------------------------------------------


def sliding_windows(series, window, horizon=1, stride=1, gap=0, target=None):
    """Cut a long series into windows and what comes after each.

    Window i is the `window` rows from row ``i * stride`` on. The next `gap` rows are left out, and the `horizon` rows
    after them are its target. A row is a step: a series whose time stamps are uneven is resampled first.

    Parameters
    ----------
    series : array-like of shape (n_rows,) or (n_rows, n_channels), Series or DataFrame
        Numbers, oldest row first. The index of a Series or DataFrame must increase strictly.
    window : int
        Steps in a window.
    horizon : int, default=1
        Steps to forecast.
    stride : int, default=1
        Rows from the start of one window to the start of the next.
    gap : int, default=0
        Rows between the end of a window and its first target.
    target : column, list of columns or array of shape (n_rows,) or (n_rows, k), default=None
        What to forecast: columns of `series`, by name in a DataFrame and by position in an array, or values of its own
        for each row (an ndarray, Series or DataFrame). None is every column.

    Returns
    -------
    X : ndarray of shape (m, window, n_channels)
        The windows; m is ``(n_rows - window - gap - horizon) // stride + 1``.
    y : ndarray of shape (m,), (m, horizon) or (m, horizon, k)
        (m,) for one target and horizon 1; the last axis is there for k > 1 targets.
    index : Index of shape (m,), or ndarray of shape (m, horizon) if horizon > 1
        Where each target lies in the index of `series`; its row number if there is no index.

    Raises
    ------
    ValueError
        If the series is shorter than one window and its target, its index does not increase, or a column is not
        numeric.

    See Also
    --------
    sequences_from_frame : Samples out of a table that holds many series.
    sklearn.model_selection.TimeSeriesSplit : Trains on what was, tests on what came.

    Notes
    -----
    X and y are read-only views into `series`, so ten million rows cost no copy. A DataFrame of several dtypes, or
    a list of target columns, is copied once, row by row.

    The targets of the training windows are known when the first test forecast is made if
    ``gap + horizon - 1`` windows (over `stride`) are left out between them: ``TimeSeriesSplit(gap=...)``.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_cnnlstm.preprocessing import sliding_windows
    >>> X, y, index = sliding_windows(np.arange(10.0), window=4)
    >>> X.shape, X[0, :, 0].tolist(), float(y[0])
    ((6, 4, 1), [0.0, 1.0, 2.0, 3.0], 4.0)
    >>> X, y, index = sliding_windows(np.arange(10.0), window=4, horizon=2, stride=3, gap=1)
    >>> y.tolist()
    [[5.0, 6.0], [8.0, 9.0]]
    """
    _check_counts(window=(window, 1), horizon=(horizon, 1), stride=(stride, 1), gap=(gap, 0))
    values, index = _series(series, "series")
    targets = values if target is None else _targets(target, series, values, index)
    needed = window + gap + horizon
    if len(values) < needed:
        raise ValueError(
            f"series has {len(values)} rows; expected at least window + gap + horizon = {window} + {gap} + {horizon} = "
            f"{needed}."
        )
    first = window + gap  # row of the first target
    X = sliding_window_view(values[: len(values) - gap - horizon], window, axis=0)[::stride].mT  # (m, window, channel)
    y = sliding_window_view(targets[first:], horizon, axis=0)[::stride].mT  # (m, horizon, target)
    y = y[..., 0] if y.shape[-1] == 1 else y
    if horizon > 1:
        return X, y, sliding_window_view(index.to_numpy()[first:], horizon)[::stride]
    return X, y[:, 0] if y.ndim == 2 else y, index[first::stride]


def _check_counts(**counts):
    for name, (value, least) in counts.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name}={value!r}; expected an integer of at least {least}.")


def _series(series, name):
    """A long series as numbers (row, channel), uncopied where they are of one dtype, and its index."""
    if isinstance(series, pd.Series | pd.DataFrame):
        index = series.index
        _check_increasing(index, name)
        values = _numbers(series.to_frame() if series.ndim == 1 else series, name)
    else:
        values = np.asarray(series)
        index = pd.RangeIndex(len(values) if values.ndim else 0)
    values = values[:, np.newaxis] if values.ndim == 1 else values
    if values.ndim != 2 or values.shape[1] == 0 or values.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} has shape {values.shape} and dtype {values.dtype}; expected numbers of shape (n_rows,) or "
            "(n_rows, n_channels)."
        )
    return values, index


def _check_increasing(index, name):
    if isinstance(index, pd.MultiIndex):
        raise ValueError(
            f"The index of {name} has {index.nlevels} levels; expected one series: cut those of a panel one by one."
        )
    if not (index.is_monotonic_increasing and index.is_unique):
        labels = np.asarray(index)
        row = (labels[1:] > labels[:-1]).argmin() + 1
        raise ValueError(
            f"The index of {name} goes from {labels[row - 1]} to {labels[row]} in row {row}; expected labels that "
            "increase strictly: sort_index() and drop duplicates."
        )


def _targets(target, series, values, index):
    """The targets of each row (row, target)."""
    if isinstance(target, np.ndarray | pd.Series | pd.DataFrame):
        own, own_index = _series(target, "target")
        if len(own) != len(values):
            raise ValueError(f"target has {len(own)} rows and series {len(values)}; expected as many.")
        both_labelled = all(isinstance(values, pd.Series | pd.DataFrame) for values in (target, series))
        if both_labelled and not own_index.equals(index):
            raise ValueError("target and series have different indexes; expected the same labels in the same order.")
        return own
    names = series.columns if isinstance(series, pd.DataFrame) else pd.RangeIndex(values.shape[1])
    columns = _as_list(target)
    odd = [column for column in columns if (names == column).sum() != 1]
    if odd or not columns:
        raise ValueError(f"target={target!r}; expected columns, each found once, out of {names.tolist()}.")
    positions = [names.get_loc(column) for column in columns]
    if len(positions) == 1:
        return values[:, positions[0] :][:, :1]  # a view, which a list of columns is not
    return values[:, positions]


# -- transformers of 2-D X -----------------------------------------------------------------------------------------


def _inner_has(name):
    """Whether the transformer inside, fitted if it is already, has an attribute of this name."""
    return lambda self: hasattr(getattr(self, "transformer_", self.transformer), name)


class TimeDistributed(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):
    """Apply one transformer of 2-D X to every step of sequences.

    One transformer is fitted on a table with a row per sample and step, whose features are all places and channels of
    that step, and then transforms each step by itself.

    Parameters
    ----------
    transformer : transformer
        Such as `StandardScaler`, `PCA` or `SimpleImputer`: anything with `fit` and `transform` that keeps the number of
        rows. It is cloned.

    Attributes
    ----------
    transformer_ : transformer
        The fitted transformer.
    n_features_in_ : int
        Features of a step: places times channels.

    See Also
    --------
    sklearn.compose.ColumnTransformer : Transformers for some of the columns, also inside this one.

    Notes
    -----
    Trailing steps whose every value is NaN are padding: `fit` does not see them and they stay NaN. NaN elsewhere is up
    to the transformer. Axis 1 of X is time; the order of the axes behind it does not matter. y of shape (n_samples,)
    is handed on, repeated for each step (`SelectKBest`); y of other shapes and sample weights are not. Sparse output
    becomes dense. There is no `set_output`, which is for tables.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.decomposition import PCA
    >>> from sklearn_cnnlstm.preprocessing import TimeDistributed
    >>> X = np.random.default_rng(0).normal(size=(20, 6, 8, 8, 1))  # 20 sequences of 6 maps of 8 x 8
    >>> TimeDistributed(PCA(3)).fit_transform(X).shape
    (20, 6, 3)
    """

    def __init__(self, transformer):
        self.transformer = transformer

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        inner = get_tags(self.transformer)
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.allow_nan = inner.input_tags.allow_nan
        tags.target_tags.required = inner.target_tags.required
        tags.transformer_tags.preserves_dtype = inner.transformer_tags.preserves_dtype
        return tags

    def fit(self, X, y=None):
        """Fit one transformer to the steps of all samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_timesteps, ..., n_channels), or list of (T_i, ..., n_channels)
            Sequences of 3 to 6 dimensions, or samples of 2 to 5 that may differ in length.
        y : array-like of shape (n_samples,), default=None
            Targets of the samples, for a transformer that needs them; of another shape it is ignored.

        Returns
        -------
        self : object
            The fitted transformer.
        """
        if not hasattr(self.transformer, "transform"):
            raise TypeError(f"transformer={self.transformer!r} has no method transform; expected a transformer.")
        steps = _Steps(X)
        targets = None
        if y is not None and getattr(y, "ndim", 1) == 1 and all(np.ndim(target) == 0 for target in y):
            check_consistent_length(X, y)
            targets = steps.repeat(y)
        self.transformer_ = clone(self.transformer).fit(steps.rows, targets)
        self.n_features_in_ = steps.rows.shape[1]
        self._step_shape = steps.step_shape
        return self

    def transform(self, X):
        """Transform every step.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_timesteps, ..., n_channels), or list of (T_i, ..., n_channels)
            Sequences with steps of the shape that fit saw, and of any length.

        Returns
        -------
        X_transformed : ndarray, or list of ndarray if X is a list
            In the shape of X if the transformer keeps the number of features, else (n_samples, n_timesteps, k).
        """
        check_is_fitted(self)
        steps = _Steps(X)
        if steps.step_shape != self._step_shape:
            raise ValueError(
                f"X has steps of shape {steps.step_shape}, but TimeDistributed was fitted with {self._step_shape}."
            )
        return steps.rebuild(self.transformer_.transform(steps.rows), self._step_shape)

    @available_if(_inner_has("inverse_transform"))
    def inverse_transform(self, X):
        """Undo `transform`, as well as the transformer can.

        Parameters
        ----------
        X : array-like or list of arrays
            As `transform` returns it.

        Returns
        -------
        X_original : ndarray, or list of ndarray if X is a list
            Steps in the shape that fit saw.
        """
        check_is_fitted(self)
        steps = _Steps(X)
        return steps.rebuild(self.transformer_.inverse_transform(steps.rows), self._step_shape)

    @available_if(_inner_has("get_feature_names_out"))
    def get_feature_names_out(self, input_features=None):
        """Names of the features of a transformed step.

        Parameters
        ----------
        input_features : array-like of shape (n_features_in_,), default=None
            Names of the features of a step; None is x0, x1 and so on.

        Returns
        -------
        feature_names_out : ndarray of str
            What the transformer calls them.
        """
        check_is_fitted(self)
        return self.transformer_.get_feature_names_out(input_features)


class _Steps:
    """The steps of sequences as rows of a table, without padding, and the way back."""

    def __init__(self, X):
        self.is_ragged = _sequences.is_listed(X)
        self.is_object = self.is_ragged and isinstance(X, np.ndarray)
        if self.is_ragged:
            samples = _check_samples([np.asarray(_sequences.to_array(sample)) for sample in X])
            self.step_shape = samples[0].shape[1:]
            self.lengths = np.array([len(sample) for sample in samples])
            rows = np.concatenate([sample.reshape(len(sample), -1) for sample in samples])
        else:
            X = np.asarray(_sequences.to_array(X))
            if not 3 <= X.ndim <= 6 or 0 in X.shape[1:]:
                raise ValueError(
                    f"X has shape {X.shape}; expected 3 to 6 dimensions (n_samples, n_timesteps, ..., n_channels), "
                    "none of them empty, or a list of samples (a table of 2 dimensions needs no TimeDistributed)."
                )
            self.n_timesteps, self.step_shape = X.shape[1], X.shape[2:]
            self.lengths = np.full(len(X), X.shape[1])
            rows = X.reshape(-1, math.prod(self.step_shape))
        self.is_valid = _before_padding(rows, self.lengths)
        self.rows = rows if self.is_valid.all() else rows[self.is_valid]

    def repeat(self, y):
        """What belongs to a sample, for each of its rows."""
        return np.repeat(np.asarray(y), self.lengths, axis=0)[self.is_valid]

    def rebuild(self, rows, step_shape):
        """Transformed rows as sequences; their steps have `step_shape` if its size is the width of a row."""
        rows = rows.toarray() if issparse(rows) else np.asarray(rows)
        if rows.ndim != 2 or len(rows) != len(self.rows):
            raise ValueError(
                f"The transformer made {rows.shape} of {len(self.rows)} rows; expected 2 dimensions and as many rows."
            )
        if not self.is_valid.all():
            padded = np.full((len(self.is_valid), rows.shape[1]), np.nan, np.result_type(rows, np.float32))
            padded[self.is_valid] = rows
            rows = padded
        rows = rows.reshape(len(rows), *(step_shape if math.prod(step_shape) == rows.shape[1] else rows.shape[1:]))
        if not self.is_ragged:
            return rows.reshape(len(self.lengths), self.n_timesteps, *rows.shape[1:])
        samples = np.split(rows, np.cumsum(self.lengths)[:-1])
        if not self.is_object:
            return samples
        array = np.empty(len(samples), dtype=object)
        for i, sample in enumerate(samples):
            array[i] = sample
        return array


def _check_samples(samples):
    """The samples of ragged X, if their steps have one shape."""
    if not samples:
        raise ValueError("X is an empty list; expected at least one sample.")
    for i, sample in enumerate(samples):
        if not 2 <= sample.ndim <= 5 or 0 in sample.shape[1:]:
            raise ValueError(f"Sample {i} of X has shape {sample.shape}; expected (n_timesteps, ..., n_channels).")
        if sample.shape[1:] != samples[0].shape[1:]:
            raise ValueError(
                f"Sample {i} of X has steps of shape {sample.shape[1:]} and sample 0 of {samples[0].shape[1:]}; "
                "expected one shape."
            )
    return samples


def _before_padding(rows, lengths):
    """Which rows are not in the padding: the trailing rows of a sample whose every value is NaN."""
    is_valid = np.ones(len(rows), dtype=bool)
    ends = np.cumsum(lengths)
    last = ends[lengths > 0] - 1
    if rows.dtype.kind != "f" or not np.isnan(rows[last]).all(axis=1).any():
        return is_valid
    is_empty = np.isnan(rows).all(axis=1)
    for start, end in zip(ends - lengths, ends, strict=True):
        steps = is_empty[start:end]
        is_valid[start:end] = ~np.logical_and.accumulate(steps[::-1])[::-1]
    return is_valid
