"""What inspection says about a fitted estimator is so; pictures are compared by the numbers that they draw."""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_cnnlstm import CNNLSTMClassifier, CNNLSTMRegressor
from sklearn_cnnlstm.inspection import TrainingHistoryDisplay, summary

SMALL = {"conv_channels": (4, 6), "kernel_size": 3, "pool_size": 2, "hidden_size": 5, "random_state": 0}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def slopes(n_samples=40, n_steps=16, n_channels=2, seed=0):
    """Series whose first channel rises or falls."""
    rng = np.random.default_rng(seed)
    y = np.arange(n_samples) % 2
    X = rng.normal(size=(n_samples, n_steps, n_channels))
    X[:, :, 0] += np.linspace(-2, 2, n_steps) * (2 * y[:, None] - 1)
    return X, y


def classifier(**parameters):
    return CNNLSTMClassifier(**SMALL | {"max_epochs": 4} | parameters)


def regressor(**parameters):
    return CNNLSTMRegressor(**SMALL | {"max_epochs": 4} | parameters)


def curves(ax):
    """Label -> (x, y) of the lines that have one."""
    return {line.get_label(): line.get_data() for line in ax.lines if not line.get_label().startswith("_")}


# -- history -------------------------------------------------------------------------------------------------------


def test_history_display_draws_each_part_and_the_best_epoch():
    X, y = slopes()
    model = classifier(early_stopping=True, max_epochs=6).fit(X, y)
    display = TrainingHistoryDisplay.from_estimator(model)
    drawn = curves(display.ax_)
    assert_array_equal(drawn["training"][1], model.history_["train_loss"])
    assert_array_equal(drawn["validation"][1], model.history_["valid_loss"])
    best = model.history_.set_index("epoch").loc[model.best_epoch_, "valid_loss"]
    assert_array_equal(drawn[f"best epoch, {model.best_epoch_}"], [[model.best_epoch_], [best]])


def test_history_display_has_panels_for_the_score_and_the_learning_rate():
    X, y = slopes()
    model = classifier(early_stopping=True, scoring="accuracy").fit(X, y)
    display = TrainingHistoryDisplay.from_estimator(model, learning_rate=True)
    assert [ax.get_ylabel() for ax in display.ax_] == ["loss", "score", "learning rate"]
    assert_array_equal(display.ax_[1].lines[0].get_ydata(), model.history_["valid_score"])
    assert_array_equal(display.ax_[2].lines[0].get_ydata(), model.history_["lr"])


def test_history_display_averages_folds_over_the_epochs_that_all_have():
    X, y = slopes()
    folds = [classifier(max_epochs=n).fit(X, y) for n in (3, 5)]
    display = TrainingHistoryDisplay.from_estimator(folds)
    expected = [np.mean([fold.history_["train_loss"][i] for fold in folds]) for i in range(3)]
    assert_allclose(curves(display.ax_)["training, mean of 2"][1], expected)
    assert len(display.ax_.lines[1].get_xdata()) == 5


def test_history_display_takes_folds_pipelines_and_searches():
    X, y = slopes()
    pipeline = make_pipeline(FunctionTransformer(), classifier(max_epochs=2))
    folds = cross_validate(pipeline, X, y, cv=2, return_estimator=True)["estimator"]
    search = GridSearchCV(pipeline, {"cnnlstmclassifier__lr": [0.01]}, cv=2).fit(X, y)
    display = TrainingHistoryDisplay.from_estimator([*folds, search])
    assert [len(history) for history in display.histories] == [2, 2, 2]


def test_history_display_draws_on_the_users_axes():
    X, y = slopes()
    figure, ax = plt.subplots()
    display = TrainingHistoryDisplay.from_estimator(classifier().fit(X, y), ax=ax)
    assert display.ax_ is ax
    assert display.figure_ is figure
    with pytest.raises(ValueError, match=r"ax has 1 axes; TrainingHistoryDisplay.plot draws 2 panels"):
        display.plot(ax=ax, learning_rate=True)


def test_inspection_names_what_it_wants():
    with pytest.raises(TypeError, match=r"estimator is FunctionTransformer.*; expected a fitted CNNLSTMClassifier"):
        summary(FunctionTransformer())


def test_missing_extra_is_named(monkeypatch):
    X, y = slopes()
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"TrainingHistoryDisplay needs matplotlib.*sklearn_cnnlstm\[plot\]"):
        TrainingHistoryDisplay.from_estimator(classifier().fit(X, y))


# -- summary -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 2), (5, 7, 2), (4, 6, 6, 1), (3, 4, 4, 4, 1)])
@pytest.mark.parametrize("conv_bank", [0, 12])
def test_summary_counts_every_weight_once(shape, conv_bank):
    X = np.random.default_rng(0).normal(size=(12, *shape))
    model = regressor(max_epochs=1, conv_bank=conv_bank).fit(X, X[:, 0].reshape(12, -1)[:, 0])
    table = summary(model)
    weights = list(model.net_.module_.parameters())
    assert table.parameters["total"] == sum(w.numel() for w in weights if w.requires_grad)
    frozen = table.frozen["total"] if conv_bank else 0
    assert frozen == sum(w.numel() for w in weights if not w.requires_grad)


def test_summary_counts_multiply_adds_as_by_hand():
    X, y = slopes(n_steps=16, n_channels=2)
    table = summary(classifier(max_epochs=1).fit(X, y))
    assert table.multiply_adds[table.layer == "ConvBlock"].tolist() == [16 * 3 * 2 * 4, 8 * 3 * 4 * 6]
    (lstm,) = table.multiply_adds[table.layer == "LSTM"]
    assert lstm == 4 * 2 * 4 * 5 * (6 + 5)  # steps, directions, gates, units, inputs
    assert table.multiply_adds["total"] == table.multiply_adds.iloc[:-1].sum()


def test_summary_shows_the_shape_after_each_stage():
    X = np.random.default_rng(0).normal(size=(12, 3, 8, 8, 1))
    table = summary(regressor(max_epochs=1).fit(X, X[:, 0, 0, 0, 0]))
    assert table.output_shape[table.layer == "ConvBlock"].tolist() == [(3, 4, 4, 4), (3, 6, 2, 2)]
    assert table.output_shape[table.layer == "LSTM"].tolist() == [(3, 10)]


def test_summary_leaves_the_network_as_it_was():
    X, y = slopes()
    model = classifier().fit(X, y)
    before = model.predict_proba(X)
    summary(model)
    assert not any(module._forward_hooks for module in model.net_.module_.modules())
    assert_array_equal(model.predict_proba(X), before)
