"""Targets with a shape: an answer per time step, or maps."""

import pickle
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.metrics import accuracy_score, log_loss, r2_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict, cross_val_score
from torch import nn

from sklearn_cnnlstm import CNNLSTMClassifier, CNNLSTMRegressor

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = {"conv_channels": (8,), "hidden_size": 8, "max_epochs": 2, "random_state": 0}
both = pytest.mark.parametrize("cls", [CNNLSTMClassifier, CNNLSTMRegressor])


def steps(cls, n=24, n_timesteps=10, seed=0, frame=(3,)):
    """Sequences whose running sum of the first value is the target, as a number or as its sign."""
    X = np.random.default_rng(seed).normal(size=(n, n_timesteps, *frame)).astype(np.float32)
    total = X.reshape(n, n_timesteps, -1)[:, :, 0].cumsum(axis=1)
    return X, np.where(total > 0, "up", "down") if cls is CNNLSTMClassifier else total


def gaps(y, seed=1):
    """y as objects or floats, a third of its entries NaN."""
    y = y.astype(object if y.dtype.kind == "U" else float)
    y[np.random.default_rng(seed).random(y.shape) < 0.3] = np.nan
    return y


def observed(y):
    return y == y


def make(cls, **params):
    return cls(target="step", **{**SMALL, **params})


# -- an answer per step


@both
def test_each_step_is_learned(cls):
    X, y = steps(cls, n=200)
    model = cls(target="step", hidden_size=32, max_epochs=30, random_state=0).fit(X, y)
    assert model.score(*steps(cls, n=100, seed=1)) > 0.9


@both
@pytest.mark.parametrize("frame", [(3,), (5, 2), (4, 4, 1), (2, 3, 4, 1)])
def test_answers_have_the_shape_of_y_and_follow_the_steps_of_X(cls, frame):
    model = make(cls).fit(*steps(cls, frame=frame))
    X, y = steps(cls, n=3, n_timesteps=17, frame=frame)
    assert model.predict(X).shape == y.shape == (3, 17)
    assert model.predict(X).dtype == y.dtype


@both
def test_columns_of_flat_X_are_its_steps(cls):
    X, y = steps(cls, frame=(1,))
    model = make(cls).fit(X[:, :, 0], y)
    assert (model.predict(X[:, :, 0]) == make(cls).fit(X, y).predict(X)).all()


def test_classifier_answers_agree_with_each_other():
    X, y = steps(CNNLSTMClassifier)
    model = make(CNNLSTMClassifier).fit(X, y)
    probability = model.predict_proba(X)
    assert probability.shape == (24, 10, 2)
    np.testing.assert_allclose(probability.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(model.predict_log_proba(X), np.log(probability), rtol=1e-4, atol=1e-6)
    assert model.decision_function(X).shape == (24, 10)
    assert (model.predict(X) == model.classes_[probability.argmax(axis=-1)]).all()
    assert ((model.decision_function(X) > 0) == (model.predict(X) == "up")).all()


def test_three_classes_have_a_decision_each():
    X, y = steps(CNNLSTMRegressor)
    model = make(CNNLSTMClassifier).fit(X, np.digitize(y, [-1, 1]))
    assert model.decision_function(X).shape == (24, 10, 3)


@pytest.mark.parametrize("shape", [(1,), (2,)])
def test_several_numbers_per_step_come_back_in_their_shape(shape):
    X, y = steps(CNNLSTMRegressor)
    y = np.broadcast_to(y[..., None], (*y.shape, *shape)).astype(np.float64)
    prediction = make(CNNLSTMRegressor).fit(X, y).predict(X)
    assert prediction.shape == y.shape
    assert prediction.dtype == np.float64


def test_quantiles_of_each_step_are_the_last_axis():
    X, y = steps(CNNLSTMRegressor)
    model = make(CNNLSTMRegressor, loss="quantile").fit(X, gaps(y))
    assert model.predict_quantiles(X).shape == (24, 10, 3)
    np.testing.assert_array_equal(model.predict(X), model.predict_quantiles(X)[..., 1])


@both
def test_embedding_is_the_state_of_each_step(cls):
    X, y = steps(cls)
    assert make(cls).fit(X, y).embed(X).shape == (24, 10, 16)


@both
def test_steps_are_not_pooled_unless_asked_to(cls):
    X, y = steps(cls, n_timesteps=200, n=8)
    assert cls(target="step", max_epochs=1).fit(X, y).pool_size_ == (1, 1, 1)


@pytest.mark.parametrize("pool_size", [2, 4, 7])
def test_steps_pooled_together_share_an_answer(pool_size):
    X, y = steps(CNNLSTMRegressor)
    prediction = make(CNNLSTMRegressor, pool_size=pool_size).fit(X, y).predict(X)
    first = prediction[:, np.arange(10) // pool_size * pool_size]
    np.testing.assert_array_equal(prediction, first)
    assert len(np.unique(prediction[0])) == -(-10 // pool_size)


def test_forward_lstm_answers_before_it_has_seen_the_rest():
    X, y = steps(CNNLSTMRegressor)
    model = make(CNNLSTMRegressor, conv_channels=(), bidirectional=False).fit(X, y)
    later = X.copy()
    later[:, 6:] = 5
    np.testing.assert_array_equal(model.predict(X)[:, :6], model.predict(later)[:, :6])
    assert not np.array_equal(model.predict(X)[:, 6:], model.predict(later)[:, 6:])


def test_backbone_that_shortens_time_is_refused():
    X, y = steps(CNNLSTMRegressor)
    with pytest.raises(ValueError, match="backbone made 8 steps of 10; target='step' needs as many as X has"):
        make(CNNLSTMRegressor, backbone=lambda n_channels, _: nn.Conv1d(n_channels, 4, 3)).fit(X, y)


# -- NaN is no observation


def test_loss_of_a_regressor_is_the_mean_over_observed_steps():
    X, y = steps(CNNLSTMRegressor)
    X_val, y_val = steps(CNNLSTMRegressor, seed=2)
    y_val = gaps(y_val)
    model = make(CNNLSTMRegressor, early_stopping=False).fit(X, gaps(y), X_val=X_val, y_val=y_val)
    errors = (model.predict(X_val) - y_val) / model.net_.module_.target_scale.item()
    assert model.history_["valid_loss"].iloc[-1] == pytest.approx(np.nanmean(errors**2), rel=1e-4)


@pytest.mark.parametrize("class_weight", [None, {"down": 5.0, "up": 1.0}])
def test_loss_of_a_classifier_is_the_mean_over_observed_steps(class_weight):
    X, y = steps(CNNLSTMClassifier)
    X_val, y_val = steps(CNNLSTMClassifier, seed=2)
    y_val = gaps(y_val)
    model = make(CNNLSTMClassifier, early_stopping=False, label_smoothing=0.0, class_weight=class_weight)
    model.fit(X, gaps(y), X_val=X_val, y_val=y_val)
    seen = observed(y_val)
    labels = y_val[seen].astype(str)
    weight = None if class_weight is None else [class_weight[label] for label in labels]
    expected = log_loss(labels, model.predict_proba(X_val)[seen], sample_weight=weight)
    assert model.history_["valid_loss"].iloc[-1] == pytest.approx(expected, rel=1e-4)


def test_targets_are_standardised_by_their_observed_steps():
    X, y = steps(CNNLSTMRegressor)
    y = gaps(np.stack([50 + 3 * y, y], axis=-1))
    network = make(CNNLSTMRegressor).fit(X, y).net_.module_
    np.testing.assert_allclose(network.target_mean, np.nanmean(y, axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(network.target_scale, np.nanstd(y, axis=(0, 1)), rtol=1e-5)


@both
def test_samples_without_any_observation_are_as_absent_to_the_bit(cls):
    X, y = steps(cls)
    y = gaps(y)
    y[5:9] = np.nan
    kept = np.delete(np.arange(24), np.arange(5, 9))
    model = make(cls).fit(X, y)
    assert (model.embed(X) == make(cls).fit(X[kept], y[kept]).embed(X)).all()


@both
@pytest.mark.parametrize("weighted", [False, True])
def test_score_is_scikit_learns_over_the_observed_steps(cls, weighted):
    X, y = steps(cls)
    y = gaps(y)
    model = make(cls).fit(X, y)
    seen = observed(y)
    weight = np.random.default_rng(0).uniform(0.1, 3, 24) if weighted else None
    per_step = np.repeat(weight[:, None], 10, axis=1)[seen] if weighted else None
    if cls is CNNLSTMClassifier:
        expected = accuracy_score(y[seen].astype(str), model.predict(X)[seen], sample_weight=per_step)
    else:
        expected = r2_score(y[seen], model.predict(X)[seen], sample_weight=per_step)
    assert model.score(X, y, sample_weight=weight) == pytest.approx(expected)


def test_score_of_several_outputs_is_the_mean_of_theirs():
    X, y = steps(CNNLSTMRegressor)
    y = gaps(np.stack([y, y**2], axis=-1))
    model = make(CNNLSTMRegressor).fit(X, y)
    each = [r2_score(t[observed(t)], p[observed(t)]) for t, p in zip(y.T, model.predict(X).T, strict=True)]
    assert model.score(X, y) == pytest.approx(np.mean(each))


@pytest.mark.parametrize("labels", [[3, 7], [0.0, 1.0], ["a", "b"], [True, False]])
def test_labels_come_back_as_they_were(labels):
    X, y = steps(CNNLSTMClassifier)
    y = np.where(y == "up", *np.array(labels))
    assert set(np.unique(make(CNNLSTMClassifier).fit(X, y).predict(X))) <= set(labels)
    with_gaps = y.astype(object)
    with_gaps[::2, 3] = None
    model = make(CNNLSTMClassifier).fit(X, with_gaps)
    assert set(model.predict(X).ravel()) <= set(labels)
    assert 0 <= model.score(X, with_gaps) <= 1


# -- in scikit-learn's tools


@both
def test_cross_validation_and_search_take_answers_per_step(cls):
    X, y = steps(cls)
    assert cross_val_score(make(cls), X, y, cv=3).shape == (3,)
    assert cross_val_predict(make(cls), X, y, cv=3).shape == y.shape
    search = GridSearchCV(make(cls), {"hidden_size": [4, 8]}, cv=2).fit(X, y)
    assert search.predict(X).shape == y.shape


@both
def test_cross_validation_takes_y_with_gaps(cls):
    X, y = steps(cls)
    assert np.isfinite(cross_val_score(make(cls), X, gaps(y), cv=KFold(3))).all()


@both
@pytest.mark.parametrize("order", ["random", "last"])
def test_early_stopping_splits_samples(cls, order):
    X, y = steps(cls)
    model = make(cls, early_stopping=True, validation_order=order, validation_fraction=0.25).fit(X, gaps(y))
    assert np.isfinite(model.history_["valid_loss"]).all()


@both
def test_early_stopping_may_watch_the_score(cls):
    X, y = steps(cls)
    model = make(cls, early_stopping=True, scoring=lambda model, X, y: model.score(X, y)).fit(X, gaps(y))
    assert np.isfinite(model.history_["valid_score"]).all()


def test_scorers_that_compare_a_label_per_sample_are_refused():
    X, y = steps(CNNLSTMClassifier)
    with pytest.raises(ValueError, match=r"scoring='accuracy' with target='step': .* expected 'loss' or a function"):
        make(CNNLSTMClassifier, early_stopping=True, scoring="accuracy").fit(X, y)


@both
def test_passes_over_parts_may_have_other_numbers_of_steps(cls):
    model = make(cls)
    for n_timesteps in (10, 6):
        X, y = steps(cls, n_timesteps=n_timesteps)
        keywords = {"classes": ["down", "up"]} if cls is CNNLSTMClassifier else {}
        model.partial_fit(X, y, **keywords)
    assert model.score(X, y) <= 1


@both
def test_clone_and_pickle_keep_the_target(cls):
    X, y = steps(cls)
    model = make(cls).fit(X, y)
    assert clone(model).target == "step"
    assert (pickle.loads(pickle.dumps(model)).predict(X) == model.predict(X)).all()


def test_balanced_weights_count_observed_steps():
    X, y = steps(CNNLSTMClassifier, n=100)
    y = np.where(X[:, :, 1] > 1.0, "rare", "common").astype(object)
    y[::2] = np.nan
    settings = {"hidden_size": 16, "max_epochs": 4}
    plain = make(CNNLSTMClassifier, **settings).fit(X, y)
    balanced = make(CNNLSTMClassifier, class_weight="balanced", **settings).fit(X, y)
    assert (balanced.predict(X) == "rare").mean() > (plain.predict(X) == "rare").mean()


# -- what is refused


@both
@pytest.mark.parametrize("shape", [(24,), (24, 9), (24, 1)])
def test_y_that_has_not_the_steps_of_X_is_refused(cls, shape):
    X, _ = steps(cls)
    y = np.resize(np.array(["a", "b"]) if cls is CNNLSTMClassifier else np.arange(2.0), shape)
    with pytest.raises(ValueError, match=rf"y has shape \({shape[0]},.*\); expected \(24, 10.*\) for target='step'"):
        make(cls).fit(X, y)


def test_columns_of_labels_per_step_are_refused():
    X, y = steps(CNNLSTMClassifier)
    with pytest.raises(ValueError, match=r"y has shape \(24, 10, 2\); expected \(24, 10\) for target='step'"):
        make(CNNLSTMClassifier).fit(X, np.stack([y, y], axis=-1))


def test_other_numbers_of_outputs_are_refused_later():
    X, y = steps(CNNLSTMRegressor)
    model = make(CNNLSTMRegressor, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match=r"y has targets of shape \(2,\), but CNNLSTMRegressor was fitted with \(\)"):
        model.fit(X, np.stack([y, y], axis=-1))


def test_numbers_are_refused_as_labels():
    X, y = steps(CNNLSTMRegressor)
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        make(CNNLSTMClassifier).fit(X, y)


def test_labels_that_fit_has_not_seen_are_refused():
    X, y = steps(CNNLSTMClassifier)
    model = make(CNNLSTMClassifier, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match=r"y has the new classes \['left'\]"):
        model.fit(X, np.where(y == "up", "left", y))


@both
def test_y_without_any_observation_is_refused(cls):
    X, y = steps(cls)
    y = gaps(y)
    y[:] = np.nan
    with pytest.raises(ValueError, match=r"y has no .* that is not NaN"):
        make(cls).fit(X, y)


@both
def test_target_of_the_first_fit_stays(cls):
    X, y = steps(cls)
    model = make(cls, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match=r"target='sample', but .* was fitted with target='step'"):
        model.set_params(target="sample").fit(X, y[:, 0])


@both
def test_score_refuses_y_of_another_shape(cls):
    X, y = steps(cls)
    with pytest.raises(ValueError, match=r"y has shape \(24, 9\); expected \(24, 10\)"):
        make(cls).fit(X, y).score(X, y[:, :9])


@both
def test_score_does_not_blame_y_for_a_training_that_diverged(cls):
    X, y = steps(cls)
    model = make(cls).fit(X, y)
    for parameter in model.net_.module_.parameters():
        parameter.data.fill_(np.nan)
    with pytest.raises(ValueError, match=r"The prediction is NaN .* the training has diverged: lower lr"):
        model.score(X, y)


@both
def test_infinite_y_is_refused(cls):
    X, y = steps(CNNLSTMRegressor)
    y = np.where(y > 0, 1.0, 0.0)
    y[0, 0] = np.inf
    with pytest.raises(ValueError, match="Input y contains infinity"):
        make(cls).fit(X, y)


# -- maps


def drifting(n=40, n_timesteps=4, size=(6, 8), seed=0, horizon=1):
    """Smooth maps that move one column per step on a torus, and how they go on."""
    rng = np.random.default_rng(seed)
    rows, columns = np.meshgrid(*[np.arange(s) * 2 * np.pi / s for s in size], indexing="ij")
    phase = rng.uniform(0, 2 * np.pi, (n, 1, 1))
    steps = range(n_timesteps + horizon)
    maps = [np.sin(columns + phase - t * 2 * np.pi / size[1]) + np.cos(rows) for t in steps]
    maps = np.stack(maps, axis=1) + 0.05 * rng.normal(size=(n, len(steps), *size))
    return maps[:, :n_timesteps, ..., None], maps[:, n_timesteps:]


def make_map(cls, **params):
    small = {"conv_channels": (4,), "pool_size": 2, "hidden_size": 4, "max_epochs": 2, "random_state": 0}
    return cls(target="map", **{**small, **params})


def sign(y):
    return np.where(y > 0, "up", "down")


def test_next_map_is_learned_better_than_the_last_one():
    X, y = drifting(n=80)
    model = CNNLSTMRegressor(target="map", random_state=0).fit(X, y[:, 0])
    X, y = drifting(n=40, seed=1)
    error = np.mean((model.predict(X) - y[:, 0]) ** 2)
    assert error < 0.3 * np.mean((X[:, -1, ..., 0] - y[:, 0]) ** 2)


def test_each_pixel_gets_its_label():
    X, y = drifting(n=80)
    model = CNNLSTMClassifier(target="map", random_state=0).fit(X, sign(y[:, 0]))
    X, y = drifting(n=40, seed=1)
    assert model.score(X, sign(y[:, 0])) > max(0.9, np.mean(sign(X[:, -1, ..., 0]) == sign(y[:, 0])))


@pytest.mark.parametrize("size", [(7,), (5, 6), (3, 4, 5)])
@pytest.mark.parametrize("n_outputs", [(), (1,), (2,), (3,)])
@pytest.mark.parametrize("horizon", [(), (1,), (4,)])
def test_maps_come_back_in_the_shape_of_y(size, n_outputs, horizon):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(6, 3, *size, 2)), rng.normal(size=(6, *horizon, *size, *n_outputs))
    model = make_map(CNNLSTMRegressor, max_epochs=1).fit(X, y)
    assert model.predict(X).shape == model.predict(X[:, :2]).shape == y.shape
    assert model.score(X, y) <= 1


@pytest.mark.parametrize("horizon", [1, 3])
def test_classifier_of_maps_agrees_with_itself(horizon):
    X, y = drifting(horizon=horizon)
    y = sign(y[:, 0] if horizon == 1 else y)
    model = make_map(CNNLSTMClassifier).fit(X, y)
    probability = model.predict_proba(X)
    assert probability.shape == (*y.shape, 2)
    assert model.predict_log_proba(X).shape == (*y.shape, 2)
    assert ((model.decision_function(X) > 0) == (model.predict(X) == "up")).all()
    assert (model.predict(X) == model.classes_[probability.argmax(axis=-1)]).all()
    assert model.score(X, y) == pytest.approx(np.mean(model.predict(X) == y))


def test_quantiles_of_maps_are_the_last_axis():
    X, y = drifting(horizon=2)
    model = make_map(CNNLSTMRegressor, loss="quantile").fit(X, y)
    assert model.predict_quantiles(X).shape == (*y.shape, 3)
    assert (np.diff(model.predict_quantiles(X), axis=-1) >= 0).all()


def test_embedding_is_the_state_at_each_place_of_the_cnn():
    X, y = drifting(size=(6, 9))
    assert make_map(CNNLSTMRegressor, pooling="last").fit(X, y[:, 0]).embed(X).shape == (40, 3, 5, 8)


def barely_trained(X, y):
    return make_map(CNNLSTMRegressor, lr=1e-12, max_epochs=1).fit(X, y).predict(X)


@pytest.mark.parametrize("horizon", [1, 2])
def test_forecast_starts_from_the_last_frame_and_the_mean_change_of_a_pixel(horizon):
    rng = np.random.default_rng(0)
    climate = rng.normal(size=(6, 8, 2)) * 5 + 300
    X = climate + rng.normal(size=(400, 3, 6, 8, 2))
    y = X[:, -1:, ..., :1] + 7 + np.zeros((horizon, 1, 1, 1))
    np.testing.assert_allclose(barely_trained(X, y), y, atol=0.02)


def test_more_outputs_than_channels_start_from_the_mean_of_each_pixel():
    X, y = drifting(horizon=2)
    y = np.moveaxis(y, 1, -1) + 100
    np.testing.assert_allclose(barely_trained(X, y), np.broadcast_to(y.mean(axis=0), y.shape), atol=1e-3)


def test_score_of_maps_is_one_minus_the_ratio_of_squares_about_each_pixels_mean():
    X, y = drifting()
    y = gaps(y[:, 0] + 10 * np.arange(8))
    model = make_map(CNNLSTMRegressor).fit(X, y)
    error, about_mean = np.nansum((y - model.predict(X)) ** 2), np.nansum((y - np.nanmean(y, axis=0)) ** 2)
    assert model.score(X, y) == pytest.approx(1 - error / about_mean)
    weight = np.arange(40) % 2
    assert model.score(X, y, sample_weight=weight) == pytest.approx(model.score(X[1::2], y[1::2]))


def test_loss_of_maps_is_the_mean_over_observed_pixels():
    X, y = drifting(horizon=2)
    X_val, y_val = drifting(horizon=2, seed=2)
    y_val = gaps(y_val)
    model = make_map(CNNLSTMRegressor, early_stopping=False).fit(X, gaps(y), X_val=X_val, y_val=y_val)
    scale = model.net_.module_.target_scale.numpy()[..., 0]
    errors = (model.predict(X_val) - y_val) / scale
    assert model.history_["valid_loss"].iloc[-1] == pytest.approx(np.nanmean(errors**2), rel=1e-4)


def test_pixels_that_are_never_observed_are_let_be():
    X, y = drifting()
    land = y[:, 0].copy()
    land[:, 0, :4] = np.nan
    model = make_map(CNNLSTMRegressor).fit(X, land)
    assert np.isfinite(model.predict(X)).all()
    assert np.isfinite(model.score(X, land))


def test_maps_work_in_cross_validation_searches_and_early_stopping():
    X, y = drifting()
    assert cross_val_predict(make_map(CNNLSTMRegressor), X, y[:, 0], cv=2).shape == (40, 6, 8)
    assert np.isfinite(cross_val_score(make_map(CNNLSTMClassifier), X, sign(y[:, 0]), cv=2)).all()
    search = GridSearchCV(make_map(CNNLSTMRegressor, early_stopping=True), {"dropout": [0.0, 0.3]}, cv=2)
    assert search.fit(X, gaps(y[:, 0])).predict(X).shape == (40, 6, 8)


def test_map_model_is_the_same_after_pickling_and_for_the_same_seed():
    X, y = drifting()
    model = make_map(CNNLSTMRegressor).fit(X, y[:, 0])
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    np.testing.assert_array_equal(clone(model).fit(X, y[:, 0]).predict(X), model.predict(X))


def test_backbone_without_maps_is_broadcast_over_the_pixels():
    X, y = drifting()

    def backbone(n_channels, _):
        return nn.Sequential(nn.Conv2d(n_channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    assert make_map(CNNLSTMRegressor, backbone=backbone).fit(X, y[:, 0]).predict(X).shape == (40, 6, 8)


@pytest.mark.parametrize("shape", [(40,), (40, 6), (40, 8, 6), (40, 6, 9), (40, 2, 2, 6, 8)])
def test_y_that_has_not_the_pixels_of_X_is_refused(shape):
    X, _ = drifting()
    with pytest.raises(ValueError, match=r"y has shape .*; expected \(40, \[horizon, \]6, 8.*\) for target='map'"):
        make_map(CNNLSTMRegressor).fit(X, np.zeros(shape))


def test_y_of_two_readings_is_refused():
    X, _ = drifting(size=(6, 6))
    with pytest.raises(ValueError, match="second axis may be the horizon or whose last the outputs; expected all axes"):
        make_map(CNNLSTMRegressor).fit(X, np.zeros((40, 6, 6, 6)))


def test_maps_of_series_without_space_are_refused():
    X, y = steps(CNNLSTMRegressor)
    with pytest.raises(ValueError, match="target='map' needs X with space, of 4 to 6 dimensions; got X of 3"):
        make_map(CNNLSTMRegressor).fit(X, y)


def test_other_horizon_is_refused_later():
    X, y = drifting(horizon=2)
    model = make_map(CNNLSTMClassifier, warm_start=True).fit(X, sign(y))
    with pytest.raises(ValueError, match=r"y has targets of shape \(1, 6, 8\), but .* was fitted with \(2, 6, 8\)"):
        model.fit(X, sign(y[:, :1]))


@pytest.mark.slow
def test_next_months_sea_surface_temperature_beats_persistence_and_climatology(load_data):
    data = load_data("SST_Nino34")
    example = runpy.run_path(str(EXAMPLES / "maps.py"))
    months = pd.PeriodIndex(data["time"], freq="M")
    assert np.isnan(data["series"]).any()  # land
    forecasts, truth = example["forecast"](data["series"], months, pd.Period("1990-01", freq="M"))
    assert truth.shape == (159, 30, 84)
    error = example["errors"](forecasts, truth)["RMSE"]
    by_hand = np.sqrt(np.nanmean((data["series"][239:-1] - data["series"][240:]) ** 2))
    assert error["persistence"] == pytest.approx(by_hand)
    assert error["CNNLSTMRegressor"] < 0.98 * error["persistence"] < error["monthly climatology"]
