"""scikit-learn's own tools fit, search, combine and score the estimators."""

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import loguniform
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    BaggingRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.experimental import enable_halving_search_cv
from sklearn.feature_selection import RFE, SelectFromModel
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import permutation_importance
from sklearn.linear_model import Ridge
from sklearn.metrics import accuracy_score, balanced_accuracy_score, r2_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    KFold,
    RandomizedSearchCV,
    StratifiedGroupKFold,
    StratifiedKFold,
    TimeSeriesSplit,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    validation_curve,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier, MultiOutputRegressor, RegressorChain
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.utils import estimator_html_repr
from sklearn.utils.fixes import parse_version
from sklearn.utils.validation import has_fit_parameter

from sklearn_cnnlstm import CNNLSTMClassifier, CNNLSTMRegressor

SMALL = {
    "conv_bank": 0,
    "conv_channels": (8,),
    "hidden_size": 8,
    "batch_size": 16,
    "max_epochs": 12,
    "lr": 0.02,
    "random_state": 0,
}
SHAPE = (8, 2)  # of one sequence


def classifier(**params):
    return CNNLSTMClassifier(**SMALL | params)


def regressor(**params):
    return CNNLSTMRegressor(**SMALL | params)


def slopes(n_samples=48, n_classes=2, seed=0):
    """Sequences (n, 8, 2) that fall or rise in channel 0 (with a third class: stay); channel 1 is noise."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n_samples) % n_classes)
    slope = np.array([-1.0, 1.0, 0.0])[y]
    X = rng.normal(scale=0.4, size=(n_samples, *SHAPE))
    X[..., 0] += slope[:, np.newaxis] * np.linspace(-1, 1, SHAPE[0])
    return X, y


def levels(n_samples=48, seed=0):
    """Sequences (n, 8, 2), each about a level of its own in channel 0, and that channel's mean."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_samples, *SHAPE))
    X[..., 0] += rng.normal(size=(n_samples, 1)) * 2
    return X, X[..., 0].mean(axis=1)


def flat(X):
    return X.reshape(len(X), -1)


def sensitivity(estimator):
    """How much the answer moves when a column is set to 0: what RFE and SelectFromModel can ask of any estimator."""
    X = np.random.default_rng(0).normal(size=(64, estimator.n_features_in_))
    ask = getattr(estimator, "decision_function", estimator.predict)
    moves = [np.abs(ask(X) - ask(np.where(np.arange(X.shape[1]) == i, 0, X))).mean() for i in range(X.shape[1])]
    return np.array(moves)


# -- pipelines and what describes an estimator ---------------------------------------------------------------------


def test_pipeline_scales_flat_columns_before_the_network():
    X, y = slopes()
    model = make_pipeline(StandardScaler(), classifier(input_shape=SHAPE)).fit(flat(X), y)
    assert model.score(flat(X), y) > 0.9
    assert model[-1].input_shape_ == SHAPE


def test_pipeline_hands_on_sequences_in_their_own_shape():
    X, y = slopes()
    by_pipeline = make_pipeline(FunctionTransformer(np.tanh), classifier()).fit(X, y).predict_proba(X)
    assert_array_equal(by_pipeline, classifier().fit(np.tanh(X), y).predict_proba(np.tanh(X)))


def test_pandas_output_of_a_scaler_names_the_features():
    X, y = slopes()
    names = [f"t{t}_c{c}" for t in range(SHAPE[0]) for c in range(SHAPE[1])]
    frame = pd.DataFrame(flat(X), columns=names)
    model = make_pipeline(StandardScaler(), classifier(input_shape=SHAPE)).set_output(transform="pandas").fit(frame, y)
    assert model[-1].feature_names_in_.tolist() == names
    assert model.score(frame, y) > 0.9


def test_columns_in_another_order_are_refused():
    X, y = slopes()
    frame = pd.DataFrame(flat(X)).add_prefix("x")
    model = classifier(input_shape=SHAPE).fit(frame, y)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[frame.columns[::-1]])


def test_get_params_set_params_and_clone_agree():
    model = classifier().set_params(hidden_size=5, pooling="mean")
    assert model.get_params()["hidden_size"] == 5
    assert clone(model).get_params() == model.get_params()


def test_set_params_refuses_an_unknown_name():
    with pytest.raises(ValueError, match="Invalid parameter 'n_units'"):
        classifier().set_params(n_units=5)


def test_nested_parameters_reach_the_estimator():
    model = make_pipeline(StandardScaler(), classifier()).set_params(cnnlstmclassifier__lr=0.5)
    assert model[-1].lr == 0.5


def test_repr_shows_what_differs_from_the_defaults():
    assert repr(CNNLSTMClassifier(hidden_size=8)) == "CNNLSTMClassifier(hidden_size=8)"
    assert repr(CNNLSTMRegressor()) == "CNNLSTMRegressor()"


def test_html_repr_shows_a_fitted_pipeline():
    X, y = slopes()
    model = make_pipeline(StandardScaler(), classifier(input_shape=SHAPE, max_epochs=1)).fit(flat(X), y)
    html = estimator_html_repr(model)
    assert "CNNLSTMClassifier" in html
    assert "StandardScaler" in html


@pytest.mark.parametrize("estimator", [CNNLSTMClassifier, CNNLSTMRegressor])
def test_fit_is_found_to_take_sample_weight(estimator):
    assert has_fit_parameter(estimator(), "sample_weight")


# -- cross-validation ----------------------------------------------------------------------------------------------


def test_cross_val_predict_equals_a_loop_over_the_folds():
    X, y = slopes(n_classes=3)
    cv = StratifiedKFold(3)
    by_hand = np.empty((len(X), 3), dtype=np.float32)
    for train, test in cv.split(X, y):
        by_hand[test] = classifier().fit(X[train], y[train]).predict_proba(X[test])
    predicted = cross_val_predict(classifier(), X, y, cv=cv, method="predict_proba")
    assert_array_equal(predicted, by_hand)
    assert accuracy_score(y, predicted.argmax(axis=1)) > 0.7


def test_cross_val_predict_gives_targets_of_any_shape():
    X, _ = levels()
    maps = np.stack([X[..., 0].mean(axis=1), -X[..., 0].mean(axis=1)] * 2, axis=1).reshape(-1, 2, 2)
    predicted = cross_val_predict(regressor(), X, maps, cv=3)
    assert predicted.shape == maps.shape
    assert r2_score(flat(maps), flat(predicted)) > 0.7


def test_cross_validate_scores_several_metrics_on_video():
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    X = rng.normal(scale=0.5, size=(40, 4, 5, 5, 1))
    X[:, 2:] += np.where(y, 1, -1).reshape(-1, 1, 1, 1, 1)  # the second half is brighter or darker
    result = cross_validate(
        classifier(max_epochs=6),
        X,
        y,
        cv=2,
        scoring=["accuracy", "roc_auc"],
        return_train_score=True,
        return_estimator=True,
        error_score="raise",
    )
    assert result["test_accuracy"].min() > 0.8
    assert result["test_roc_auc"].min() > 0.8
    assert result["train_accuracy"].min() > 0.8
    assert result["estimator"][0].input_shape_ == (4, 5, 5, 1)


@pytest.mark.parametrize("scoring", ["roc_auc_ovr", "roc_auc_ovo", "neg_log_loss", "f1_macro", "balanced_accuracy"])
def test_scorers_of_three_classes_are_finite(scoring):
    X, y = slopes(n_classes=3)
    scores = cross_val_score(classifier(), X, np.array(["falls", "rises", "stays"])[y], scoring=scoring, cv=2)
    assert scores.min() > (-0.9 if scoring == "neg_log_loss" else 0.6)  # chance: -1.1 and at most 0.5


def test_scorers_of_a_regressor_are_finite():
    X, y = levels()
    scoring = ["r2", "neg_mean_absolute_error", "explained_variance", "neg_root_mean_squared_error"]
    scores = cross_validate(regressor(), X, y, scoring=scoring, cv=2, error_score="raise")
    assert scores["test_r2"].min() > 0.6
    assert scores["test_explained_variance"].min() > 0.6
    assert scores["test_neg_mean_absolute_error"].min() > -0.6 * np.abs(y - y.mean()).mean()
    assert scores["test_neg_root_mean_squared_error"].min() > -0.6 * y.std()


@pytest.mark.parametrize(
    ("scoring", "floor"),
    [(None, 0.5), ("f1_micro", 0.7), ("roc_auc", 0.7), ("average_precision", 0.7)],
)
def test_multilabel_is_cross_validated(scoring, floor):
    X, first = slopes(60)
    second = (X[..., 1].mean(axis=1) > 0).astype(int)
    labels = np.c_[first, second]
    scores = cross_val_score(classifier(max_epochs=20), X, labels, scoring=scoring, cv=KFold(3), error_score="raise")
    assert scores.min() > floor


def test_stratified_group_folds_split_sequences():
    X, y = slopes()
    groups = np.arange(len(X)) // 4
    scores = cross_val_score(
        classifier(), X, y, groups=groups, cv=StratifiedGroupKFold(3), error_score="raise", scoring="accuracy"
    )
    assert scores.min() > 0.8


def test_time_series_split_trains_on_a_growing_past():
    X, y = levels(60)
    cv = TimeSeriesSplit(3)
    scores = cross_val_score(regressor(), X, y, cv=cv, error_score="raise")
    by_hand = [regressor().fit(X[past], y[past]).score(X[next_], y[next_]) for past, next_ in cv.split(X)]
    assert scores.tolist() == by_hand
    assert scores[-1] > 0.6


def test_learning_curve_rises_with_the_number_of_samples():
    X, y = levels(60)
    sizes, train, test = learning_curve(
        regressor(), X, y, train_sizes=[4, 40], cv=KFold(3), error_score="raise", shuffle=True, random_state=0
    )
    assert sizes.tolist() == [4, 40]
    assert train.shape == test.shape == (2, 3)
    assert test[1].mean() > max(test[0].mean(), 0.6)


def test_validation_curve_rises_with_the_number_of_epochs():
    X, y = slopes()
    train, test = validation_curve(
        classifier(lr=0.001), X, y, param_name="max_epochs", param_range=[1, 30], cv=2, error_score="raise"
    )
    assert train[1].mean() > max(train[0].mean(), 0.9)
    assert test[1].mean() > max(test[0].mean(), 0.8)


def test_score_takes_sample_weight():
    X, y = slopes()
    model = classifier().fit(X, y)
    wrong = np.where(np.arange(len(y)) < 12, 1 - y, y)
    weight = np.where(np.arange(len(y)) < 12, 0.0, 1.0)
    expected = accuracy_score(wrong, model.predict(X), sample_weight=weight)
    assert model.score(X, wrong, sample_weight=weight) == expected > 0.9 > model.score(X, wrong)


def test_score_of_a_regressor_takes_sample_weight():
    X, y = levels()
    model = regressor().fit(X, y)
    weight = np.linspace(0, 1, len(y))
    expected = r2_score(y, model.predict(X), sample_weight=weight)
    assert_allclose(model.score(X, y, sample_weight=weight), expected, rtol=1e-12)
    assert expected > 0.7


# -- searches ------------------------------------------------------------------------------------------------------


def test_grid_search_finds_the_sensible_learning_rate():
    X, y = slopes()
    search = GridSearchCV(classifier(), {"lr": [1e-7, 0.02]}, cv=2, error_score="raise").fit(X, y)
    assert search.best_params_ == {"lr": 0.02}
    assert search.best_score_ > 0.9
    assert search.n_features_in_ == SHAPE[1]
    assert_array_equal(search.predict_proba(X), classifier().fit(X, y).predict_proba(X))


def test_grid_search_tunes_the_network_inside_a_pipeline():
    X, y = slopes()
    model = Pipeline([("scale", StandardScaler()), ("net", classifier(input_shape=SHAPE))])
    grid = {"net__conv_channels": [4, (8, 8)], "net__hidden_size": [4, 8], "net__max_epochs": [8]}
    search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(flat(X), y)
    assert search.best_score_ > 0.8
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    best = search.best_estimator_["net"]
    assert best.net_.module_.lstm.layers[0].hidden_size == search.best_params_["net__hidden_size"]


def test_grid_search_compares_input_shapes_of_the_same_columns():
    X, y = slopes()
    search = GridSearchCV(classifier(), {"input_shape": [None, SHAPE, (4, 2, 2)]}, cv=2, error_score="raise")
    search.fit(flat(X), y)
    assert search.cv_results_["mean_test_score"].shape == (3,)
    assert search.best_score_ > 0.8


def test_randomized_search_draws_learning_rates():
    X, y = levels()
    search = RandomizedSearchCV(
        regressor(), {"lr": loguniform(1e-6, 1e-1)}, n_iter=5, cv=2, random_state=0, error_score="raise"
    ).fit(X, y)
    rates, scores = search.cv_results_["param_lr"], search.cv_results_["mean_test_score"]
    assert search.best_params_["lr"] > 1e-3
    assert search.best_score_ > 0.6
    assert scores[np.argmin(rates)] < 0.3


def test_halving_search_spends_epochs():
    X, y = slopes()
    search = HalvingGridSearchCV(
        classifier(),
        {"lr": [1e-7, 1e-6, 1e-5, 0.02]},
        resource="max_epochs",
        min_resources=3,
        max_resources=12,
        factor=2,
        cv=2,
        random_state=0,
        error_score="raise",
    ).fit(X, y)
    assert search.n_resources_ == [3, 6, 12]
    assert search.best_params_ == {"lr": 0.02, "max_epochs": 12}
    assert search.best_estimator_.n_epochs_ == 12
    assert search.best_score_ > 0.9


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_two_processes_find_the_same_bits_as_one(one_thread):
    X, y = slopes()
    search = GridSearchCV(classifier(max_epochs=4), {"lr": [0.005, 0.02]}, cv=2, scoring="neg_log_loss")
    alone = clone(search).fit(X, y)
    with parallel_config("loky", n_jobs=2, inner_max_num_threads=1):
        together = clone(search).fit(X, y)
    assert together.cv_results_["mean_test_score"].tolist() == alone.cv_results_["mean_test_score"].tolist()


def test_threads_of_one_process_find_the_same_bits():
    X, y = slopes()
    search = GridSearchCV(classifier(max_epochs=4), {"lr": [0.005, 0.02]}, cv=2, scoring="neg_log_loss")
    alone = clone(search).fit(X, y)
    with parallel_config("threading", n_jobs=2):
        together = clone(search).fit(X, y)
    assert_allclose(together.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"], rtol=1e-6)


# -- calibration, thresholds, frozen -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["sigmoid", "temperature"])
def test_calibration_keeps_the_classes_apart(method):
    if method == "temperature" and parse_version(sklearn.__version__) < parse_version("1.8"):
        pytest.skip("temperature scaling came with scikit-learn 1.8")
    X, y = slopes(n_classes=3)
    model = CalibratedClassifierCV(classifier(), method=method, cv=2).fit(X, y)
    assert_allclose(model.predict_proba(X).sum(axis=1), 1, rtol=1e-5)
    assert model.score(X, y) > 0.8


def test_calibration_of_a_frozen_classifier_leaves_it_alone():
    X, y = slopes()
    trained = classifier().fit(X, y)
    before = trained.predict_proba(X)
    X_more, y_more = slopes(seed=1)
    model = CalibratedClassifierCV(FrozenEstimator(trained)).fit(X_more, y_more)
    assert model.score(X, y) > 0.9
    assert_array_equal(trained.predict_proba(X), before)


def test_frozen_estimator_is_not_trained_again():
    X, y = slopes()
    trained = classifier().fit(X, y)
    frozen = FrozenEstimator(trained).fit(X, 1 - y)
    assert_array_equal(frozen.predict(X), trained.predict(X))
    assert clone(frozen).score(X, y) > 0.9


def test_tuned_threshold_serves_a_rare_class():
    X, y = slopes(60)
    rare = np.flatnonzero(y)[:8]
    keep = np.sort(np.r_[np.flatnonzero(y == 0), rare])
    X, y = X[keep], y[keep]
    model = classifier(max_epochs=4)
    tuned = TunedThresholdClassifierCV(model, scoring="balanced_accuracy", cv=2).fit(X, y)
    scores = cross_val_predict(model, X, y, cv=2, method="predict_proba")[:, 1]
    plain = balanced_accuracy_score(y, scores > 0.5)
    assert tuned.best_score_ >= plain
    assert tuned.score(X, y) > 0.8


# -- ensembles -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("voting", ["hard", "soft"])
def test_voting_classifiers_share_sequences(voting):
    X, y = slopes()
    members = [(f"net{i}", classifier(hidden_size=4 + i, max_epochs=8)) for i in range(3)]
    model = VotingClassifier(members, voting=voting).fit(X, y)
    assert model.score(X, y) > 0.9
    if voting == "soft":
        mean = np.mean([member.predict_proba(X) for member in model.estimators_], axis=0)
        assert_allclose(model.predict_proba(X), mean, rtol=1e-6)


def test_voting_regressor_averages_a_network_and_a_ridge():
    X, y = levels()
    model = VotingRegressor([("net", regressor(input_shape=SHAPE)), ("ridge", Ridge())]).fit(flat(X), y)
    assert_allclose(model.predict(flat(X)), np.mean([m.predict(flat(X)) for m in model.estimators_], axis=0))
    assert model.score(flat(X), y) > 0.8


def test_stacking_classifier_learns_from_held_out_probabilities():
    X, y = slopes(n_classes=3)
    members = [("wide", classifier()), ("narrow", classifier(hidden_size=4))]
    model = StackingClassifier(members, GaussianNB(), cv=2).fit(X, y)
    assert model.transform(X).shape == (len(X), 6)
    assert model.score(X, y) > 0.6


def test_stacking_regressor_passes_columns_through():
    X, y = levels()
    model = StackingRegressor([("net", regressor(input_shape=SHAPE))], Ridge(), cv=2, passthrough=True)
    model.fit(flat(X), y)
    assert model.transform(flat(X)).shape == (len(X), 1 + flat(X).shape[1])
    assert model.score(flat(X), y) > 0.9


def test_bagging_classifier_resamples_flat_sequences():
    X, y = slopes()
    model = BaggingClassifier(classifier(input_shape=SHAPE), n_estimators=3, oob_score=False, random_state=0)
    model.fit(flat(X), y)
    assert model.score(flat(X), y) > 0.9
    first, second = (member.predict_proba(flat(X)) for member in model.estimators_[:2])
    assert not np.array_equal(first, second)


def test_bagging_regressor_draws_rows_and_columns():
    X, y = levels()
    model = BaggingRegressor(regressor(), n_estimators=3, max_samples=0.8, max_features=0.5, random_state=0)
    assert model.fit(flat(X), y).score(flat(X), y) > 0.3
    assert {member.n_features_in_ for member in model.estimators_} == {8}


def test_adaboost_classifier_reweights_sequences():
    X, y = slopes(n_classes=3)
    model = AdaBoostClassifier(classifier(max_epochs=4), n_estimators=3, random_state=0).fit(X, y)
    assert model.score(X, y) > 0.8
    assert model.estimators_[0].input_shape_ == SHAPE


def test_adaboost_regressor_resamples_sequences():
    X, y = levels()
    model = AdaBoostRegressor(regressor(), n_estimators=3, random_state=0).fit(X, y)
    assert model.score(X, y) > 0.8


# -- several labels, classes, targets ------------------------------------------------------------------------------


def test_one_vs_rest_trains_a_network_per_class():
    X, y = slopes(n_classes=3)
    model = OneVsRestClassifier(classifier()).fit(X, y)
    assert len(model.estimators_) == 3
    assert model.score(X, y) > 0.8


def test_one_vs_one_trains_a_network_per_pair():
    X, y = slopes(n_classes=3)
    model = OneVsOneClassifier(classifier(input_shape=SHAPE)).fit(flat(X), y)
    assert len(model.estimators_) == 3
    assert model.score(flat(X), y) > 0.8


def test_multi_output_classifier_trains_a_network_per_column_of_labels():
    X, y = slopes(n_classes=3)
    labels = np.c_[y, X[..., 1].mean(axis=1) > 0]
    model = MultiOutputClassifier(classifier(max_epochs=20)).fit(X, labels)
    assert model.predict(X).shape == labels.shape
    assert model.score(X, labels) > 0.7


def test_multi_output_regressor_trains_a_network_per_target():
    X, y = levels()
    targets = np.c_[y, X[..., 1].mean(axis=1)]
    model = MultiOutputRegressor(regressor()).fit(X, targets)
    assert_array_equal(model.predict(X)[:, 0], regressor().fit(X, y).predict(X))
    assert model.score(X, targets) > 0.6


def test_classifier_chain_widens_plain_columns():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4))
    labels = np.c_[X[:, 0] > 0, X[:, 0] < 0].astype(int)
    model = ClassifierChain(classifier(max_epochs=20), order=[0, 1]).fit(X, labels)
    assert [member.n_features_in_ for member in model.estimators_] == [4, 5]
    assert model.score(X, labels) > 0.8


def test_regressor_chain_widens_plain_columns():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4))
    targets = np.c_[X[:, 0], -X[:, 0]]
    model = RegressorChain(regressor(max_epochs=20), order=[0, 1]).fit(X, targets)
    assert [member.n_features_in_ for member in model.estimators_] == [4, 5]
    assert model.score(X, targets) > 0.6


def test_transformed_target_regressor_scales_back():
    X, y = levels()
    model = TransformedTargetRegressor(regressor(), func=np.log, inverse_func=np.exp).fit(X, np.exp(y / 2))
    by_hand = np.exp(regressor().fit(X, y / 2).predict(X))
    assert_allclose(model.predict(X), by_hand, rtol=1e-4)
    assert model.score(X, np.exp(y / 2)) > 0.5


def test_self_training_learns_from_unlabelled_sequences():
    X, y = slopes(60)
    partly = np.where(np.arange(len(y)) % 4, -1, y)
    model = SelfTrainingClassifier(classifier(input_shape=SHAPE), threshold=0.75, max_iter=2).fit(flat(X), partly)
    assert (model.labeled_iter_ > 0).any()
    assert model.score(flat(X), y) > 0.9


# -- which columns matter ------------------------------------------------------------------------------------------


def test_permutation_importance_finds_the_channel():
    X, y = slopes()
    model = classifier(input_shape=SHAPE).fit(flat(X), y)
    result = permutation_importance(model, flat(X), y, scoring="neg_log_loss", n_repeats=3, random_state=0)
    signal, noise = np.abs(result.importances_mean).reshape(SHAPE).sum(axis=0)
    assert signal > 2 * noise


@pytest.mark.parametrize("make", [classifier, regressor])
def test_rfe_keeps_the_column_that_decides(make):
    X = np.random.default_rng(0).normal(size=(60, 4))
    y = X[:, 2] > 0 if make is classifier else X[:, 2]
    model = RFE(make(max_epochs=20), n_features_to_select=1, importance_getter=sensitivity).fit(X, y)
    assert model.get_support(indices=True).tolist() == [2]
    assert model.estimator_.n_features_in_ == 1


@pytest.mark.parametrize("make", [classifier, regressor])
def test_select_from_model_keeps_the_column_that_decides(make):
    X = np.random.default_rng(0).normal(size=(60, 4))
    y = X[:, 2] > 0 if make is classifier else X[:, 2]
    model = SelectFromModel(make(max_epochs=20), max_features=1, threshold=-np.inf, importance_getter=sensitivity)
    assert_array_equal(model.fit(X, y).transform(X), X[:, [2]])


# -- the default network, its frozen side too ----------------------------------------------------------------------

DEFAULT = {"max_epochs": 5, "random_state": 0}  # its fit is a matter of tenths of a second


@pytest.mark.parametrize("cls", [CNNLSTMClassifier, CNNLSTMRegressor])
def test_default_network_is_cross_validated_as_by_a_loop(cls):
    X, y = slopes() if cls is CNNLSTMClassifier else levels()
    method = "predict_proba" if cls is CNNLSTMClassifier else "predict"
    cv = KFold(2)
    by_hand = [getattr(cls(**DEFAULT).fit(X[train], y[train]), method)(X[test]) for train, test in cv.split(X)]
    assert_array_equal(cross_val_predict(cls(**DEFAULT), X, y, cv=cv, method=method), np.concatenate(by_hand))


@pytest.mark.parametrize(
    "tool",
    [
        lambda net: GridSearchCV(net, {"conv_bank": ["auto", 0]}, cv=2, error_score="raise"),
        lambda net: CalibratedClassifierCV(net, cv=2),
        lambda net: TunedThresholdClassifierCV(net, cv=2),
        lambda net: VotingClassifier([("net", net), ("other", clone(net).set_params(random_state=1))], voting="soft"),
        lambda net: StackingClassifier([("net", net)], GaussianNB(), cv=2),
        lambda net: AdaBoostClassifier(net, n_estimators=2, random_state=0),
        lambda net: OneVsRestClassifier(net),
    ],
)
def test_default_classifier_serves_tools_on_sequences(tool):
    X, y = slopes()
    assert tool(CNNLSTMClassifier(**DEFAULT)).fit(X, y).score(X, y) > 0.9


@pytest.mark.parametrize(
    "tool",
    [
        lambda net: BaggingRegressor(net, n_estimators=2, random_state=0),
        lambda net: MultiOutputRegressor(net),
        lambda net: TransformedTargetRegressor(net, func=np.cbrt, inverse_func=lambda y: y**3),
        lambda net: StackingRegressor([("net", net)], cv=2),
        lambda net: make_pipeline(StandardScaler(), net),
    ],
)
def test_default_regressor_serves_tools_on_flat_sequences(tool):
    X, y = levels()
    model = tool(CNNLSTMRegressor(input_shape=SHAPE, **DEFAULT))
    y = np.c_[y, -y] if isinstance(model, MultiOutputRegressor) else y
    assert model.fit(flat(X), y).score(flat(X), y) > 0.9


def test_groups_reach_the_folds_on_which_the_frozen_side_is_validated():
    X, y = levels()
    y = y + np.random.default_rng(0).normal(size=len(y))  # else all penalties that folds may choose are alike
    groups = np.arange(len(X)) // 12
    with config_context(enable_metadata_routing=True):
        net = CNNLSTMRegressor(**DEFAULT).set_fit_request(groups=True)
        routed = make_pipeline(FunctionTransformer(), net).fit(X, y, groups=groups).predict(X)
    assert_array_equal(routed, CNNLSTMRegressor(**DEFAULT).fit(X, y, groups=groups).predict(X))
    assert not np.array_equal(routed, CNNLSTMRegressor(**DEFAULT).fit(X, y).predict(X))


# -- metadata routing ----------------------------------------------------------------------------------------------


def test_sample_weight_is_routed_through_a_pipeline():
    X, y = slopes()
    weight = np.linspace(0.1, 2, len(y))
    with config_context(enable_metadata_routing=True):
        model = make_pipeline(FunctionTransformer(), classifier().set_fit_request(sample_weight=True))
        routed = model.fit(X, y, sample_weight=weight).predict_proba(X)
    assert_array_equal(routed, classifier().fit(X, y, sample_weight=weight).predict_proba(X))
    assert not np.array_equal(routed, classifier().fit(X, y).predict_proba(X))


def test_sample_weight_is_routed_to_fit_and_score_of_a_search():
    X, y = slopes()
    weight = np.linspace(0.1, 2, len(y))
    cv = StratifiedKFold(2)
    with config_context(enable_metadata_routing=True):
        model = classifier().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        search = GridSearchCV(model, {"max_epochs": [3]}, cv=cv, error_score="raise").fit(X, y, sample_weight=weight)
    by_hand = [
        classifier(max_epochs=3)
        .fit(X[train], y[train], sample_weight=weight[train])
        .score(X[test], y[test], sample_weight=weight[test])
        for train, test in cv.split(X, y)
    ]
    assert search.best_score_ == np.mean(by_hand)


def test_sample_weight_without_a_request_is_an_error():
    X, y = slopes()
    with config_context(enable_metadata_routing=True):
        model = make_pipeline(FunctionTransformer(), classifier())
        with pytest.raises(ValueError, match=r"\[sample_weight\] are passed but are not explicitly set"):
            model.fit(X, y, sample_weight=np.ones(len(y)))


def test_groups_are_routed_to_the_folds_and_to_the_inner_split():
    X, y = slopes()
    groups = np.arange(len(X)) // 4
    params = {"early_stopping": True, "validation_fraction": 0.25, "max_epochs": 4}
    cv = GroupKFold(2)
    with config_context(enable_metadata_routing=True):
        model = classifier(**params).set_fit_request(groups=True)
        search = GridSearchCV(model, {"lr": [0.02]}, cv=cv, scoring="neg_log_loss", error_score="raise")
        search.fit(X, y, groups=groups)
    by_hand = [
        classifier(**params)
        .fit(X[train], y[train], groups=groups[train])
        .predict_proba(X[test])[np.arange(24), y[test]]
        for train, test in cv.split(X, y, groups)
    ]
    assert_allclose(search.best_score_, np.mean([np.log(p).mean() for p in by_hand]), rtol=1e-5)
    alone = classifier(**params).fit(X, y, groups=groups)
    assert_array_equal(search.predict_proba(X), alone.predict_proba(X))


def test_validation_data_are_transformed_with_the_training_data_in_a_pipeline():
    X, y = slopes()
    X_val, y_val = slopes(20, seed=1)
    with config_context(enable_metadata_routing=True):
        net = classifier(input_shape=SHAPE).set_fit_request(X_val=True, y_val=True)
        model = Pipeline([("scale", StandardScaler()), ("net", net)], transform_input=["X_val"])
        model.fit(flat(X), y, X_val=flat(X_val), y_val=y_val)
    scaler = StandardScaler().fit(flat(X))
    by_hand = classifier(input_shape=SHAPE)
    by_hand.fit(scaler.transform(flat(X)), y, X_val=scaler.transform(flat(X_val)), y_val=y_val)
    assert model["net"].history_["valid_loss"].tolist() == by_hand.history_["valid_loss"].tolist()
    assert model.score(flat(X_val), y_val) > 0.9


def test_validation_data_with_weights_reach_every_fit_of_a_search():
    X, y = slopes()
    X_val, y_val = slopes(20, seed=1)
    weight_val = np.linspace(0, 1, 20)
    with config_context(enable_metadata_routing=True):
        net = classifier().set_fit_request(X_val=True, y_val=True, sample_weight_val=True)
        search = GridSearchCV(net, {"lr": [1e-7, 0.02]}, cv=2, error_score="raise")
        search.fit(X, y, X_val=X_val, y_val=y_val, sample_weight_val=weight_val)
    by_hand = classifier().fit(X, y, X_val=X_val, y_val=y_val, sample_weight_val=weight_val)
    assert search.best_params_ == {"lr": 0.02}
    assert search.best_estimator_.history_["valid_loss"].tolist() == by_hand.history_["valid_loss"].tolist()


def test_grids_of_numpy_arrays_are_searched():
    X, y = slopes()
    grid = {"hidden_size": np.arange(4, 9, 4), "bidirectional": np.array([False, True])}
    search = GridSearchCV(CNNLSTMClassifier(max_epochs=1, random_state=0), grid, cv=2, error_score="raise").fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
