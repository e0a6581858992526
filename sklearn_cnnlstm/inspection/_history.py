"""Did training go well? The curves of its epochs."""

import numpy as np
import pandas as pd

from ._extras import BLUE, GREY, ORANGE, new_axes, tidy
from ._unwrap import unwrap

_PARTS = {"train": ("training", BLUE), "valid": ("validation", ORANGE)}


class TrainingHistoryDisplay:
    """Loss and scores of every epoch of one fit, or of several such as the folds of a cross-validation.

    Made by `from_estimator`.

    Parameters
    ----------
    histories : list of DataFrame
        The `history_` of each estimator.
    best_epochs : list of int
        The `best_epoch_` of each.

    Attributes
    ----------
    ax_ : Axes, or ndarray of Axes if there are several panels
        The loss, then the scores, then the learning rate if it was asked for.
    figure_ : Figure
        What they stand on.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import cross_validate
    >>> from sklearn_cnnlstm import CNNLSTMClassifier
    >>> from sklearn_cnnlstm.inspection import TrainingHistoryDisplay
    >>> X = np.random.default_rng(0).normal(size=(40, 20, 3))
    >>> y = X[:, 10:, 0].mean(axis=1) > X[:, :10, 0].mean(axis=1)
    >>> folds = cross_validate(CNNLSTMClassifier(max_epochs=3), X, y, cv=2, return_estimator=True)["estimator"]
    >>> display = TrainingHistoryDisplay.from_estimator(folds)
    >>> display.ax_.get_ylabel()
    'loss'
    """

    def __init__(self, histories, best_epochs):
        self.histories = histories
        self.best_epochs = best_epochs

    @classmethod
    def from_estimator(cls, estimator, *, ax=None, learning_rate=False):
        """Draw the training of fitted estimators.

        Parameters
        ----------
        estimator : estimator or sequence of estimators
            Fitted CNNLSTMClassifier or CNNLSTMRegressor, pipelines that end in one, or searches over one.
        ax : Axes or sequence of Axes, default=None
            One per panel; None makes a figure.
        learning_rate : bool, default=False
            Whether to add a panel with the learning rate.

        Returns
        -------
        display : TrainingHistoryDisplay
            With the figure in `figure_`.
        """
        is_one = hasattr(estimator, "fit")
        estimators = [unwrap(member) for member in ([estimator] if is_one else estimator)]
        if not estimators:
            raise ValueError("estimator is an empty sequence; expected at least one fitted estimator.")
        display = cls([one.history_ for one in estimators], [one.best_epoch_ for one in estimators])
        return display.plot(ax=ax, learning_rate=learning_rate)

    def plot(self, *, ax=None, learning_rate=False):
        """Draw the curves.

        Parameters
        ----------
        ax : Axes or sequence of Axes, default=None
            One per panel; None makes a figure.
        learning_rate : bool, default=False
            Whether to add a panel with the learning rate.

        Returns
        -------
        display : TrainingHistoryDisplay
            Itself.
        """
        panels = _panels(self.histories[0])
        if learning_rate:
            panels["learning rate"] = ["lr"]
        figure, axes = new_axes(type(self).__name__, ax, len(panels), width=4.4, height=3.2)
        for axis, (name, columns) in zip(axes, panels.items(), strict=True):
            for column in columns:
                self._plot_column(axis, column)
            if name != "learning rate":
                self._mark_best(axis, columns[-1])
            axis.set(xlabel="epoch", ylabel=name)
            axis.locator_params(axis="x", integer=True)
            tidy(axis)
        axes[0].legend(frameon=False)
        self.figure_ = figure
        self.ax_ = axes[0] if len(axes) == 1 else np.array(axes)
        return self

    def _plot_column(self, ax, column):
        """A line per fit, or thin ones and their mean over the epochs that all of them have."""
        label, color = _PARTS.get(column.partition("_")[0], (None, GREY))
        curves = [history.set_index("epoch")[column] for history in self.histories]
        if len(curves) == 1:
            ax.plot(curves[0], color=color, label=label)
            return
        for curve in curves:
            ax.plot(curve, color=color, alpha=0.35, linewidth=0.8)
        mean = pd.concat(curves, axis=1).dropna().mean(axis=1)
        ax.plot(mean, color=color, linewidth=2, label=label and f"{label}, mean of {len(curves)}")

    def _mark_best(self, ax, column):
        for i, (history, epoch) in enumerate(zip(self.histories, self.best_epochs, strict=True)):
            value = history.set_index("epoch")[column].loc[epoch]
            many = len(self.histories) > 1
            label = None if i else "best epochs" if many else f"best epoch, {epoch}"
            ax.plot(epoch, value, "o", color=GREY, markersize=4 if many else 6, label=label, zorder=3)


def _panels(history):
    """Panel -> columns of `history` in it: train_ and valid_ of one quantity go together, the loss comes first."""
    panels = {"loss": []}
    for column in history:
        part, _, quantity = column.partition("_")
        if part in _PARTS:
            panels.setdefault(quantity, []).append(column)
        elif column not in ("epoch", "lr", "seconds"):
            panels.setdefault(column, []).append(column)
    return panels
