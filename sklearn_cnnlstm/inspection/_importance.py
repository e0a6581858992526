"""Does the order of the steps matter, and the space inside them? Scores after parts of X were destroyed."""

import itertools

import numpy as np
from sklearn.metrics import check_scoring
from sklearn.utils import Bunch, check_random_state

from ._extras import BLUE, GREY, ORANGE, new_axes, tidy
from ._stem import receptive_field
from ._unwrap import unwrap
from ._user_form import to_padded

_TIME_BLOCKS = 8
_REGIONS_PER_AXIS = {1: 8, 2: 4, 3: 2}
_MOST_NAMES = 20
_ERROR = {"error_kw": {"linewidth": 1, "ecolor": "0.15"}}


def spatiotemporal_importance(estimator, X, y, scoring=None, n_repeats=5, random_state=None):
    """How much of the score is lost when order, space, a channel, a stretch of time or a region is destroyed.

    Two questions of the architecture come first. *Order*, which the LSTM reads: for 4-D X and up the steps of each
    sample are shuffled; a 3-D series is cut into blocks longer than what the learned CNN sees at once, and they are
    shuffled. *Space*, which the CNN reads: the places inside each step are shuffled, in a 3-D series the steps inside
    each of those blocks. Then each channel, each eighth of the time and each region of the space is replaced by that of
    another sample, as permutation importance does with a feature.

    Parameters
    ----------
    estimator : estimator
        Fitted CNNLSTMClassifier or CNNLSTMRegressor, a pipeline that ends in one, or a search over one.
    X : array-like of the shape that fit saw
        Samples, best ones that fit has not seen.
    y : array-like of shape (n_samples, ...)
        Their labels or targets.
    scoring : str or callable, default=None
        scikit-learn's scorer; None is the `score` of the estimator.
    n_repeats : int, default=5
        Times that each part is destroyed.
    random_state : int, RandomState or None, default=None
        Seed of the shuffling.

    Returns
    -------
    result : Bunch
        `score` of the untouched X, and a Bunch for each part with `importances` (score lost, the last axis is the
        repeats), `importances_mean` and `importances_std`: `order` and `space` of shape (n_repeats,), `channels`
        (n_channels, n_repeats), `time` (n_blocks, n_repeats) and, where X has space, `regions` (\\*grid, n_repeats).
        `block_length` is the least length of the blocks whose order is shuffled, 1 for 4-D X and up; where the
        longest series has not two blocks longer than what the CNN sees, it is cut in two. `time_edges` are the steps
        between which the blocks of `time` lie.

    See Also
    --------
    sklearn.inspection.permutation_importance : The same for the columns of a table.

    Notes
    -----
    The network is not trained anew: a loss tells what this network reads, not what another could do without. It is
    that of the network as a whole: the frozen kernels of `conv_bank`, the longest of which reach over a whole series,
    read order beside the LSTM. For what the LSTM alone adds to the CNN, fit with `conv_bank=0`.

    References
    ----------
    L. Breiman, "Random Forests", Machine Learning 45(1), 2001.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_cnnlstm import CNNLSTMClassifier
    >>> from sklearn_cnnlstm.inspection import spatiotemporal_importance
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(80, 6, 5, 1))  # 80 sequences of 6 steps, 5 places in a line
    >>> X = np.sort(X, axis=1)
    >>> X[::2] = X[::2, ::-1]  # values that fall, the same as those that rise
    >>> y = np.arange(80) % 2
    >>> model = CNNLSTMClassifier(max_epochs=10, random_state=0).fit(X, y)
    >>> result = spatiotemporal_importance(model, X, y, random_state=0)
    >>> bool(result.order.importances_mean > 0.2 > result.space.importances_mean)
    True
    """
    inner = unwrap(estimator)
    X, lengths, restore = to_padded(X, inner)
    rng = np.random.default_rng(check_random_state(random_state).randint(np.iinfo(np.int32).max))
    scorer = check_scoring(estimator, scoring=scoring)
    score = scorer(estimator, restore(X), y)

    def loss(destroy, *arguments):
        destroyed = (destroy(X, lengths, *arguments, rng) for _ in range(n_repeats))
        return [score - scorer(estimator, restore(part), y) for part in destroyed]

    is_series = X.ndim == 3
    block_length = min(receptive_field(inner.net_.module_) + 1, max(1, lengths.max() // 2)) if is_series else 1
    order = loss(_shuffle_blocks, block_length)
    space = loss(_shuffle_inside_blocks, block_length) if is_series else loss(_shuffle_places)
    everywhere = [slice(0, size) for size in X.shape[2:]]
    channels = [loss(_borrow, (0, 1), [*everywhere[:-1], slice(c, c + 1)]) for c in range(X.shape[-1])]
    n_blocks = min(_TIME_BLOCKS, lengths.max())
    time = [loss(_borrow, (block, n_blocks), everywhere) for block in range(n_blocks)]
    parts = {"order": order, "space": space, "channels": channels, "time": time}
    if not is_series:
        regions = _regions(X.shape[2:-1])
        losses = [loss(_borrow, (0, 1), [*region, everywhere[-1]]) for region in itertools.product(*regions)]
        parts["regions"] = np.reshape(losses, (*map(len, regions), n_repeats))
    return Bunch(
        score=score,
        block_length=block_length,
        time_edges=np.linspace(0, lengths.max(), n_blocks + 1),
        **{name: _as_bunch(part) for name, part in parts.items()},
    )


def _as_bunch(importances):
    importances = np.array(importances)
    return Bunch(
        importances_mean=importances.mean(axis=-1), importances_std=importances.std(axis=-1), importances=importances
    )


def _regions(space):
    """For each axis of space the slices into which it is cut."""
    pieces = _REGIONS_PER_AXIS[len(space)]
    edges = [np.linspace(0, size, min(size, pieces) + 1).astype(int) for size in space]
    return [list(itertools.starmap(slice, itertools.pairwise(axis))) for axis in edges]


# -- destroying ----------------------------------------------------------------------------------------------------


def _shuffle_blocks(X, lengths, block_length, rng):
    """Each sample's steps in another order of its blocks; padding stays at the end."""
    return _reordered(X, lengths, block_length, lambda blocks: [blocks[i] for i in _other_order(len(blocks), rng)])


def _shuffle_inside_blocks(X, lengths, block_length, rng):
    """Each sample's steps in another order inside each block."""
    return _reordered(X, lengths, block_length, lambda blocks: [rng.permutation(block) for block in blocks])


def _reordered(X, lengths, block_length, reorder):
    order = np.tile(np.arange(X.shape[1]), (len(X), 1))
    for row, length in zip(order, lengths, strict=True):
        n_blocks = max(length // block_length, min(2, length))
        row[:length] = np.concatenate(reorder(np.array_split(row[:length].copy(), n_blocks)))
    return X[np.arange(len(X))[:, np.newaxis], order]


def _other_order(n, rng):
    order = np.arange(n)
    while n > 1 and (order == np.arange(n)).all():
        order = rng.permutation(n)
    return order


def _shuffle_places(X, lengths, rng):
    """Another order of the places inside each step, all channels of a place together."""
    X = np.array(X)
    for sample in X:
        places = sample.reshape(len(sample), -1, sample.shape[-1])
        order = rng.random(places.shape[:2]).argsort(axis=1)
        places[:] = np.take_along_axis(places, order[:, :, np.newaxis], axis=1)
    return X


def _borrow(X, lengths, stretch, place, rng):
    """`place` (slices of space and channel) in a stretch of time (i, n), the i-th of n, from another sample.

    Where the other sample is longer or shorter, its steps are thinned out or repeated.
    """
    donors = _other_order(len(X), rng)
    steps = np.arange(X.shape[1])
    length = lengths[:, np.newaxis]
    block, n_blocks = stretch
    taken = (steps < length) & (steps * n_blocks // length == block)
    source = np.where(taken, steps * lengths[donors][:, np.newaxis] // length, steps)
    X = np.array(X)
    part = X[:, :, *place]
    np.copyto(part, part[donors[:, np.newaxis], source], where=taken.reshape(*taken.shape, *[1] * (X.ndim - 2)))
    return X


# -- the picture ---------------------------------------------------------------------------------------------------


class SpatiotemporalImportanceDisplay:
    """Bars for the loss of order and space, of channels and of stretches of time, a map for regions.

    Made by `from_estimator`, or from what `spatiotemporal_importance` returned.

    Parameters
    ----------
    importance : Bunch
        What `spatiotemporal_importance` returned.

    Attributes
    ----------
    ax_ : ndarray of Axes
        Order and space, channels, time and, where there is space, regions.
    figure_ : Figure
        What they stand on.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_cnnlstm import CNNLSTMRegressor
    >>> from sklearn_cnnlstm.inspection import SpatiotemporalImportanceDisplay
    >>> X = np.random.default_rng(0).normal(size=(40, 16, 2))
    >>> model = CNNLSTMRegressor(max_epochs=2, random_state=0).fit(X, X[:, -1, 0])
    >>> display = SpatiotemporalImportanceDisplay.from_estimator(model, X, X[:, -1, 0], random_state=0)
    >>> [ax.get_title() for ax in display.ax_]
    ['order and space', 'channels', 'time']
    """

    def __init__(self, importance):
        self.importance = importance

    @classmethod
    def from_estimator(
        cls, estimator, X, y, *, scoring=None, n_repeats=5, random_state=None, ax=None, channel_names=None
    ):
        """Compute the importances and draw them.

        Parameters
        ----------
        estimator, X, y, scoring, n_repeats, random_state : various
            As in `spatiotemporal_importance`.
        ax : sequence of Axes, default=None
            One per panel; None makes a figure.
        channel_names : sequence of str, default=None
            Names of the channels; None numbers them.

        Returns
        -------
        display : SpatiotemporalImportanceDisplay
            With the figure in `figure_` and the numbers in `importance`.
        """
        importance = spatiotemporal_importance(
            estimator, X, y, scoring=scoring, n_repeats=n_repeats, random_state=random_state
        )
        return cls(importance).plot(ax=ax, channel_names=channel_names)

    def plot(self, *, ax=None, channel_names=None):
        """Draw the importances.

        Parameters
        ----------
        ax : sequence of Axes, default=None
            One per panel; None makes a figure.
        channel_names : sequence of str, default=None
            Names of the channels; None numbers them.

        Returns
        -------
        display : SpatiotemporalImportanceDisplay
            Itself.
        """
        importance = self.importance
        has_space = "regions" in importance
        figure, axes = new_axes(type(self).__name__, ax, 3 + has_space, width=3.6, height=3.0)
        _draw_order_and_space(axes[0], importance)
        n_channels = len(importance.channels.importances_mean)
        _draw_bars(axes[1], importance.channels, range(n_channels) if channel_names is None else channel_names)
        axes[1].set(title="channels", ylabel="channel" if channel_names is None else None)
        _draw_profile(axes[2], importance.time, importance.time_edges)
        axes[2].set(title="time", xlabel="step")
        if has_space:
            _draw_regions(axes[3], importance.regions)
        self.figure_ = figure
        self.ax_ = np.array(axes)
        return self


def _draw_order_and_space(ax, importance):
    """The two questions, with what was done to X."""
    mean = [importance[part].importances_mean for part in ("order", "space")]
    std = [importance[part].importances_std for part in ("order", "space")]
    if "regions" in importance:
        done = "steps shuffled", "places in\neach step\nshuffled"
    else:
        done = f"blocks of {importance.block_length}\nsteps shuffled", "steps in these\nblocks shuffled"
    ax.bar([f"order\n{done[0]}", f"space\n{done[1]}"], mean, yerr=std, color=[BLUE, ORANGE], width=0.6, **_ERROR)
    ax.set(title="order and space", ylabel=f"score lost, of {importance.score:.2f}")
    tidy(ax)
    ax.grid(visible=False, axis="x")


def _draw_bars(ax, part, names):
    """A horizontal bar per channel, the first on top; the names of many are left to the axis."""
    places = np.arange(len(part.importances_mean))
    ax.barh(places, part.importances_mean, xerr=part.importances_std, color=GREY, height=0.7, **_ERROR)
    if len(places) <= _MOST_NAMES:
        ax.set_yticks(places, [str(name) for name in names])
    ax.invert_yaxis()
    ax.set_xlabel("score lost")
    tidy(ax)
    ax.grid(visible=False, axis="y")


def _draw_profile(ax, part, edges):
    """A bar per stretch of time or of a line, as wide as the stretch."""
    ax.bar(
        edges[:-1],
        part.importances_mean,
        np.diff(edges),
        yerr=part.importances_std,
        align="edge",
        color=GREY,
        edgecolor="white",
        **_ERROR,
    )
    ax.axhline(0, color="0.3", linewidth=0.8)
    ax.set_ylabel("score lost")
    tidy(ax)
    ax.grid(visible=False, axis="x")


def _draw_regions(ax, part):
    mean = part.importances_mean
    if mean.ndim == 1:
        _draw_profile(ax, part, np.arange(len(mean) + 1))
        ax.set(title="regions", xlabel="region")
        return
    picture = mean if mean.ndim == 2 else np.concatenate(mean, axis=1)  # the layers of a volume side by side
    most = max(abs(picture).max(), 1e-3)
    image = ax.imshow(picture, cmap="RdBu_r", vmin=-most, vmax=most)
    ax.figure.colorbar(image, ax=ax, label="score lost", shrink=0.8)
    ax.set(title="regions", xticks=[], yticks=[])
