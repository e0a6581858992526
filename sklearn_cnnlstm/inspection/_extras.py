"""What the package does not install by itself, imported when it is needed."""

import importlib

BLUE, ORANGE, GREY = "#1f6fb2", "#d9601a", "0.45"
_EXTRAS = {"matplotlib": "plot", "captum": "explain"}


def import_extra(name, caller):
    """The module `name`, or an ImportError that says which extra of this package brings it."""
    package = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"{caller} needs {package}, which is not installed; expected it to be there: "
            f"python -m pip install 'sklearn_cnnlstm[{_EXTRAS[package]}]'."
        ) from error


def new_axes(caller, ax, n_panels, width, height):
    """(figure, list of axes): the user's `ax`, one or a sequence of `n_panels`, or new ones side by side."""
    plt = import_extra("matplotlib.pyplot", caller)
    if ax is None:
        figure, axes = plt.subplots(
            1, n_panels, figsize=(width * n_panels, height), squeeze=False, layout="constrained"
        )
        return figure, list(axes[0])
    axes = [ax] if hasattr(ax, "plot") else list(ax)
    if len(axes) != n_panels:
        raise ValueError(f"ax has {len(axes)} axes; {caller}.plot draws {n_panels} panels and expected as many.")
    return axes[0].figure, axes


def tidy(ax):
    """Axes without a box, a light grid behind what is drawn."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="0.92")
    ax.set_axisbelow(True)
