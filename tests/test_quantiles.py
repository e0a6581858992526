"""What a regressor with loss="quantile" promises: known quantiles found, in order, in scikit-learn's tools."""

import pickle

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.base import clone
from sklearn.metrics import d2_pinball_score, make_scorer, mean_pinball_loss, r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from torch import nn

from sklearn_cnnlstm import CNNLSTMRegressor
from sklearn_cnnlstm._network import Quantiles
from sklearn_cnnlstm._training import SampleLoss

LEVELS = (0.05, 0.5, 0.95)


def noisy(n, seed):
    """Series whose first channel tells the mean of y and the second its spread."""
    rng = np.random.default_rng(seed)
    level, spread = rng.uniform(-1, 1, n), rng.uniform(0.2, 2, n)
    X = np.stack([level, spread], axis=1)[:, None, :] + rng.normal(scale=0.1, size=(n, 8, 2))
    return X, 50 + 10 * level + 5 * spread * rng.normal(size=n), 50 + 10 * level, 5 * spread


def regressor(**params):
    small = {"conv_channels": (8,), "hidden_size": 8, "max_epochs": 3, "random_state": 0}
    return CNNLSTMRegressor(**{"loss": "quantile", **small, **params})


@pytest.fixture(scope="module")
def fitted():
    X, y, _, _ = noisy(2000, 0)
    return CNNLSTMRegressor(loss="quantile", quantiles=LEVELS, hidden_size=16, max_epochs=25, random_state=0).fit(X, y)


def test_held_out_values_fall_below_each_quantile_as_often_as_it_says(fitted):
    X, y, _, _ = noisy(4000, 1)
    below = (y[:, None] <= fitted.predict_quantiles(X)).mean(axis=0)
    np.testing.assert_allclose(below, LEVELS, atol=0.03)


def test_quantiles_are_those_that_the_data_were_drawn_from(fitted):
    X, _, mean, spread = noisy(4000, 1)
    expected = mean[:, None] + spread[:, None] * norm.ppf(LEVELS)
    assert all(r2_score(expected[:, i], fitted.predict_quantiles(X)[:, i]) > 0.85 for i in range(3))


def test_interval_is_wide_where_the_noise_is(fitted):
    X, _, _, spread = noisy(4000, 1)
    low, _, high = fitted.predict_quantiles(X).T
    assert np.corrcoef(high - low, spread)[0, 1] > 0.9


def test_pinball_loss_on_held_out_data_is_below_that_of_constant_quantiles(fitted):
    X, y, _, _ = noisy(4000, 1)
    for level, prediction in zip(LEVELS, fitted.predict_quantiles(X).T, strict=True):
        assert d2_pinball_score(y, prediction, alpha=level) > 0.25


def test_predict_is_the_median_and_score_its_r2(fitted):
    X, y, _, _ = noisy(200, 2)
    np.testing.assert_array_equal(fitted.predict(X), fitted.predict_quantiles(X)[:, 1])
    assert fitted.score(X, y) == r2_score(y, fitted.predict(X))


def test_quantiles_never_cross_even_after_little_training():
    X, y, _, _ = noisy(64, 0)
    levels = (0.1, 0.45, 0.5, 0.55, 0.9)
    model = regressor(quantiles=levels, lr=0.3).fit(X, np.stack([y, -y], axis=1))
    far = np.random.default_rng(0).normal(scale=100, size=(500, 8, 2))
    assert (np.diff(model.predict_quantiles(far), axis=-1) >= 0).all()


def test_loss_is_scikit_learns_pinball_loss():
    rng = np.random.default_rng(0)
    y, output = rng.normal(size=(30, 2)), rng.normal(size=(30, 2, 3))
    loss = SampleLoss("quantile", quantiles=LEVELS)(torch.tensor(output), torch.tensor(y)).mean()
    expected = np.mean([mean_pinball_loss(y, output[..., i], alpha=level) for i, level in enumerate(LEVELS)])
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_untrained_outputs_spread_like_a_standard_normal():
    layer = Quantiles(4, 2, LEVELS)
    nn.init.zeros_(layer.linear.weight)
    outputs = layer(torch.zeros(3, 4)).detach()
    np.testing.assert_allclose(outputs, np.broadcast_to(norm.ppf(LEVELS), (3, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize("shape", [(), (1,), (2,), (2, 3)])
def test_quantiles_are_the_last_axis_after_the_shape_of_y(shape):
    X, y, _, _ = noisy(40, 0)
    y = np.broadcast_to(y.reshape(-1, *[1] * len(shape)), (40, *shape)).astype(np.float32)
    model = regressor().fit(X, y)
    assert model.predict(X).shape == (40, *shape)
    assert model.predict_quantiles(X).shape == (40, *shape, 3)
    assert model.predict_quantiles(X).dtype == np.float32


def test_only_the_loss_quantile_has_quantiles_to_predict():
    X, y, _, _ = noisy(40, 0)
    assert hasattr(regressor(), "predict_quantiles")
    model = regressor(loss="huber").fit(X, y)
    assert not hasattr(model, "predict_quantiles")
    assert not hasattr(model.set_params(loss="quantile"), "predict_quantiles")  # it has learned none
    assert model.quantiles_ == ()


def test_quantiles_of_a_grid_have_the_median():
    X, y, _, _ = noisy(40, 0)
    grid = np.linspace(0.05, 0.95, 19)  # 0.49999999999999994 among them
    assert regressor(quantiles=list(grid)).fit(X, y).quantiles_[9] == 0.5


@pytest.mark.parametrize(
    ("quantiles", "message"),
    [
        ((0.0, 0.5), r"quantiles=\(0.0, 0.5\); expected numbers between 0 and 1"),
        ((0.5, 1.5), "expected numbers between 0 and 1"),
        (("low", 0.5), "expected numbers between 0 and 1"),
        ((0.9, 0.5), "expected numbers that increase"),
        ((0.5, 0.5), "expected numbers that increase"),
        ((0.1, 0.9), r"quantiles=\(0.1, 0.9\); expected 0.5 among them"),
        ((), "expected 0.5 among them"),
    ],
)
def test_quantiles_that_cannot_be_are_refused(quantiles, message):
    X, y, _, _ = noisy(20, 0)
    with pytest.raises(ValueError, match=message):
        regressor(quantiles=quantiles).fit(X, y)


def test_quantiles_that_another_loss_does_not_read_are_let_be():
    X, y, _, _ = noisy(20, 0)
    regressor(loss="squared_error", quantiles=(0.9, 0.1)).fit(X, y)


def test_warm_start_keeps_the_quantiles_of_the_first_fit():
    X, y, _, _ = noisy(40, 0)
    model = regressor(warm_start=True).fit(X, y).fit(X, y)
    with pytest.raises(ValueError, match=r"quantiles=\(0.5,\), but CNNLSTMRegressor was fitted with \(0.05, 0.5"):
        model.set_params(quantiles=(0.5,)).fit(X, y)
    assert model.quantiles_ == LEVELS


def test_quantiles_work_in_cross_validation_and_searches():
    X, y, _, _ = noisy(90, 0)
    assert np.isfinite(cross_val_score(regressor(), X, y, cv=3)).all()
    scorer = make_scorer(mean_pinball_loss, greater_is_better=False)
    search = GridSearchCV(regressor(), {"quantiles": [(0.5,), LEVELS]}, scoring=scorer, cv=2).fit(X, y)
    assert search.best_estimator_.predict_quantiles(X).shape == (90, len(search.best_params_["quantiles"]))


def test_clone_and_pickle_keep_the_quantiles():
    X, y, _, _ = noisy(40, 0)
    model = regressor(quantiles=[0.25, 0.5, 0.75]).fit(X, y)
    assert clone(model).quantiles == [0.25, 0.5, 0.75]
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_quantiles(X), model.predict_quantiles(X))


def test_early_stopping_and_skorchs_scorers_see_the_median():
    X, y, _, _ = noisy(80, 0)
    model = regressor(early_stopping=True, scoring="r2", max_epochs=4).fit(X, y)
    assert np.isfinite(model.history_["valid_score"]).all()
    assert model.net_.predict(X.astype(np.float32)).shape == (80, 1)


def test_partial_fit_learns_quantiles():
    X, y, _, _ = noisy(60, 0)
    model = regressor().partial_fit(X, y).partial_fit(X, y)
    assert model.predict_quantiles(X).shape == (60, 3)
