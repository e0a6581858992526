"""The validation part: data that the user has, groups kept together, the last in time; routed through scikit-learn."""

import numpy as np
import pytest
import skorch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    TimeSeriesSplit,
    cross_val_predict,
    cross_validate,
)
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import get_tags
from skorch.callbacks import EarlyStopping

from sklearn_cnnlstm import CNNLSTMClassifier, CNNLSTMRegressor
from sklearn_cnnlstm._training import ValidScore

pytestmark = pytest.mark.filterwarnings("ignore:max_epochs=.* ended the training before early stopping could")

SMALL = {"conv_channels": (4,), "hidden_size": 4, "batch_size": 16, "max_epochs": 3, "random_state": 0}
SHAPE = (8, 2)

every_class = pytest.mark.parametrize("cls", [CNNLSTMClassifier, CNNLSTMRegressor])


def make_data(cls, n=40, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, *SHAPE))
    level = rng.permutation(np.linspace(-1, 1, n))
    X += level.reshape(-1, 1, 1)
    return X, (level > 0).astype(int) if cls is CNNLSTMClassifier else level


def answer(model, X):
    return model.predict_proba(X) if get_tags(model).estimator_type == "classifier" else model.predict(X)


class Rows(skorch.callbacks.Callback):
    """Notes which rows of X are trained on and which are held out, without keeping a copy of its own."""

    seen = ()

    def on_train_begin(self, net, X=None, **kwargs):
        Rows.seen = (X.index, None)

    def on_epoch_end(self, net, dataset_train=None, dataset_valid=None, **kwargs):
        Rows.seen = (dataset_train.index, dataset_valid.index)


def split(model, X, y, **metadata):
    """The rows trained on and those held out."""
    model.set_params(net_callbacks=[Rows()]).fit(X, y, **metadata)
    return Rows.seen


def all_losses(model):
    return model.history_.drop(columns="seconds")


# -- validation data that the user has


@every_class
def test_validation_data_are_looked_at_and_not_trained_on(cls):
    X, y = make_data(cls)
    X_val, y_val = make_data(cls, seed=1)
    model = cls(**SMALL, early_stopping=False).fit(X, y, X_val=X_val, y_val=y_val)
    assert_array_equal(answer(model, X), answer(cls(**SMALL).fit(X, y), X))
    assert model.history_["valid_loss"].notna().all()


@every_class
def test_all_of_X_is_trained_on_when_validation_data_are_there(cls):
    X, y = make_data(cls)
    X_val, y_val = make_data(cls, n=7, seed=1)
    train, valid = split(cls(**SMALL, early_stopping=True), X, y, X_val=X_val, y_val=y_val)
    assert (train.tolist(), valid.tolist()) == (list(range(40)), list(range(7)))


@every_class
def test_holding_out_the_last_is_as_passing_them_to_the_bit(cls):
    X, y = make_data(cls)
    weight = np.linspace(0.5, 2, 40)
    inner = cls(**SMALL, early_stopping=True, validation_order="last", validation_fraction=0.25).fit(X, y, weight)
    outer = cls(**SMALL, early_stopping=True)
    outer.fit(X[:30], y[:30], weight[:30], X_val=X[30:], y_val=y[30:], sample_weight_val=weight[30:])
    assert_array_equal(answer(outer, X), answer(inner, X))
    assert_allclose(outer.history_["valid_loss"], inner.history_["valid_loss"], rtol=1e-6)


@every_class
def test_validation_series_may_be_longer(cls):
    X, y = make_data(cls)
    model = cls(**SMALL).fit(X, y, X_val=np.concatenate([X, X], axis=1), y_val=y)
    assert np.isfinite(model.history_["valid_loss"]).all()


@every_class
def test_bad_validation_data_are_named(cls):
    X, y = make_data(cls)
    weight = np.ones(40)
    cases = [
        ({"X_val": X}, "X_val was passed without y_val"),
        ({"y_val": y}, "y_val or sample_weight_val was passed without X_val"),
        ({"X_val": X[..., :1], "y_val": y}, "X_val.*: X has 1 channels, but .* was fitted with 2"),
        ({"X_val": X[:, 0], "y_val": y}, "X_val.*: X has 2 dimensions"),
        ({"X_val": np.abs(X) * np.inf, "y_val": y}, "X_val.*: Input X contains infinity"),
        ({"X_val": X, "y_val": y[1:]}, r"X_val.*: .* inconsistent numbers of samples: \[40, 39\]"),
        ({"X_val": X[:0], "y_val": y[:0]}, r"X_val.*: Found array with 0 sample\(s\)"),
        ({"X_val": X, "y_val": y, "sample_weight_val": weight[1:]}, r"sample_weight_val: .* expected \(40,\)"),
        ({"X_val": X, "y_val": y, "sample_weight_val": -weight}, "sample_weight_val: .* negative values, the least -1"),
        ({"X_val": X, "y_val": y, "sample_weight_val": 0 * weight}, "sample_weight_val: .*non-zero"),
    ]
    for metadata, message in cases:
        model = cls(**SMALL)
        with pytest.raises(ValueError, match=message):
            model.fit(X, y, **metadata)
        assert not hasattr(model, "input_shape_")


def test_validation_labels_must_be_known():
    X, y = make_data(CNNLSTMClassifier)
    with pytest.raises(ValueError, match=r"y_val .*: y has the new classes \[2, 3\]"):
        CNNLSTMClassifier(**SMALL).fit(X, y, X_val=X, y_val=y + 2)


@every_class
def test_warm_start_takes_validation_data_in_its_second_fit(cls):
    X, y = make_data(cls)
    model = cls(**SMALL, warm_start=True).fit(X, y).fit(X, y, X_val=X, y_val=y)
    assert model.n_epochs_ == 6
    assert model.history_["valid_loss"].notna().tolist() == [False] * 3 + [True] * 3


# -- routing


@every_class
def test_sequences_for_validation_go_through_the_steps_before_the_network(cls):
    X, y = make_data(cls)
    X_val, y_val = make_data(cls, n=9, seed=1)
    weight_val = np.linspace(0.5, 1, 9)
    with config_context(enable_metadata_routing=True):
        net = cls(**SMALL).set_fit_request(X_val=True, y_val=True, sample_weight_val=True)
        model = Pipeline([("bend", FunctionTransformer(np.tanh)), ("net", net)], transform_input=["X_val"])
        model.fit(X, y, X_val=X_val, y_val=y_val, sample_weight_val=weight_val)
    by_hand = cls(**SMALL)
    by_hand.fit(np.tanh(X), y, X_val=np.tanh(X_val), y_val=y_val, sample_weight_val=weight_val)
    assert all_losses(model["net"]).equals(all_losses(by_hand))
    assert_array_equal(answer(model["net"], X), answer(by_hand, X))


@every_class
def test_search_scales_the_validation_data_as_each_fold_is(cls):
    X, y = make_data(cls)
    X_val, y_val = make_data(cls, n=9, seed=1)
    X, X_val = X.reshape(40, -1), X_val.reshape(9, -1)
    cv = TimeSeriesSplit(2)
    with config_context(enable_metadata_routing=True):
        net = cls(**SMALL, input_shape=SHAPE).set_fit_request(X_val=True, y_val=True)
        model = Pipeline([("scale", StandardScaler()), ("net", net)], transform_input=["X_val"])
        search = GridSearchCV(model, {"net__lr": [0.01]}, cv=cv, error_score="raise")
        search.fit(X, y, X_val=X_val, y_val=y_val)
        folds = cross_validate(
            model, X, y, cv=cv, params={"X_val": X_val, "y_val": y_val}, return_estimator=True, error_score="raise"
        )
    for estimator, (train, _) in zip(folds["estimator"], cv.split(X), strict=True):
        scaler = StandardScaler().fit(X[train])
        by_hand = cls(**SMALL, input_shape=SHAPE)
        by_hand.fit(scaler.transform(X[train]), y[train], X_val=scaler.transform(X_val), y_val=y_val)
        assert all_losses(estimator["net"]).equals(all_losses(by_hand))
    assert len(search.best_estimator_["net"].history_["valid_loss"]) == 3


@every_class
def test_groups_reach_the_folds_and_the_inner_split_of_a_pipeline(cls):
    X, y = make_data(cls)
    groups = np.arange(40) // 4
    cv = GroupKFold(2)
    settings = SMALL | {"early_stopping": True, "validation_fraction": 0.3}
    with config_context(enable_metadata_routing=True):
        net = cls(**settings).set_fit_request(groups=True)
        model = Pipeline([("bend", FunctionTransformer()), ("net", net)])
        predicted = cross_val_predict(model, X, y, cv=cv, params={"groups": groups})
    for train, test in cv.split(X, y, groups):
        by_hand = cls(**settings).fit(X[train], y[train], groups=groups[train])
        assert_array_equal(predicted[test], by_hand.predict(X[test]))


@every_class
def test_metadata_without_a_request_are_an_error(cls):
    X, y = make_data(cls)
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(cls(**SMALL), {"lr": [0.01]}, cv=2)
        with pytest.raises(UnsetMetadataPassedError, match=r"\[X_val, y_val\] are passed but are not explicitly set"):
            search.fit(X, y, X_val=X[:5], y_val=y[:5])


@every_class
def test_search_without_routing_hands_on_validation_data_too(cls):
    X, y = make_data(cls)
    search = GridSearchCV(cls(**SMALL), {"lr": [0.01]}, cv=2, error_score="raise").fit(X, y, X_val=X[:9], y_val=y[:9])
    by_hand = cls(**SMALL | {"lr": 0.01}).fit(X, y, X_val=X[:9], y_val=y[:9])
    assert all_losses(search.best_estimator_).equals(all_losses(by_hand))


# -- groups


@every_class
@pytest.mark.parametrize("n_groups", [2, 3, 4, 12])
@pytest.mark.parametrize("validation_order", ["random", "last"])
def test_groups_stay_together_be_they_few(cls, n_groups, validation_order):
    X, y = make_data(cls, n=48)
    groups = np.array([f"patient {i}" for i in np.arange(48) * n_groups // 48])
    model = cls(**SMALL, early_stopping=True, validation_order=validation_order)
    train, valid = split(model, X, y, groups=groups)
    assert len(train) > 0
    assert len(valid) > 0
    assert not set(groups[train]) & set(groups[valid])


@every_class
@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 0.95])
def test_groups_leave_the_fraction_as_it_is(cls, fraction):
    X, y = make_data(cls, n=80)
    groups = np.arange(80) // 4
    model = cls(**SMALL, early_stopping=True, validation_fraction=fraction)
    train, valid = split(model, X, y, groups=groups)
    assert len(valid) == 80 * fraction
    assert_array_equal(np.sort(np.concatenate([train, valid])), np.arange(80))
    assert not set(groups[train]) & set(groups[valid])


@every_class
@pytest.mark.parametrize("fraction", [0.1, 0.4, 0.6, 0.9])
@pytest.mark.parametrize("sizes", [(20, 20), (30, 4, 3, 3), (10, 10, 10, 5, 5), (1,) * 40])
def test_groups_of_any_size_are_on_both_sides_and_on_one_each(cls, sizes, fraction):
    X, y = make_data(cls)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    train, valid = split(cls(**SMALL, early_stopping=True, validation_fraction=fraction), X, y, groups=groups)
    assert_array_equal(np.sort(np.concatenate([train, valid])), np.arange(40))
    assert len(train) > 0
    assert len(valid) > 0
    assert not set(groups[train]) & set(groups[valid])


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.4, 0.7])
def test_groups_are_divided_where_classes_have_few_samples(fraction):
    X, _ = make_data(CNNLSTMClassifier)
    groups = np.arange(40) // 4
    model = CNNLSTMClassifier(**SMALL, early_stopping=True, validation_fraction=fraction)
    train, valid = split(model, X, np.arange(40) % 10, groups=groups)
    assert abs(len(valid) / 40 - fraction) < 0.16  # 4 parts, as each class has 4 samples
    assert not set(groups[train]) & set(groups[valid])


@every_class
def test_groups_may_be_of_several_types(cls):
    X, y = make_data(cls)
    model = cls(**SMALL, early_stopping=True)
    names = np.array([7, "b", None, (1, 2), 3.5], dtype=object)
    by_number = split(model, X, y, groups=np.arange(40) // 8)
    assert_array_equal(np.sort(split(model, X, y, groups=names[np.arange(40) // 8])[1]), np.sort(by_number[1]))


@every_class
def test_groups_whose_names_are_objects_stay_together(cls):
    X, y = make_data(cls)
    groups = np.random.default_rng(0).integers(5, size=40)
    names = np.array([np.nan, 1, 2, 3, 4], dtype=object)
    train, valid = split(cls(**SMALL, early_stopping=True), X, y, groups=names[groups])
    assert not set(groups[train]) & set(groups[valid])


@every_class
@pytest.mark.parametrize(
    ("validation_order", "message"),
    [("random", r"cannot hold out validation_fraction=0.1 of 40 samples in 1 group\(s\)"), ("last", "every group")],
)
def test_one_group_cannot_be_split(cls, validation_order, message):
    X, y = make_data(cls)
    with pytest.raises(ValueError, match=message):
        cls(**SMALL, early_stopping=True, validation_order=validation_order).fit(X, y, groups=np.zeros(40))


@every_class
@pytest.mark.parametrize("groups", [np.zeros(39), np.zeros((40, 1)), 3])
def test_groups_must_be_one_per_sample(cls, groups):
    X, y = make_data(cls)
    with pytest.raises(ValueError, match=r"groups has shape \(.*\); expected \(40,\)"):
        cls(**SMALL).fit(X, y, groups=groups)


# -- the last in time


@every_class
@pytest.mark.parametrize(("fraction", "n_valid"), [(0.1, 4), (0.11, 5), (0.5, 20), (0.9, 36)])
def test_last_samples_are_held_out_in_their_order(cls, fraction, n_valid):
    X, y = make_data(cls)
    model = cls(**SMALL, early_stopping=True, validation_order="last", validation_fraction=fraction)
    train, valid = split(model, X, y)
    assert train.tolist() == list(range(40 - n_valid))
    assert valid.tolist() == list(range(40 - n_valid, 40))


@every_class
def test_last_samples_are_counted_among_those_with_weight(cls):
    X, y = make_data(cls)
    weight = np.where(np.arange(40) < 30, 1.0, 0.0)
    model = cls(**SMALL, early_stopping=True, validation_order="last", validation_fraction=0.2)
    train, valid = split(model, X, y, sample_weight=weight)
    assert train.tolist() == list(range(24))
    assert valid.tolist() == list(range(24, 30))


@every_class
def test_statistics_come_from_the_training_part_alone(cls):
    X, y = make_data(cls)
    X[36:] += 1e6
    model = cls(**SMALL, early_stopping=True, validation_order="last").fit(X, y)
    assert_allclose(model.net_.module_.input_mean, X[:36].mean(axis=(0, 1)), atol=1e-5)


@every_class
def test_part_that_leaves_nothing_to_train_on_is_an_error(cls):
    X, y = make_data(cls)
    model = cls(**SMALL, early_stopping=True, validation_order="last", validation_fraction=0.99)
    with pytest.raises(ValueError, match=r"validation_fraction=0.99 of 40 samples leaves none to train on; expected"):
        model.fit(X, y)


def test_class_of_one_member_cannot_be_held_out():
    X, _ = make_data(CNNLSTMClassifier)
    with pytest.raises(ValueError, match=r"cannot hold out validation_fraction=0.1 of 40 samples: .*only 1 member"):
        CNNLSTMClassifier(**SMALL, early_stopping=True).fit(X, np.arange(40) == 3)


@every_class
@pytest.mark.parametrize("scoring", ["loss", lambda estimator, X, y: estimator.score(X, y)])
def test_partial_fit_goes_on_after_validation_data(cls, scoring):
    """A function without a place for weights scores a fit with weights, and the stream after it is not scored."""
    X, y = make_data(cls)
    model = cls(**SMALL, scoring=scoring)
    model.fit(X[:30], y[:30], sample_weight=np.full(30, 2.0), X_val=X[30:], y_val=y[30:])
    assert model.history_["valid_loss"].notna().all()
    callbacks = [callback for _, callback in model.net_.callbacks_]
    assert not [callback for callback in callbacks if isinstance(callback, (EarlyStopping, ValidScore))]  # hold data
    model.partial_fit(X, y)
    assert model.history_["valid_loss"].isna().tolist() == [False] * 3 + [True]
    if scoring != "loss":
        assert model.history_["valid_score"].isna().tolist() == [False] * 3 + [True]
