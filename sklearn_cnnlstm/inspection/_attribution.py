"""Which step, which channel, which place drove an answer?"""

import copy
import itertools
import math

import numpy as np
import torch
from sklearn.base import is_classifier
from torch import nn

from .._network import OwnUnits
from ._extras import import_extra
from ._stem import stride
from ._unwrap import unwrap
from ._user_form import to_padded

_METHODS = ("integrated_gradients", "occlusion")
_POSITIONS = 2**17  # steps or pixels of all samples that the network sees at once
_INTEGRATION_STEPS = (32, 64, 128, 256, 512)
_STRAIGHT = (0.0, 1.0)
_FROM_START = (0.0, 1e-4, 1e-3, 1e-2, 0.1, 1.0)  # a constant series, in units of its own, soon is what X is
_TOLERANCE = 0.01  # of the change of the answer, beyond which the integral is made finer


def attribute(estimator, X, target=None, method="integrated_gradients", *, baseline=None, window=None):
    """How much each value of X adds to an answer of the network.

    Parameters
    ----------
    estimator : estimator
        Fitted CNNLSTMClassifier or CNNLSTMRegressor, or a search over one.
    X : array-like of the shape that fit saw
        Samples to explain.
    target : label, int or tuple, default=None
        Which answer: a label out of `classes_` for a classifier, an index into the answer to one sample for a
        regressor; with `target="step"` a step comes first, (step, label) or (step, output), with "map" a place,
        (row, column, label). None is the predicted class, or the only number.
    method : "integrated_gradients" or "occlusion", default="integrated_gradients"
        "integrated_gradients" follows the gradient from the baseline to X: the values add up to the change of the
        answer (to about a hundredth of it; a tenth, if classified series are seen in units of their own, too).
        "occlusion" replaces one window after the other by the baseline and spreads
        the change of the answer evenly over the window.
    baseline : float or array-like, default=None
        What X is compared with; it broadcasts against X. None is the mean of each channel in the training data.
    window : tuple of int, default=None
        What "occlusion" replaces at once: (time, \\*space, channel). None is a sixteenth of a series and one channel;
        with space it is an eighth of the time, a sixth of each axis of space and all channels.

    Returns
    -------
    attributions : ndarray or list of ndarray, float32
        In the shape of X. For a classifier in units of `decision_function`, turned so that positive speaks for the
        target; for a regressor in units of y. 0 where X has padding or misses a value.

    References
    ----------
    M. Sundararajan et al., "Axiomatic Attribution for Deep Networks", ICML 2017.

    M. D. Zeiler and R. Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_cnnlstm import CNNLSTMRegressor
    >>> from sklearn_cnnlstm.inspection import attribute
    >>> X = np.random.default_rng(0).normal(size=(60, 10, 2))
    >>> model = CNNLSTMRegressor(max_epochs=20, random_state=0).fit(X, X[:, -1, 0])
    >>> abs(attribute(model, X)).mean(axis=0).argmax()  # the last step of channel 0
    np.int64(18)
    """
    if method not in _METHODS:
        raise ValueError(f"method={method!r}; expected one of {_METHODS}.")
    explain = import_extra("captum.attr", "attribute")
    estimator = unwrap(estimator, pipelines=False)
    answers = estimator.predict(X)  # which checks X too
    padded, lengths, restore = to_padded(X, estimator)
    if estimator.target == "step":  # behind the end of a sample there is none
        answers = [answer[:length] for answer, length in zip(answers, lengths, strict=True)]
    outputs = [_output_of(estimator, answer, target) for answer in answers]
    baselines = None if baseline is None else to_padded(_broadcast(baseline, X), estimator)[0]
    network = differentiable_copy(estimator)

    def answer(X, direction):
        return (network(X).float().flatten(1) * direction).sum(1)

    attributions = np.zeros(padded.shape, dtype=np.float32)
    for rows in batches(padded.shape, lengths):
        place = np.s_[rows, : lengths[rows[0]]]
        part = as_tensor(padded[place], network)
        start = network.input_mean.expand_as(part) if baselines is None else as_tensor(baselines[place], network)
        start = torch.where(part.isnan(), torch.nan, start)  # what is missing stays so
        direction = _directions([outputs[row] for row in rows], network, part)
        if method == "occlusion":
            values = _occlude(explain.Occlusion(answer), part, start, direction, window)
        else:
            ends = _FROM_START if isinstance(network.units, OwnUnits) else _STRAIGHT
            values = _integrate(explain.IntegratedGradients(answer), part, start, direction, ends)
        attributions[place] = values.nan_to_num().cpu().numpy()
    return restore(attributions)


# -- which answer --------------------------------------------------------------------------------------------------


def _output_of(estimator, answer, target):
    """{position in the network's output, laid flat: factor}, whose sum moves as the answer to explain does."""
    return (_output_of_label if is_classifier(estimator) else _output_of_number)(estimator, answer, target)


def _output_of_label(estimator, answer, target):
    classes, answer = estimator.classes_, np.asarray(answer)
    is_multilabel = estimator.target == "sample" and answer.ndim == 1
    where, label = (), target
    if answer.ndim and not is_multilabel:
        if not isinstance(target, tuple) or len(target) != answer.ndim + 1:
            raise ValueError(f"target={target!r}; expected a tuple {_place_and_label(answer)}.")
        *where, label = target
    try:
        place = _places(answer.shape)[tuple(where)] if where else 0
    except IndexError as error:
        raise ValueError(f"target={target!r}; expected {_place_and_label(answer)}: {error}.") from error
    if label is None and not is_multilabel:
        label = answer[tuple(where)]
    code = np.flatnonzero(classes == label)
    if len(code) != 1:
        raise ValueError(f"target={target!r} names none of the classes; expected one of {classes.tolist()}.")
    first, code = place * len(classes), code[0]
    if len(classes) == 2 and not is_multilabel:
        return {first + code: 1.0, first + 1 - code: -1.0}
    return {first + code: 1.0}


def _place_and_label(answer):
    return f"({', '.join(f'0 to {size - 1}' for size in answer.shape)}, label)"


def _output_of_number(estimator, answer, target):
    shape = np.shape(answer)
    try:
        place = np.asarray(_places(shape)[() if target is None else target])
    except IndexError:
        place = np.empty(0)
    if place.size != 1:
        raise ValueError(
            f"target={target!r} picks {place.size} numbers of an answer of shape {shape}; expected an index of one."
        )
    place, quantiles = int(place.item()), estimator.quantiles_ or (0.5,)
    scale = estimator.net_.module_.target_statistics()[1]  # of each output, for maps of each of their pixels
    return {place * len(quantiles) + quantiles.index(0.5): scale.flat[place % scale.size]}


def _places(shape):
    return np.arange(math.prod(shape)).reshape(shape)


def _directions(outputs, network, X):
    """(sample, output) weights whose product with the network's output is each sample's answer."""
    with torch.no_grad():
        size = network(X[:1]).numel()
    direction = torch.zeros(len(outputs), size)
    for row, output in zip(direction, outputs, strict=True):
        for position, factor in output.items():
            row[position] = factor
    return direction.to(X.device)


# -- methods -------------------------------------------------------------------------------------------------------


def _integrate(method, X, start, direction, ends):
    """Integrated gradients, finer for the samples whose sum is not yet the change of the answer.

    The way from start to X is divided at `ends`, and each part of it in as many steps.
    """
    with torch.no_grad():
        change = method.forward_func(X, direction) - method.forward_func(start, direction)
    values = torch.empty_like(X)
    rows = torch.arange(len(X), device=X.device)
    for n_steps in _INTEGRATION_STEPS:
        values[rows] = sum(
            method.attribute(
                torch.lerp(start[rows], X[rows], end),
                torch.lerp(start[rows], X[rows], begin),
                additional_forward_args=(direction[rows],),
                n_steps=math.ceil(n_steps / (len(ends) - 1)),
                internal_batch_size=max(len(rows), _rows_at_once(X.shape)),
            )
            for begin, end in itertools.pairwise(ends)
        ).to(X.dtype)
        parts = values[rows].flatten(1).nan_to_num()
        gap = (parts.sum(1) - change[rows]).abs()
        rows = rows[gap > _TOLERANCE * torch.maximum(change[rows].abs(), parts.abs().sum(1) / 10)]
        if len(rows) == 0:
            break
    return values


def _occlude(method, X, start, direction, window):
    window = _default_window(X.shape[1:]) if window is None else tuple(window)
    if len(window) != X.ndim - 1:
        raise ValueError(f"window={window} has {len(window)} entries; expected {X.ndim - 1}: (time, *space, channel).")
    window = tuple(min(pair) for pair in zip(window, X.shape[1:], strict=True))
    with torch.no_grad():
        changes = method.attribute(
            X,
            window,
            strides=window,
            baselines=start,
            additional_forward_args=(direction,),
            perturbations_per_eval=max(1, _rows_at_once(X.shape) // len(X)),
        )
    return changes / _window_sizes(X, window)


def _window_sizes(X, window):
    """The number of values in the window of each value; those at the ends are cut."""
    sizes = torch.ones_like(X[:1])
    for axis, (size, length) in enumerate(zip(X.shape[1:], window, strict=True)):
        start = torch.arange(size, device=X.device) // length * length
        sizes *= (size - start).clamp(max=length).reshape(-1, *[1] * (X.ndim - 2 - axis))
    return sizes


def _default_window(shape):
    n_timesteps, *space, n_channels = shape
    if not space:
        return math.ceil(n_timesteps / 16), 1
    return math.ceil(n_timesteps / 8), *(math.ceil(size / 6) for size in space), n_channels


# -- the network ---------------------------------------------------------------------------------------------------


def differentiable_copy(estimator):
    """The network with fixed weights and ready for gradients, apart from the one that other threads may be using."""
    network = copy.deepcopy(estimator.net_.module_).eval().requires_grad_(False)
    for layer in network.modules():
        if isinstance(layer, nn.RNNBase) and not layer.dropout:
            layer.train()  # cuDNN has gradients of recurrent layers for training alone; without dropout it is the same
    return network


def batches(shape, lengths):
    """Row numbers, samples of one length together, in numbers that fit the memory."""
    size = _rows_at_once(shape)
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        yield from np.split(rows, range(size, len(rows), size))


def _rows_at_once(shape):
    return max(1, _POSITIONS // math.prod(shape[1:-1]))


def as_tensor(X, network):
    return torch.from_numpy(np.array(X, dtype=np.float32)).to(network.input_mean.device)


def _broadcast(baseline, X):
    """The baseline in the form of X."""
    if isinstance(X, list | tuple) or getattr(X, "dtype", None) is np.dtype(object):
        return [np.broadcast_to(baseline, np.shape(sample)) for sample in X]
    return np.broadcast_to(np.asarray(baseline, dtype=float), np.shape(X))


def attention_weights(estimator, X):
    """How much the attention pooling looks at each step.

    Parameters
    ----------
    estimator : estimator
        CNNLSTMClassifier or CNNLSTMRegressor fitted with "attention" in `pooling`, or a search over one.
    X : array-like of the shape that fit saw
        Samples to look at.

    Returns
    -------
    weights : ndarray of shape (n_samples, n_timesteps), float32
        They add up to 1 for each sample; padding has 0. Where the CNN pools time, the weight of a step of the LSTM is
        spread evenly over the steps of X that it comes from.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_cnnlstm import CNNLSTMRegressor
    >>> from sklearn_cnnlstm.inspection import attention_weights
    >>> X = np.random.default_rng(0).normal(size=(20, 10, 2))
    >>> model = CNNLSTMRegressor(max_epochs=2, random_state=0).fit(X, X[:, -1, 0])
    >>> attention_weights(model, X).sum(axis=1).round(3)[:3]
    array([1., 1., 1.], dtype=float32)
    """
    estimator = unwrap(estimator, pipelines=False)
    network = differentiable_copy(estimator)
    attention = getattr(getattr(network, "pool", None), "attention", None)
    if attention is None or estimator.target != "sample":
        raise ValueError(
            f"pooling={estimator.pooling!r} and target={estimator.target!r} have no attention; expected an estimator "
            "with 'attention' in pooling and target='sample'."
        )
    estimator.predict(X)  # checks X
    padded, lengths, _ = to_padded(X, estimator)
    width = stride(network) if padded.ndim == 3 else 1
    scores = []
    attention.register_forward_hook(lambda layer, inputs, output: scores.append(output.squeeze(-1)))
    weights = np.zeros(padded.shape[:2], dtype=np.float32)
    for rows in batches(padded.shape, lengths):
        with torch.no_grad():
            network(as_tensor(padded[rows, : lengths[rows[0]]], network))
        per_step = scores.pop().softmax(1).cpu().numpy()
        source = np.minimum(np.arange(lengths[rows[0]]) // width, per_step.shape[1] - 1)
        weights[rows, : lengths[rows[0]]] = per_step[:, source] / np.bincount(source)[source]
    return weights
