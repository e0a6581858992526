"""How did the user pass X, and how do results go back in that form?"""

import numpy as np

from .. import _sequences


def to_padded(X, estimator):
    """X as (sample, time, *space, channel) with its lengths, and a function that gives such arrays the form of X.

    Samples of unequal length are padded with NaN at the end. `estimator` has the `layout` and the `input_shape`.
    """
    form = {"layout": estimator.layout, "input_shape": estimator.input_shape}
    if _is_ragged(X):
        samples = [_sequences.canonical(np.asarray(sample)[np.newaxis], **form)[0] for sample in X]
        lengths = np.array([len(sample) for sample in samples])
        padded = np.full((len(samples), lengths.max(), *samples[0].shape[1:]), np.nan)
        for row, sample in zip(padded, samples, strict=True):
            row[: len(sample)] = sample
        return padded, lengths, lambda values: _as_list(values, lengths, X, estimator.layout)
    array = np.asarray(_sequences.to_array(X))
    canonical = _sequences.canonical(array, **form)
    lengths = np.full(len(array), canonical.shape[1]) if array.ndim == 2 else _lengths(canonical)  # a table has no end
    if hasattr(X, "columns"):  # names go back too: scikit-learn warns where they are missing
        return canonical, lengths, lambda values: type(X)(values.reshape(X.shape), X.index, X.columns)
    return canonical, lengths, lambda values: _as_layout(values, estimator.layout).reshape(array.shape)


def _is_ragged(X):
    return _sequences.is_listed(X) and len({np.shape(sample) for sample in X}) > 1


def _lengths(X):
    """Steps of each sample up to the last one with a value that is not NaN."""
    if X.dtype.kind != "f":
        return np.full(len(X), X.shape[1])
    observed = ~np.isnan(X).reshape(*X.shape[:2], -1).all(axis=2)
    return X.shape[1] - observed[:, ::-1].argmax(axis=1)


def _as_layout(X, layout):
    """(sample, time, *space, channel) with its axes in the order of `layout`."""
    if layout is None:
        return X
    axes_of_user = _sequences.canonical(np.empty(range(1, X.ndim + 1)), layout=layout).shape  # axis i has length i + 1
    return X.transpose(np.argsort(axes_of_user))


def _as_list(values, lengths, X, layout):
    samples = [_as_layout(row[np.newaxis, :length], layout)[0] for row, length in zip(values, lengths, strict=True)]
    if isinstance(X, np.ndarray):
        ragged = np.empty(len(samples), dtype=object)
        ragged[:] = samples
        return ragged
    return samples
