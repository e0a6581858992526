"""What users pass by mistake, or what is hard on numbers: it trains as it should or is refused in a sentence."""

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import is_classifier

from sklearn_cnnlstm import CNNLSTMClassifier, CNNLSTMRegressor

SMALL = {"conv_channels": (4,), "hidden_size": 4, "batch_size": 8, "max_epochs": 2, "random_state": 0, "device": "cpu"}
SHAPE = (6, 2)

every_class = pytest.mark.parametrize("cls", [CNNLSTMClassifier, CNNLSTMRegressor])


def make(cls, **params):
    return cls(**SMALL | params)


def make_data(cls, n=20, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, *SHAPE))
    level = rng.permutation(np.linspace(-1, 1, n))
    X[..., 0] += level[:, np.newaxis]
    return X, (level > 0).astype(int) if cls is CNNLSTMClassifier else level


def answer(model, X):
    return model.predict_proba(X) if is_classifier(model) else model.predict(X)


# -- hard numbers


@every_class
@pytest.mark.parametrize(("offset", "scale"), [(1e6, 1), (1.7e9, 600), (1.7e9, 60), (1e15, 1), (0, 1e30), (0, 1e-42)])
def test_channel_far_from_zero_does_not_drown_the_others(cls, offset, scale):
    X, y = make_data(cls, n=80)
    undisturbed = make(cls, max_epochs=20, lr=0.01).fit(X, y).score(X, y)
    X[..., 1] = offset + scale * X[..., 1]
    assert make(cls, conv_bank=0, max_epochs=20, lr=0.01).fit(X, y).score(X, y) > 0.7
    assert make(cls, max_epochs=20, lr=0.01).fit(X, y).score(X, y) > undisturbed - 0.05 > 0.6


@pytest.mark.parametrize(("offset", "scale"), [(1e3, 1), (1e5, 0.05), (1e6, 0.01), (1.7e9, 600), (0, 1e-30), (0, 1e30)])
def test_targets_far_from_zero_are_predicted_to_their_own_scale(offset, scale):
    X, y = make_data(CNNLSTMRegressor, n=80)
    model = make(CNNLSTMRegressor, max_epochs=20, lr=0.01)
    expected = model.fit(X, y).score(X, y)
    y = offset + scale * y
    assert_allclose(model.fit(X, y).score(X, y), expected, atol=0.05)
    assert expected > 0.7


@pytest.mark.parametrize("y_scale", [1e39, 1e300])
def test_targets_beyond_float32_are_refused(y_scale):
    X, y = make_data(CNNLSTMRegressor)
    with pytest.raises(ValueError, match="Input y contains a value too large for dtype"):
        make(CNNLSTMRegressor).fit(X, y * y_scale)


@every_class
@pytest.mark.parametrize("factor", [1e-300, 2.0**-20, 3.0, 1e307])
def test_weights_of_any_size_train_as_their_ratios(cls, factor):
    X, y = make_data(cls)
    weight = np.linspace(0.5, 1, 20)
    expected = answer(make(cls).fit(X, y, weight), X)
    assert_allclose(answer(make(cls).fit(X, y, weight * factor), X), expected, rtol=1e-5)


# -- odd types


@every_class
@pytest.mark.parametrize("dtype", ["datetime64[s]", "timedelta64[s]"])
def test_dates_are_no_numbers(cls, dtype):
    X, y = make_data(cls)
    dates = np.arange(X.size).reshape(X.shape).astype(dtype)
    with pytest.raises(ValueError, match=f"Input X holds {dtype[:10]}.*; expected numbers"):
        make(cls).fit(dates, y)
    with pytest.raises(ValueError, match=f"Input X holds {dtype[:10]}.*; expected numbers"):
        make(cls).fit(X, y).predict(dates)


def test_dates_are_no_targets():
    X, _ = make_data(CNNLSTMRegressor)
    with pytest.raises(ValueError, match=r"Input y holds datetime64\[D\]; expected numbers"):
        make(CNNLSTMRegressor).fit(X, np.arange(20).astype("datetime64[D]"))


@every_class
@pytest.mark.parametrize("dtype", ["Float64", "Float32", "Int16", "boolean"])
def test_nullable_columns_are_read_as_plain_ones(cls, dtype):
    X, y = make_data(cls)
    frame = pd.DataFrame((X.reshape(20, -1) > 0).astype(float)).add_prefix("x")
    expected = answer(make(cls).fit(frame, y), frame)
    nullable = frame.astype(dtype)
    assert_allclose(answer(make(cls).fit(nullable, y), nullable), expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["Int64", "boolean", "category", "string", "Float64"])
def test_labels_of_pandas_are_read_as_plain_ones(dtype):
    X, y = make_data(CNNLSTMClassifier)
    expected = make(CNNLSTMClassifier).fit(X, y).predict_proba(X)
    labels = pd.Series(y, index=np.arange(20) + 5)
    labels = labels.map({0: "a", 1: "b"}).astype(dtype) if dtype == "string" else labels.astype(dtype)
    assert_array_equal(make(CNNLSTMClassifier).fit(X, labels).predict_proba(X), expected)


@every_class
def test_tensors_are_taken_for_y_and_weights(cls):
    X, y = make_data(cls)
    weight = np.linspace(0, 1, 20)
    expected = answer(make(cls).fit(X, y, weight), X)
    given = (torch.from_numpy(array) for array in (X, y, weight))
    assert_array_equal(answer(make(cls).fit(*given), X), expected)


@every_class
@pytest.mark.parametrize("X", [None, 3.0, "series", {"a": [1.0]}, np.array(1.0), np.zeros(20), pd.Series(np.zeros(20))])
def test_X_that_is_no_batch_of_samples_is_refused(cls, X):
    with pytest.raises(ValueError, match=r"Expected (2D array, got|a 2-dimensional container but got)"):
        make(cls).fit(X, np.arange(20) % 2)


@every_class
def test_single_sample_without_its_axis_is_refused(cls):
    X, y = make_data(cls)
    with pytest.raises(ValueError, match=r"X has 2 dimensions, but .* was fitted with X of 3"):
        make(cls).fit(X, y).predict(X[0])


# -- settings that cannot be


@every_class
@pytest.mark.parametrize("optimizer", [int, dict, torch.nn.Linear])
def test_optimizer_must_be_one(cls, optimizer):
    with pytest.raises(ValueError, match=r"expected one of .* or a torch.optim class"):
        make(cls, optimizer=optimizer).fit(*make_data(cls))


@every_class
def test_optimizer_may_be_any_of_torchs(cls):
    X, y = make_data(cls)
    model = make(cls, optimizer=torch.optim.RMSprop).fit(X, y)
    assert isinstance(model.net_.optimizer_, torch.optim.RMSprop)


@every_class
def test_device_without_values_is_refused(cls):
    with pytest.raises(ValueError, match="device='meta' is not available"):
        make(cls, device="meta").fit(*make_data(cls))


@pytest.mark.parametrize("class_weight", [{0: -1, 1: 1}, {0: 0, 1: 0}])
def test_class_weights_must_be_weights(class_weight):
    with pytest.raises(ValueError, match="expected weights of at least 0, not all of them 0"):
        make(CNNLSTMClassifier, class_weight=class_weight).fit(*make_data(CNNLSTMClassifier))


def test_class_weight_must_name_the_classes():
    with pytest.raises(ValueError, match="are not in class_weight"):
        make(CNNLSTMClassifier, class_weight={5: 1}).fit(*make_data(CNNLSTMClassifier))


# -- a fitted estimator asked otherwise


def test_score_refuses_maps_of_another_shape():
    X, y = make_data(CNNLSTMRegressor)
    maps = np.multiply.outer(y, np.ones((2, 3)))
    model = make(CNNLSTMRegressor).fit(X, maps)
    assert np.isfinite(model.score(X, maps))
    for other in (maps.swapaxes(1, 2), maps.reshape(20, 6)):
        with pytest.raises(ValueError, match=r"y has shape \(20, .*\); expected \(20, 2, 3\)"):
            model.score(X, other)


def test_partial_fit_refuses_other_classes_than_it_had():
    X, y = make_data(CNNLSTMClassifier)
    model = make(CNNLSTMClassifier).partial_fit(X, y, classes=[1, 0])
    model.partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match=r"classes=\[0, 1, 2\] is not the same as on the last call"):
        model.partial_fit(X, y, classes=[0, 1, 2])
    assert model.n_epochs_ == 2
