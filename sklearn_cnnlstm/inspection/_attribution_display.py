"""The picture of an attribution: over the series, or over the frames with a curve over time."""

import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn.base import is_classifier

from ._attribution import attribute
from ._extras import import_extra, new_axes, tidy
from ._unwrap import unwrap
from ._user_form import to_padded

_RED, _BLUE = "#b2182b", "#2166ac"  # the ends of RdBu
_MOST_LINES = 20


class AttributionDisplay:
    """What speaks for an answer (red) and what against it (blue), in one sample.

    Made by `from_estimator`. A series is a heat map with a row per channel and the series drawn on it; a line of
    places is a heat map of place over time; images are some frames with the attribution on them and bars over time.
    Volumes are drawn as their sum along depth.

    Parameters
    ----------
    attribution, X : ndarray of shape (n_timesteps, \\*spatial, n_channels)
        Of one sample.
    title : str, default=""
        What was explained.

    Attributes
    ----------
    ax_ : Axes, or ndarray of Axes: the frames, then the bars over time
        Where it was drawn.
    figure_ : Figure
        What they stand on.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_cnnlstm import CNNLSTMRegressor
    >>> from sklearn_cnnlstm.inspection import AttributionDisplay
    >>> X = np.random.default_rng(0).normal(size=(20, 10, 2))
    >>> model = CNNLSTMRegressor(max_epochs=2, random_state=0).fit(X, X[:, -1, 0])
    >>> display = AttributionDisplay.from_estimator(model, X, sample=3)
    >>> display.attribution.shape
    (10, 2)
    """

    def __init__(self, attribution, X, title=""):
        self.attribution = attribution
        self.X = X
        self.title = title

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        *,
        sample=0,
        target=None,
        method="integrated_gradients",
        baseline=None,
        window=None,
        ax=None,
        channel_names=None,
        n_frames=6,
    ):
        """Explain one sample and draw it.

        Parameters
        ----------
        estimator, target, method, baseline, window : various
            As in `attribute`.
        X : array-like of the shape that fit saw
            Samples.
        sample : int, default=0
            Which of them.
        ax : Axes or sequence of Axes, default=None
            One for a series or a line, `n_frames` and one for the curve for images; None makes a figure.
        channel_names : sequence of str, default=None
            Names of the channels of a series; None numbers them.
        n_frames : int, default=6
            Frames to show of images, spread evenly over time.

        Returns
        -------
        display : AttributionDisplay
            With the figure in `figure_`.
        """
        inner = unwrap(estimator, pipelines=False)
        one = X.iloc[[sample]] if hasattr(X, "iloc") else [X[sample]] if isinstance(X, list) else X[sample : sample + 1]
        values = attribute(inner, one, target, method, baseline=baseline, window=window)
        values, (length,), _ = to_padded(values, inner)
        picture, _, _ = to_padded(one, inner)
        title = _title(inner, inner.predict(one)[0], target)
        display = cls(values[0, :length], picture[0, :length], title)
        return display.plot(ax=ax, channel_names=channel_names, n_frames=n_frames)

    def plot(self, *, ax=None, channel_names=None, n_frames=6):
        """Draw the attribution.

        Parameters
        ----------
        ax : Axes or sequence of Axes, default=None
            One for a series or a line, `n_frames` and one for the curve for images; None makes a figure.
        channel_names : sequence of str, default=None
            Names of the channels of a series; None numbers them.
        n_frames : int, default=6
            Frames to show of images, spread evenly over time.

        Returns
        -------
        display : AttributionDisplay
            Itself.
        """
        name = type(self).__name__
        n_spatial = self.attribution.ndim - 2
        if n_spatial < 2:
            height = 1.2 + 0.3 * max(self.attribution.shape[1], 5)
            self.figure_, (axis,) = new_axes(name, ax, 1, width=7.0, height=min(height, 6.0))
            if n_spatial == 0:
                _draw_series(axis, self.attribution, self.X, channel_names)
            else:
                _draw_line_of_places(axis, self.attribution)
            axis.set_title(self.title)
            self.ax_ = axis
            return self
        n_frames = min(n_frames, len(self.attribution))
        self.figure_, axes = _frame_axes(name, n_frames) if ax is None else new_axes(name, ax, n_frames + 1, 0, 0)
        attribution, picture = self.attribution, self.X
        if n_spatial == 3:
            attribution, picture = attribution.sum(1), picture.mean(1)
        steps = np.linspace(0, len(attribution) - 1, n_frames).round().astype(int)
        _draw_frames(axes[:-1], attribution, picture, steps)
        _draw_curve(axes[-1], attribution, steps)
        self.figure_.suptitle(self.title)
        self.ax_ = np.array(axes)
        return self


def _title(estimator, answer, target):
    if not is_classifier(estimator):
        return "What raises the prediction (red), what lowers it (blue)"
    label = answer if target is None else target[-1] if isinstance(target, tuple) else target
    return f"What speaks for {str(label)!r} (red), what against it (blue)"


def _draw_series(ax, attribution, X, channel_names):
    n_timesteps, n_channels = attribution.shape
    if n_channels == 1:
        margin = 0.05 * (np.nanmax(X) - np.nanmin(X)) or 1.0
        low, high = np.nanmin(X) - margin, np.nanmax(X) + margin
        _draw_map(ax, attribution.T, (-0.5, n_timesteps - 0.5, low, high))
        ax.plot(X[:, 0], color="black", linewidth=1.2)
        ax.set(ylabel="X" if channel_names is None else channel_names[0])
    else:
        _draw_map(ax, attribution.T, (-0.5, n_timesteps - 0.5, n_channels - 0.5, -0.5))
        if n_channels <= _MOST_LINES:
            middle = (np.nanmax(X, axis=0) + np.nanmin(X, axis=0)) / 2
            spread = np.nanmax(X, axis=0) - np.nanmin(X, axis=0)
            rows = np.arange(n_channels) - 0.8 * (X - middle) / np.where(spread == 0, 1, spread)  # the axis points down
            ax.plot(rows, color="black", linewidth=1)
            ax.hlines(np.arange(n_channels - 1) + 0.5, -0.5, n_timesteps - 0.5, color="0.8", linewidth=0.6)
            ax.set_yticks(range(n_channels), range(n_channels) if channel_names is None else channel_names)
        ax.set_ylabel("channel" if channel_names is None else None)
    ax.set_xlabel("step")


def _draw_line_of_places(ax, attribution):
    _draw_map(ax, attribution.sum(axis=2).T, None)
    ax.set(xlabel="step", ylabel="place")


def _draw_map(ax, values, extent):
    most = abs(values).max() or 1.0
    image = ax.imshow(
        values, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto", interpolation="nearest", extent=extent
    )
    ax.figure.colorbar(image, ax=ax, label="attribution", pad=0.01)


def _frame_axes(name, n_frames):
    plt = import_extra("matplotlib.pyplot", name)
    figure = plt.figure(figsize=(1.55 * n_frames, 3.0), layout="constrained")
    grid = figure.add_gridspec(2, n_frames, height_ratios=(1.15, 1))
    frames = [figure.add_subplot(grid[0, i]) for i in range(n_frames)]
    return figure, [*frames, figure.add_subplot(grid[1, :])]


def _draw_frames(axes, attribution, picture, steps):
    """Grey frames under the attribution, which is summed over channels and smoothed by a twentieth of the side."""
    grey = picture.astype(float).mean(axis=-1)
    grey = (grey - np.nanmin(grey)) / (np.nanmax(grey) - np.nanmin(grey) or 1.0)
    values = attribution.sum(axis=-1)
    values = gaussian_filter(values, (0, *(size / 20 for size in values.shape[1:])))
    most = np.quantile(abs(values), 0.999) or 1.0
    for ax, step in zip(axes, steps, strict=True):
        ax.imshow(0.25 + 0.75 * grey[step], cmap="gray", vmin=0, vmax=1)
        opacity = np.clip(abs(values[step]) / most, 0, 1) ** 0.7
        ax.imshow(values[step], cmap="RdBu_r", vmin=-most, vmax=most, alpha=0.9 * opacity)
        ax.set(xticks=[], yticks=[])
        ax.set_title(f"step {step}", fontsize="medium")


def _draw_curve(ax, attribution, steps):
    """The attribution of each step, the shown ones marked."""
    values = attribution.reshape(len(attribution), -1).sum(axis=1)
    ax.bar(range(len(values)), values, color=np.where(values > 0, _RED, _BLUE), width=0.85)
    ax.plot(steps, np.zeros(len(steps)), "|", color="black", markersize=9)
    ax.axhline(0, color="0.3", linewidth=0.8)
    ax.set(xlabel="step (marked: shown above)", ylabel="attribution")
    ax.margins(x=0.01)
    tidy(ax)
