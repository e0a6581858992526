"""What inspection says about a fitted estimator is so; pictures are compared by the numbers that they draw."""

import copy
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn

from sklearn_cnnlstm import CNNLSTMClassifier, CNNLSTMRegressor
from sklearn_cnnlstm.inspection import (
    AttributionDisplay,
    SpatiotemporalImportanceDisplay,
    TrainingHistoryDisplay,
    _attribution,
    attention_weights,
    attribute,
    diagnose,
    spatiotemporal_importance,
    summary,
)
from sklearn_cnnlstm.inspection._stem import receptive_field, stride
from sklearn_cnnlstm.inspection._user_form import to_padded

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
    with pytest.raises(TypeError, match="estimator is FunctionTransformer; expected a fitted CNNLSTMClassifier"):
        summary(FunctionTransformer())
    X, y = slopes()
    pipeline = make_pipeline(FunctionTransformer(), classifier(max_epochs=1)).fit(X, y)
    with pytest.raises(TypeError, match=r"estimator is Pipeline; .*of a pipeline pass the last step"):
        attribute(pipeline, X)


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
    assert all(w.requires_grad for w in weights)
    if conv_bank:
        assert table.frozen["bank"] == sum(buffer.numel() for buffer in model.net_.module_.bank.buffers())
        assert table.multiply_adds["bank"] > 0


def test_summary_prints_whole():
    X = np.random.default_rng(0).normal(size=(12, 3, 16, 16, 1))
    table = summary(CNNLSTMClassifier(max_epochs=1, conv_bank=12).fit(X, np.arange(12) % 2))
    lines = repr(table).splitlines()
    assert len(lines) == len(table) + 2
    assert lines[-1].split()[-1] == f"{table.multiply_adds['total']:,}"


def test_summary_counts_multiply_adds_as_by_hand():
    X, y = slopes(n_steps=16, n_channels=2)
    table = summary(classifier(max_epochs=1, conv_bank=0).fit(X, y))
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


# -- importance ----------------------------------------------------------------------------------------------------


def order_of_frames(seed=0):
    """The same frames, from the lowest values to the highest or back."""
    X = np.sort(np.random.default_rng(seed).normal(size=(120, 6, 5, 1)), axis=1)
    y = np.arange(120) % 2
    X[y == 1] = X[y == 1, ::-1]
    return X, y


def places_in_frames(seed=0):
    """Frames whose values rise or fall from place to place."""
    X, y = order_of_frames(seed)
    return X.swapaxes(1, 2), y


def order_of_halves(seed=0):
    """A high half and a low half, or first the low."""
    X = np.random.default_rng(seed).normal(size=(120, 96, 2))
    y = np.arange(120) % 2
    X[:, :, 0] = 0.3 * X[:, :, 0] + np.where(np.arange(96) < 48, 1, -1) * (2 * y[:, None] - 1)
    return X, y


def shape_of_teeth(seed=0):
    """A saw that rises slowly and falls at once, or the other way round, from any phase."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(120, 96, 2))
    y = np.arange(120) % 2
    teeth = (np.arange(96) + rng.integers(6, size=(120, 1))) % 6 / 2.5 - 1
    X[:, :, 0] = 0.3 * X[:, :, 0] + teeth * (2 * y[:, None] - 1)
    return X, y


@pytest.mark.parametrize("made", [order_of_frames, order_of_halves])
def test_importance_says_that_only_order_matters(made):
    model = CNNLSTMClassifier(max_epochs=10, random_state=0).fit(*made())
    result = spatiotemporal_importance(model, *made(seed=1), random_state=0)
    assert result.score > 0.95
    assert result.order.importances_mean > 0.3
    assert abs(result.space.importances_mean) < 0.05


@pytest.mark.parametrize("made", [places_in_frames, shape_of_teeth])
def test_importance_says_that_only_space_matters(made):
    model = CNNLSTMClassifier(max_epochs=10, random_state=0).fit(*made())
    result = spatiotemporal_importance(model, *made(seed=1), random_state=0)
    assert result.score > 0.95
    assert result.space.importances_mean > 0.3
    assert abs(result.order.importances_mean) < 0.05


def test_importance_of_channels_is_that_of_permutation_importance():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 1, 3))
    y = X[:, 0] @ [2.0, 1.0, 0.0]
    model = regressor(max_epochs=40, input_shape=(1, 3)).fit(X[:, 0], y)
    expected = permutation_importance(model, X[:, 0], y, n_repeats=40, random_state=0)
    result = spatiotemporal_importance(model, X[:, 0], y, n_repeats=40, random_state=0)
    assert_allclose(result.channels.importances_mean, expected.importances_mean, rtol=0.1, atol=0.02)
    assert_allclose(result.channels.importances.std(axis=1), result.channels.importances_std)


def test_importance_destroys_only_what_it_says():
    X = np.arange(3 * 8 * 4 * 4 * 2, dtype=float).reshape(3, 8, 4, 4, 2)
    model = regressor(max_epochs=1).fit(X, np.arange(3.0))
    seen = []
    spatiotemporal_importance(model, X, np.arange(3.0), scoring=lambda _, X, y: seen.append(X) or 0.0, n_repeats=1)
    intact, order, space, *others = seen
    assert_array_equal(intact, X)
    assert_array_equal(np.sort(order[:, :, 0, 0, 0]), X[:, :, 0, 0, 0])
    assert_array_equal(order - order[:, :, :1, :1, :1], X - X[:, :, :1, :1, :1])
    assert (order != X).any(axis=(1, 2, 3, 4)).all()
    assert_array_equal(np.sort(space.reshape(3, 8, 16, 2), axis=2), X.reshape(3, 8, 16, 2))
    changed = np.array([(other != X).any(axis=0) for other in others])
    assert len(changed) == 2 + 8 + 16  # channels, time, regions: each keeps to its part and together they are all
    assert_array_equal(changed[:2].sum(axis=0), 1)
    assert_array_equal(changed[2:10].sum(axis=0), 1)
    assert_array_equal(changed[10:].sum(axis=0), 1)


def test_importance_of_a_series_keeps_to_its_blocks():
    X = np.tile(np.arange(64.0)[:, None], (2, 1, 1))
    model = regressor(max_epochs=1, conv_channels=(2,), kernel_size=7, pool_size=1).fit(X, np.arange(2.0))
    seen = []
    result = spatiotemporal_importance(model, X, [0, 1], scoring=lambda _, X, y: seen.append(X) or 0.0, n_repeats=1)
    assert result.block_length == 8
    order, space = seen[1][:, :, 0], seen[2][:, :, 0]
    short = spatiotemporal_importance(model, X[:, :11], [0, 1], scoring=lambda *_: 0.0, n_repeats=1)
    assert short.block_length == 5  # too short for two such blocks: cut in two
    blocks = order.reshape(2, 8, 8)
    assert_array_equal(np.diff(blocks), 1)
    assert_array_equal(np.sort(space.reshape(2, 8, 8)), np.arange(64).reshape(8, 8)[None].repeat(2, axis=0))


def test_importance_is_the_same_for_the_same_random_state():
    X, y = slopes()
    model = classifier(max_epochs=2).fit(X, y)
    results = [spatiotemporal_importance(model, X, y, n_repeats=2, random_state=3) for _ in range(2)]
    assert_array_equal(results[0].time.importances, results[1].time.importances)


def test_importance_follows_the_layout_and_the_flat_form():
    X, y = order_of_frames()
    model = classifier(max_epochs=2).fit(X, y)
    expected = spatiotemporal_importance(model, X, y, n_repeats=2, random_state=0)
    turned = classifier(max_epochs=2, layout="NCST").fit(X.transpose(0, 3, 2, 1), y)
    result = spatiotemporal_importance(turned, X.transpose(0, 3, 2, 1), y, n_repeats=2, random_state=0)
    assert_array_equal(result.regions.importances, expected.regions.importances)
    columns = [f"value {i}" for i in range(30)]
    flat = pd.DataFrame(X.reshape(120, -1), columns=columns)
    model = classifier(max_epochs=2, input_shape=(6, 5, 1)).fit(flat, y)
    result = spatiotemporal_importance(model, flat, y, n_repeats=2, random_state=0)
    assert_array_equal(result.order.importances, expected.order.importances)


def test_ragged_samples_go_back_as_they_came():
    model = classifier(layout="NCT")
    X = [np.arange(2.0 * n).reshape(2, n) for n in (3, 5, 4)]
    padded, lengths, restore = to_padded(X, model)
    assert padded.shape == (3, 5, 2)
    assert lengths.tolist() == [3, 5, 4]
    for sample, back in zip(X, restore(padded), strict=True):
        assert_array_equal(back, sample)


def test_padding_is_no_time():
    X = np.ones((2, 6, 3))
    X[0, 4:] = np.nan
    X[1, 2] = np.nan
    assert to_padded(X, classifier())[1].tolist() == [4, 6]


@pytest.mark.parametrize(
    "sizes",
    [
        {"conv_channels": (4,), "kernel_size": 7, "pool_size": 1},
        {"conv_channels": (4, 4, 4), "kernel_size": (9, 5, 3), "pool_size": (2, 1, 2)},
        {"conv_channels": (16, 16), "kernel_size": 3, "pool_size": 4, "conv_bank": 8},
    ],
)
def test_receptive_field_is_as_far_as_gradients_reach(sizes):
    X = np.random.default_rng(0).normal(size=(8, 128, 1))
    module = regressor(max_epochs=1, **sizes).fit(X, X[:, 0, 0]).net_.module_
    series = torch.from_numpy(X).float().requires_grad_()
    steps = module.cnn(series)
    steps[:, steps.shape[1] // 2].sum().backward()
    (reached,) = torch.nonzero(series.grad.abs().sum(dim=(0, 2)), as_tuple=True)
    assert receptive_field(module) == reached[-1] - reached[0] + 1


def test_frozen_backbone_with_strides_has_a_receptive_field_too():
    def backbone(in_channels, n_spatial):
        return nn.Sequential(nn.Conv1d(in_channels, 4, 5, stride=2), nn.Conv1d(4, 4, 3)).requires_grad_(False)

    X = np.random.default_rng(0).normal(size=(8, 60, 1))
    module = classifier(backbone=backbone, max_epochs=1).fit(X, np.arange(8) % 2).net_.module_
    assert (receptive_field(module), stride(module)) == (9, 2)


def test_importance_display_draws_the_means():
    X, y = order_of_frames()
    model = classifier(max_epochs=2).fit(X, y)
    display = SpatiotemporalImportanceDisplay.from_estimator(model, X, y, n_repeats=2, random_state=0)
    result = display.importance
    expected = [
        [result.order.importances_mean, result.space.importances_mean],
        result.time.importances_mean,
        result.regions.importances_mean,
    ]
    drawn = [[bar.get_height() for bar in display.ax_[panel].patches] for panel in (0, 2, 3)]
    for heights, means in zip(drawn, expected, strict=True):
        assert_allclose(heights, means)
    assert_allclose([bar.get_width() for bar in display.ax_[1].patches], result.channels.importances_mean)


def test_importance_display_maps_the_regions_of_images():
    X = np.random.default_rng(0).normal(size=(12, 3, 8, 8, 1))
    model = regressor(max_epochs=1).fit(X, X[:, 0, 0, 0, 0])
    display = SpatiotemporalImportanceDisplay.from_estimator(model, X, X[:, 0, 0, 0, 0], n_repeats=1, random_state=0)
    assert_array_equal(display.ax_[3].images[0].get_array(), display.importance.regions.importances_mean)
    assert display.ax_[3].images[0].norm.vmin == -display.ax_[3].images[0].norm.vmax


# -- attribution ---------------------------------------------------------------------------------------------------


def three_classes(n_samples=48, shape=(12, 2)):
    """Samples whose level in channel 0 is that of their class."""
    y = np.arange(n_samples) % 3
    X = np.random.default_rng(0).normal(size=(n_samples, *shape))
    X[..., 0] += y.reshape(-1, *[1] * (len(shape) - 1)) - 1
    return X, np.array(["low", "middle", "high"])[y]


def training_mean(X):
    """The default baseline: each channel at its mean over all samples, steps and places."""
    return np.broadcast_to(X.mean(axis=tuple(range(X.ndim - 1))), X.shape)


def total(attributions):
    return attributions.reshape(len(attributions), -1).sum(axis=1)


@pytest.mark.parametrize("shape", [(12, 2), (4, 6, 2), (3, 8, 8, 1), (3, 4, 4, 4, 1)])
def test_attributions_add_up_to_the_change_of_the_decision_function(shape):
    X, y = three_classes(shape=shape)
    model = classifier().fit(X, y)
    attributions = attribute(model, X)
    predicted = np.searchsorted(model.classes_, model.predict(X))
    change = model.decision_function(X) - model.decision_function(training_mean(X))
    change = change[np.arange(len(X)), predicted]
    assert attributions.shape == X.shape
    assert attributions.dtype == np.float32
    assert_allclose(total(attributions), change, atol=0.03 * abs(change).mean())


def test_attributions_to_a_number_are_in_its_units():
    X = np.random.default_rng(0).normal(size=(40, 4, 6, 2))
    y = 1000 + 100 * X[:, -2:, :3, 0]
    model = regressor(max_epochs=8).fit(X, y)
    change = (model.predict(X) - model.predict(training_mean(X)))[:, 1, 2]
    assert_allclose(total(attribute(model, X, target=(1, 2))), change, atol=0.03 * abs(change).mean())


def test_attributions_are_a_plain_integral_of_gradients():
    X, y = three_classes()
    model = classifier(conv_bank=0).fit(X, y)
    module = copy.deepcopy(model.net_.module_).eval()
    series, start = torch.tensor(X).float(), torch.tensor(training_mean(X)).float()
    shares = (torch.arange(1000) + 0.5) / 1000
    path = (start[:1] + shares[:, None, None] * (series[:1] - start[:1])).requires_grad_()
    code = list(model.classes_).index("high")
    module(path)[:, code].sum().backward()
    expected = path.grad.mean(dim=0) * (series - start)[0]
    assert_allclose(attribute(model, X, target="high")[0], expected, atol=0.01 * expected.abs().max())


def test_two_classes_are_explained_from_either_side():
    X, y = slopes()
    model = classifier().fit(X, y)
    toward = attribute(model, X, target=1)
    assert_allclose(attribute(model, X, target=0), -toward, atol=1e-5)
    change = model.decision_function(X) - model.decision_function(training_mean(X))
    assert_allclose(total(toward), change, atol=0.03 * abs(change).mean())


def test_quantiles_and_steps_are_explained():
    X = np.random.default_rng(0).normal(size=(40, 10, 2))
    baseline = training_mean(X)
    model = regressor(loss="quantile", quantiles=(0.1, 0.5)).fit(X, X[:, -1, :1])
    change = model.predict(X) - model.predict(baseline)
    assert_allclose(total(attribute(model, X)), change[:, 0], atol=0.03 * abs(change).mean())
    model = regressor(target="step").fit(X, X.cumsum(axis=1))
    change = (model.predict(X) - model.predict(baseline))[:, -2, 1]
    assert_allclose(total(attribute(model, X, target=(-2, 1))), change, atol=0.03 * abs(change).mean())
    labels = np.where(X[:, :, 0] > 0, "up", "down")
    model = classifier(target="step").fit(X, labels)
    change = (model.decision_function(X) - model.decision_function(baseline))[:, 3]
    assert_allclose(total(attribute(model, X, target=(3, "up"))), change, atol=0.03 * abs(change).mean())


def test_maps_are_explained_pixel_by_pixel():
    X = np.random.default_rng(0).normal(size=(16, 3, 6, 6, 1))
    baseline = training_mean(X)
    y = X[:, -1, ..., 0] * np.linspace(1, 100, 36).reshape(6, 6)  # each pixel has a scale of its own
    model = regressor(target="map").fit(X, np.stack([y, -y], axis=1))
    change = (model.predict(X) - model.predict(baseline))[:, 1, 4, 5]
    assert_allclose(total(attribute(model, X, target=(1, 4, 5))), change, atol=0.03 * abs(change).mean())
    model = classifier(target="map").fit(X, np.where(y > 0, "warm", "cold"))
    change = (model.decision_function(X) - model.decision_function(baseline))[:, 4, 5]
    assert_allclose(total(attribute(model, X, target=(4, 5, "warm"))), change, atol=0.03 * abs(change).mean())


def test_attributions_come_back_in_the_form_of_X():
    X, y = three_classes()
    expected = attribute(classifier().fit(X, y), X, target="low")
    turned = X.transpose(0, 2, 1)
    model = classifier(layout="NCT").fit(turned, y)
    assert_allclose(attribute(model, turned, target="low"), expected.transpose(0, 2, 1), atol=1e-4)
    flat = X.reshape(len(X), -1)
    model = classifier(input_shape=X.shape[1:]).fit(flat, y)
    assert_allclose(attribute(model, flat, target="low"), expected.reshape(flat.shape), atol=1e-4)


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion"])
def test_batches_do_not_change_attributions(method, monkeypatch):
    X, y = three_classes()
    model = classifier().fit(X, y)
    expected = attribute(model, X, method=method)
    monkeypatch.setattr(_attribution, "_POSITIONS", 7 * X.shape[1])
    assert_allclose(attribute(model, X, method=method), expected, atol=1e-3 * abs(expected).max())


def test_occlusion_is_the_change_without_a_window():
    X, _ = three_classes(shape=(7, 5, 2))
    model = regressor().fit(X, X[:, 0, 0, 0])
    attributions = attribute(model, X, method="occlusion", baseline=0.5, window=(3, 2, 2))
    occluded = X.copy()
    occluded[:, 6:, 2:4] = 0.5  # the last window of time is one step long
    change = model.predict(X) - model.predict(occluded)
    assert_allclose(
        attributions[:, 6:, 2:4], np.broadcast_to(change[:, None, None, None] / 4, (48, 1, 2, 2)), atol=1e-4
    )


def test_attribution_leaves_the_estimator_as_it_was():
    X, y = slopes()
    model = classifier().fit(X, y)
    module = model.net_.module_
    before = model.predict_proba(X)
    gradients = [weight.grad.clone() for weight in module.parameters()]
    attribute(model, X)
    attention_weights(model, X)
    assert not module.training
    for weight, gradient in zip(module.parameters(), gradients, strict=True):
        assert weight.requires_grad
        assert_array_equal(weight.grad, gradient)
    assert_array_equal(model.predict_proba(X), before)


def test_attribution_says_what_it_expects(monkeypatch):
    X, y = slopes()
    model = classifier().fit(X, y)
    with pytest.raises(ValueError, match="method='saliency'; expected one of"):
        attribute(model, X, method="saliency")
    with pytest.raises(ValueError, match=r"target=2 names none of the classes; expected one of \[0, 1\]"):
        attribute(model, X, target=2)
    with pytest.raises(ValueError, match=r"window=\(2,\) has 1 entries; expected 2"):
        attribute(model, X, method="occlusion", window=(2,))
    with pytest.raises(ValueError, match="X has 1 channels, but CNNLSTMClassifier was fitted with 2"):
        attribute(model, X[:, :, :1])
    several = regressor().fit(X, X[:, 0])
    with pytest.raises(ValueError, match=r"target=None picks 2 numbers of an answer of shape \(2,\)"):
        attribute(several, X)
    with pytest.raises(ValueError, match="target=5 picks 0 numbers"):
        attribute(several, X, target=5)
    per_step = classifier(target="step").fit(X, X[:, :, 0] > 0)
    with pytest.raises(ValueError, match=r"target=True; expected a tuple \(0 to 15, label\)"):
        attribute(per_step, X, target=True)
    with pytest.raises(ValueError, match=r"target=\(16, True\); expected \(0 to 15, label\): index 16 is out"):
        attribute(per_step, X, target=(16, True))
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ImportError, match=r"attribute needs captum.*sklearn_cnnlstm\[explain\]"):
        attribute(model, X)


def test_attribution_display_maps_a_series():
    X, y = three_classes()
    model = classifier().fit(X, y)
    display = AttributionDisplay.from_estimator(model, X, sample=2, target="high", channel_names=["level", "noise"])
    assert_allclose(display.ax_.images[0].get_array(), attribute(model, X[2:3], target="high")[0].T)
    assert display.ax_.images[0].norm.vmin == -display.ax_.images[0].norm.vmax
    assert [label.get_text() for label in display.ax_.get_yticklabels()] == ["level", "noise"]
    assert "'high'" in display.ax_.get_title()


def test_attribution_display_shows_frames_and_the_sum_of_each_step():
    X, y = three_classes(n_samples=12, shape=(5, 8, 8, 1))
    model = classifier(max_epochs=1).fit(X, y)
    display = AttributionDisplay.from_estimator(model, X, n_frames=3)
    assert [ax.get_title() for ax in display.ax_[:-1]] == ["step 0", "step 2", "step 4"]
    heights = [bar.get_height() for bar in display.ax_[-1].patches]
    assert_allclose(heights, attribute(model, X[:1])[0].sum(axis=(1, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize("shape", [(6, 4, 2), (3, 4, 4, 4, 1)])
def test_attribution_display_takes_lines_and_volumes(shape):
    X = np.random.default_rng(0).normal(size=(12, *shape))
    model = regressor(max_epochs=1).fit(X, X[:, 0].reshape(12, -1)[:, 0])
    display = AttributionDisplay.from_estimator(model, X, sample=1)
    assert display.attribution.shape == shape


# -- attention -----------------------------------------------------------------------------------------------------


def test_attention_weights_are_those_of_the_pooled_states():
    X, y = three_classes(shape=(6, 4, 2))
    model = classifier(pooling="attention").fit(X, y)
    weights = attention_weights(model, X)
    module = model.net_.module_
    states = []
    module.lstm.register_forward_hook(lambda layer, inputs, output: states.append(output[0].numpy()))
    features = model.embed(X)
    assert_allclose(np.einsum("nt,ntd->nd", weights, states[0]), features, atol=1e-5)


def test_attention_weights_are_spread_over_the_steps_that_were_pooled():
    X, y = three_classes(shape=(14, 2))
    weights = attention_weights(classifier(pool_size=(2, 2)).fit(X, y), X)
    assert weights.shape == (48, 14)
    assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
    assert_array_equal(np.diff(weights[:, :12].reshape(48, 3, 4)), 0)
    assert (np.diff(weights[:, 3:5]) != 0).all()


def test_attention_weights_need_attention():
    X, y = slopes()
    with pytest.raises(ValueError, match="pooling='last' and target='sample' have no attention"):
        attention_weights(classifier(pooling="last").fit(X, y), X)
    maps = np.random.default_rng(0).normal(size=(8, 3, 4, 4, 1))
    with pytest.raises(ValueError, match="target='map' have no attention"):
        attention_weights(regressor(target="map", max_epochs=1).fit(maps, maps[:, -1, ..., 0]), maps)


# -- diagnosis -----------------------------------------------------------------------------------------------------


def with_history(model, **columns):
    """The model as if its epochs had gone like this."""
    n_epochs = len(next(iter(columns.values())))
    model.history_ = pd.DataFrame({"epoch": range(1, n_epochs + 1)} | columns)
    model.n_epochs_ = model.best_epoch_ = n_epochs
    return model


def finding(model):
    (only,) = diagnose(model)
    return only


@pytest.fixture
def fitted():
    X, y = slopes()
    return classifier(max_epochs=1).fit(X, y)


def test_a_good_training_is_not_found_fault_with(fitted):
    assert diagnose(with_history(fitted, train_loss=[1.0, 0.5, 0.3, 0.21, 0.201, 0.2])) == []


def test_diagnosis_sees_that_the_training_diverged(fitted):
    assert finding(with_history(fitted, train_loss=[1.0, np.nan])).startswith("the training loss is nan: lower lr")


def test_diagnosis_sees_that_the_loss_still_falls(fitted):
    falls = with_history(fitted, train_loss=[1.0, 0.8, 0.6, 0.4, 0.2])
    assert "training loss still falls at the last epoch (0.2): raise max_epochs (now 1)" in finding(falls)
    falls = with_history(fitted, train_loss=[1.0, 0.5, 0.2, 0.2], valid_loss=[1.0, 0.8, 0.6, 0.4])
    assert "validation loss still falls at the last epoch (0.4)" in finding(falls)


def test_diagnosis_sees_that_the_loss_jumps(fitted):
    jumps = with_history(fitted, train_loss=[1.0, 0.3, 0.7, 0.3, 0.7, 0.2, 0.6, 0.3, 0.3])
    assert "the training loss rose by a fifth or more in 3 epochs: lower lr" in finding(jumps)


def test_diagnosis_sees_that_nothing_was_learned(fitted):
    constant = -np.log(0.5)
    assert f"that of a constant answer ({constant:.3g})" in finding(with_history(fitted, train_loss=[0.8, 0.69]))
    X, y = slopes()
    noise = with_history(regressor(max_epochs=1).fit(X, y), train_loss=[1.1, 0.99])
    assert "the training loss (0.99) is hardly better than that of a constant answer (1)" in finding(noise)


def test_diagnosis_sees_that_the_validation_loss_rose_again(fitted):
    worse = with_history(fitted, train_loss=[1.0, 0.5, 0.3, 0.3], valid_loss=[1.0, 0.5, 0.8, 0.9])
    assert "the validation loss was 0.5 at epoch 2 and 0.9 at the end: early_stopping=True" in finding(worse)


def test_diagnosis_sees_a_small_validation_part_and_a_cut_training():
    X, y = slopes(n_samples=80)
    model = classifier(early_stopping=True, max_epochs=3, n_iter_no_change=2).fit(X, y)
    cut, few = diagnose(with_history(model, train_loss=[1.0, 0.4, 0.3], valid_loss=[1.0, 0.4, 0.3]))
    assert cut.startswith("training ended at epoch 3, before early stopping could (best: 3): raise max_epochs")
    assert few.startswith("the validation part has 8 samples")
    patient = model.set_params(n_iter_no_change=3)  # all epochs are wanted
    assert finding(patient) == few


def test_diagnosis_names_constant_channels():
    X, y = slopes(n_channels=8)
    X[:, :, 1:] = 3.0
    model = with_history(classifier(max_epochs=1).fit(X, y), train_loss=[0.2])
    assert finding(model) == "channels 1, 2, 3, 4 and 3 more are constant in the training data: leave them out."


def test_diagnosis_names_missing_rare_and_dominant_classes():
    X, _ = slopes(n_samples=60)
    y = np.where(np.arange(60) < 3, "rare", "common")
    model = classifier(max_epochs=1).partial_fit(X[:50], y[:50], classes=["absent", "common", "rare"])
    model.partial_fit(X[50:], y[50:])
    missing, rare, dominant = diagnose(with_history(model, train_loss=[0.1]))
    assert missing.startswith("class absent is not in the training data")
    assert rare.startswith("class rare is rare, below 5 training samples")
    assert dominant.startswith("class common has 57 of 60 training samples, another 3: set class_weight='balanced'")


def test_diagnosis_takes_labels_per_sample_and_per_step():
    X, y = slopes()
    labels = np.c_[y, np.zeros_like(y)]
    model = with_history(classifier(max_epochs=1).fit(X, labels), train_loss=[0.2])
    assert finding(model).startswith("class 1 is not in the training data")
    per_step = np.repeat(y[:, None], 16, axis=1).astype(float)
    per_step[:, 5:] = np.nan
    model = with_history(classifier(max_epochs=1, target="step").fit(X, per_step), train_loss=[0.2])
    assert diagnose(model) == []
