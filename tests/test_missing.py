"""Missing values: NaN in X that is no padding, by what `missing` says."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from nets import answer, every_class, make, over_frames
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import is_classifier
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import BaggingClassifier
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_cnnlstm import CNNLSTMClassifier, CNNLSTMRegressor, _sequences, _training
from sklearn_cnnlstm._network import CNNLSTM, MapCNNLSTM, bridge
from sklearn_cnnlstm.inspection import attention_weights, attribute, spatiotemporal_importance

every_frame = over_frames([(3,), (5, 3), (4, 4, 3), (2, 3, 4, 3)])
GAPPY = [0, 2]  # the channels that miss values


def make_data(cls, frame=(3,), n=20, n_timesteps=8, seed=0):
    """Noise whose level tells the target, a fifth of it missing in two channels, but for the first step."""
    rng = np.random.default_rng(seed)
    level = rng.permutation(np.linspace(-1, 1, n))
    X = rng.normal(size=(n, n_timesteps, *frame)) + level.reshape(-1, 1, *[1] * len(frame))
    gaps = rng.random(X.shape) < 0.2
    gaps[:, 0] = False
    gaps[..., 1] = False
    X[gaps] = np.nan
    return X.astype(np.float32), (level > 0).astype(int) if cls is CNNLSTMClassifier else level


def make_ragged(cls, **kwargs):
    X, y = make_data(cls, n_timesteps=12, **kwargs)
    return [x[: 3 + i % 9] for i, x in enumerate(X)], y


def filled_by_pandas(X):
    """The last value of each channel and place carried on, by pandas, sample by sample."""
    return np.stack([pd.DataFrame(x.reshape(len(x), -1)).ffill().to_numpy().reshape(x.shape) for x in X])


def bridged_by_pandas(X):
    """Gaps as lines between the values around them, by pandas, sample by sample."""
    frames = [pd.DataFrame(x.reshape(len(x), -1)) for x in X]
    return np.stack([frame.interpolate(limit_direction="both").to_numpy() for frame in frames]).reshape(X.shape)


# -- ffill


@every_class
@every_frame
def test_ffill_is_pandas_ffill_to_the_bit(cls, frame):
    X, y = make_data(cls, frame)
    filled = filled_by_pandas(X)
    expected = make(cls, missing="error").fit(filled, y)
    model = make(cls, missing="ffill").fit(X, y)
    assert_array_equal(answer(model, X), answer(expected, filled))
    assert_array_equal(model.embed(X), expected.embed(filled))
    assert model.history_["train_loss"].tolist() == expected.history_["train_loss"].tolist()


@pytest.mark.parametrize("target", ["step", "map"])
def test_ffill_is_pandas_ffill_for_targets_with_a_shape(target):
    X, _ = make_data(CNNLSTMRegressor, (4, 4, 3))
    filled = filled_by_pandas(X)
    y = filled[..., 0].mean(axis=(2, 3)) if target == "step" else filled[:, -1, ..., 0]
    expected = make(CNNLSTMRegressor, missing="error", target=target).fit(filled, y)
    model = make(CNNLSTMRegressor, missing="ffill", target=target).fit(X, y)
    assert_array_equal(model.predict(X), expected.predict(filled))


def test_ffill_of_ragged_X_goes_no_further_than_each_sample():
    X, y = make_ragged(CNNLSTMRegressor)
    filled = [pd.DataFrame(x).ffill().to_numpy() for x in X]
    expected = make(CNNLSTMRegressor, missing="error").fit(filled, y)
    assert_array_equal(make(CNNLSTMRegressor, missing="ffill").fit(X, y).predict(X), expected.predict(filled))


def test_ffill_of_a_table_is_pandas_ffill_along_the_row():
    X, y = make_data(CNNLSTMRegressor)
    X = X[:, :, 0]
    filled = pd.DataFrame(X).ffill(axis=1).to_numpy()
    expected = make(CNNLSTMRegressor, missing="error").fit(filled, y)
    assert_array_equal(make(CNNLSTMRegressor, missing="ffill").fit(X, y).predict(X), expected.predict(filled))
    assert_array_equal(
        make(CNNLSTMRegressor, missing="ffill").fit(pd.DataFrame(X), y).predict(pd.DataFrame(X)),
        expected.predict(filled),
    )


@every_frame
def test_ffill_before_the_first_value_is_the_channels_mean(frame):
    X, y = make_data(CNNLSTMRegressor, frame)
    model = make(CNNLSTMRegressor, missing="ffill").fit(X, y)
    X[:, :3] = np.nan
    filled = X.copy()
    filled[:, :3] = model.net_.module_.input_mean
    assert_allclose(model.predict(X), model.predict(filled), atol=1e-5)


def test_ffill_takes_gaps_that_fit_did_not_see():
    X, y = make_data(CNNLSTMRegressor)
    filled = filled_by_pandas(X)
    model = make(CNNLSTMRegressor, missing="ffill").fit(filled, y)
    assert_array_equal(model.predict(X), model.predict(filled))


# -- mask


@every_class
@every_frame
@pytest.mark.parametrize("conv_bank", [0, 20])
def test_mask_shows_the_network_means_and_indicators(cls, frame, conv_bank):
    X, y = make_data(cls, frame)
    model = make(cls, conv_bank=conv_bank).fit(X, y)
    axes = tuple(range(X.ndim - 1))
    mean, std = np.nanmean(X, axes, dtype=np.float64), np.nanstd(X, axes, dtype=np.float64)
    by_hand = np.concatenate([np.nan_to_num((X - mean) / std), np.isnan(X[..., GAPPY])], axis=-1)
    network, seen, seen_by_kernels = model.net_.module_, [], []
    network.cnn.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    if conv_bank:
        network.bank.register_forward_pre_hook(lambda layer, inputs: seen_by_kernels.append(inputs[0]))
    model.predict(X)
    assert len(seen) == 1
    assert_allclose(seen[0], by_hand, atol=1e-4)
    if conv_bank:
        by_hand[..., :3] = np.nan_to_num((bridged_by_pandas(X) - mean) / std)
        assert len(seen_by_kernels) == 1
        assert_allclose(seen_by_kernels[0], by_hand, atol=1e-4)


@every_frame
def test_bridge_is_pandas_interpolate(frame):
    X, _ = make_data(CNNLSTMRegressor, frame)
    X[0, :3], X[1, -3:], X[2] = np.nan, np.nan, np.nan  # at the start, at the end, all of the time
    X[3, 1:] = np.nan
    assert_allclose(bridge(torch.from_numpy(X)), bridged_by_pandas(X), atol=1e-6)


def test_bridge_gives_its_gradient_to_the_values_around_a_gap():
    X = torch.tensor([1.0, np.nan, np.nan, 7.0, np.nan]).reshape(1, 5, 1).requires_grad_()
    bridge(X)[0, :, 0].matmul(torch.tensor([0.0, 1.0, 0.0, 0.0, 10.0])).backward()
    assert_allclose(X.grad[0, :, 0], [2 / 3, 0, 0, 10 + 1 / 3, 0], rtol=1e-6)


def test_gap_in_a_table_of_different_units_is_the_mean_of_its_column():
    X, y = make_data(CNNLSTMRegressor)
    X = X[:, :, 0] * [1, 1, 1, 1, 1, 1, 1, 1000] + np.arange(8)
    model = make(CNNLSTMRegressor).fit(X, y)
    by_hand = np.stack([np.nan_to_num((X - np.nanmean(X, 0)) / np.nanstd(X, 0)), np.isnan(X)], axis=2)
    seen = []
    model.net_.module_.cnn.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    model.predict(X)
    assert_allclose(seen[0], by_hand, atol=1e-4)


@every_frame
def test_mask_is_a_plain_network_over_hand_made_channels(frame):
    """The same weights without any notion of gaps, given mean-filled values and indicators as two channels more."""
    X, y = make_data(CNNLSTMRegressor, frame)
    network = make(CNNLSTMRegressor, conv_bank=0).fit(X, y).net_.module_
    mean, scale = network.input_mean.numpy(), network.input_scale.numpy()
    sizes = {"kernel_size": (3, 3), "pool_size": (1, 1), "num_layers": 1, "bidirectional": True, "dropout": 0}
    sizes["pooling"] = ("last", "mean", "max", "attention")
    torch.manual_seed(0)
    ours = CNNLSTM(X.shape[1:], 1, conv_channels=(4, 4), hidden_size=4, gaps=GAPPY, **sizes).eval()
    plain = CNNLSTM((*X.shape[1:-1], 5), 1, conv_channels=(4, 4), hidden_size=4, **sizes).eval()
    ours.set_statistics(input_mean=mean, input_scale=scale)
    weights = {name: value for name, value in ours.state_dict().items() if not name.startswith(("input_", "gaps."))}
    plain.load_state_dict(weights, strict=False)
    plain.set_statistics(input_mean=[*mean, 0, 0], input_scale=[*scale, 1, 1])
    filled = np.where(np.isnan(X), mean, X)
    by_hand = np.concatenate([filled, np.isnan(X[..., GAPPY])], axis=-1, dtype=np.float32)
    torch.testing.assert_close(ours(torch.from_numpy(X)), plain(torch.from_numpy(by_hand)))


@every_class
@every_frame
def test_without_gaps_mask_is_as_error_to_the_bit(cls, frame):
    X, y = make_data(cls, frame)
    X = np.nan_to_num(X)
    assert_array_equal(answer(make(cls).fit(X, y), X), answer(make(cls, missing="error").fit(X, y), X))


def test_that_a_value_is_missing_can_tell_the_class():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 10, 2))
    y = np.arange(120) % 2
    for x, label in zip(X, y, strict=True):
        x[rng.integers(1, 10, size=3), label] = np.nan
    for conv_bank in (0, 20):
        model = CNNLSTMClassifier(hidden_size=8, max_epochs=15, conv_bank=conv_bank, random_state=0)
        assert model.fit(X[:80], y[:80]).score(X[80:], y[80:]) > 0.9


@every_class
@every_frame
def test_gap_in_another_channel_is_refused_and_named(cls, frame):
    X, y = make_data(cls, frame)
    model = make(cls).fit(X, y)
    X[13, 4, ..., 1] = np.nan
    words = f", but {cls.__name__} was fitted with NaN in channels 0, 2; expected none elsewhere"
    for call in (lambda: model.predict(X), lambda: model.embed(X), lambda: model.partial_fit(X, y)):
        with pytest.raises(ValueError, match=f"Input X contains NaN in channel 1 of sample 13{words}"):
            call()
    with pytest.raises(ValueError, match=f"X_val, y_val or .*: Input X contains NaN in channel 1 of sample 3{words}"):
        make(cls).fit(X[:10], y[:10], X_val=X[10:], y_val=y[10:])


def test_gap_in_another_channel_is_named_in_lists_tables_and_streams(tmp_path, monkeypatch):
    X, y = make_ragged(CNNLSTMRegressor)
    model = make(CNNLSTMRegressor).fit([np.nan_to_num(x) for x in X], y)
    first = next(i for i, x in enumerate(X) if np.isnan(x).any())
    with pytest.raises(ValueError, match=rf"NaN in channel \d of sample {first}, .* with NaN in no channel; expected"):
        model.predict(X)
    table = np.ones((20, 6))
    model = make(CNNLSTMRegressor).fit(table, y)
    table[7, 3] = np.nan
    with pytest.raises(ValueError, match="NaN in channel 0 of sample 7"):
        model.predict(table)
    h5py = pytest.importorskip("h5py")
    X, y = make_data(CNNLSTMRegressor)
    model = make(CNNLSTMRegressor).fit(X, y)
    X[17, 3, 1] = np.nan
    monkeypatch.setattr(_sequences, "_CHUNK_BYTES", 1000)  # too large for one block
    monkeypatch.setattr(_training, "_PASS_POSITIONS", 40)
    with h5py.File(tmp_path / "X.h5", "w") as file:
        file["X"] = X
        with pytest.raises(ValueError, match="NaN in channel 1 of sample 17"):
            model.predict(file["X"])


def test_failing_second_fit_leaves_the_estimator_as_it_was():
    X, y = make_data(CNNLSTMRegressor)
    model = make(CNNLSTMRegressor).fit(X, y)
    before = dict(vars(model))
    with pytest.raises(ValueError, match="negative"):
        model.fit(np.nan_to_num(X), y, -np.ones(len(y)))
    assert vars(model) == before


@every_class
def test_other_way_with_gaps_needs_another_fit(cls):
    X, y = make_data(cls)
    model = make(cls, warm_start=True).fit(X, y)
    model.set_params(missing="ffill")
    with pytest.raises(ValueError, match=f"missing='ffill', but {cls.__name__} was fitted with missing='mask'"):
        model.fit(X, y)


# -- what is no gap


@pytest.mark.parametrize("missing", ["mask", "ffill"])
@every_frame
def test_padding_is_not_missing(missing, frame):
    X, y = make_data(CNNLSTMRegressor, frame)
    ragged = [x[: 3 + i % 6] for i, x in enumerate(X)]

    def padded(n_timesteps):
        array = np.full((20, n_timesteps, *frame), np.nan, dtype=np.float32)
        for row, x in zip(array, ragged, strict=True):
            row[: len(x)] = x
        return array

    models = [make(CNNLSTMRegressor, missing=missing).fit(given, y) for given in (ragged, padded(30), padded(300))]
    expected = models[0].predict(ragged)
    for model in models[1:]:
        assert_array_equal(model.predict(padded(50)), expected)
    alone = np.concatenate([models[0].predict(x[np.newaxis]) for x in ragged])
    assert_allclose(expected, alone, atol=1e-5)
    without_gaps = make(CNNLSTMRegressor, missing="error").fit([np.nan_to_num(x) for x in ragged], y)
    assert without_gaps.net_.module_.gaps.n_indicators == 0


@pytest.mark.parametrize("missing", ["mask", "ffill"])
def test_statistics_are_those_of_the_values(missing):
    X, y = make_ragged(CNNLSTMRegressor)
    network = make(CNNLSTMRegressor, missing=missing).fit(X, y).net_.module_
    seen = pd.concat([pd.DataFrame(x).ffill() if missing == "ffill" else pd.DataFrame(x) for x in X])
    assert_allclose(network.input_mean, seen.mean(), rtol=1e-5)
    assert_allclose(network.input_scale, seen.std(ddof=0), rtol=1e-5)


@every_class
@pytest.mark.parametrize("missing", ["mask", "ffill"])
def test_table_may_end_in_gaps_and_have_empty_rows(cls, missing):
    X, y = make_data(cls)
    X = X[:, :, 0]
    X[:, -2:] = np.nan
    X[5] = np.nan
    model = make(cls, missing=missing).fit(X, y)
    assert model.input_shape_ == (8, 1)
    assert np.isfinite(answer(model, X)).all()


@every_class
@pytest.mark.parametrize("missing", ["mask", "ffill"])
def test_channel_and_place_without_any_value_train(cls, missing):
    X, y = make_data(cls, (4, 4, 3))
    X[..., 2] = np.nan
    X[:, :, 1, :, 0] = np.nan  # land
    model = make(cls, missing=missing).fit(X, y)
    assert np.isfinite(model.history_["train_loss"]).all()
    X[..., 2] = 1.0
    assert np.isfinite(answer(model, X)).all()


# -- maps


@pytest.mark.parametrize("missing", ["mask", "ffill"])
def test_map_goes_on_from_what_is_known_of_the_last_frame(missing):
    """Before training a forecast is the last value, or what is usual at the pixel where that is missing."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 5, 4, 4, 1)).astype(np.float32) + np.arange(16).reshape(4, 4, 1)
    y = X[:, -1, ..., 0].copy()
    X[rng.random(X.shape) < 0.2] = np.nan
    X[:, :, 0] = np.nan  # land
    y[:, 0] = np.nan
    model = make(CNNLSTMRegressor, missing=missing, target="map", lr=1e-12, weight_decay=0, max_epochs=1).fit(X, y)
    assert isinstance(model.net_.module_, MapCNNLSTM)
    sea = np.s_[:, 1:]
    known = (filled_by_pandas(X) if missing == "ffill" else X)[:, -1, ..., 0][sea].astype(float)
    mean_of_y, mean_of_x = y[sea].mean(axis=0), np.nanmean(known, axis=0)
    scale = np.sqrt(np.mean((y[sea] - mean_of_y) ** 2)), np.sqrt(np.nanmean((known - mean_of_x) ** 2))
    by_hand = mean_of_y + scale[0] / scale[1] * np.where(np.isnan(known), 0, known - mean_of_x)
    assert_allclose(model.predict(X)[sea], by_hand, atol=1e-3)
    assert np.isfinite(model.predict(X)).all()


# -- with everything else


@pytest.mark.parametrize("missing", ["mask", "ffill"])
@every_class
def test_streams_give_the_bits_of_the_array(cls, missing, tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    monkeypatch.setattr(_sequences, "_CHUNK_BYTES", 8 * 3 * 8 * 6)  # blocks of 6 samples
    X, y = make_data(cls)
    np.save(tmp_path / "X.npy", X)
    expected = answer(make(cls, missing=missing).fit(X, y), X)
    on_disk = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert_array_equal(answer(make(cls, missing=missing).fit(on_disk, y), on_disk), expected)
    with h5py.File(tmp_path / "X.h5", "w") as file:
        file["X"] = X
        assert_array_equal(answer(make(cls, missing=missing).fit(file["X"], y), file["X"]), expected)


@every_class
@pytest.mark.parametrize("missing", ["mask", "ffill"])
def test_partial_fit_pickle_and_warm_start(cls, missing):
    X, y = make_data(cls)
    first = {"classes": [0, 1]} if cls is CNNLSTMClassifier else {}
    model = make(cls, missing=missing).partial_fit(X, y, **first).partial_fit(X[3:], y[3:])
    assert np.isfinite(answer(model, X)).all()
    model = make(cls, missing=missing, warm_start=True).fit(X, y).fit(X, y)
    assert model.n_epochs_ == 4
    assert_array_equal(answer(pickle.loads(pickle.dumps(model)), X), answer(model, X))


@every_class
@pytest.mark.parametrize("scoring", ["loss", "neg_mean_squared_error"])
def test_validation_data_may_have_gaps(cls, scoring):
    X, y = make_ragged(cls)
    model = make(cls, scoring=scoring, max_epochs="auto", n_iter_no_change=2).fit(X, y, X_val=X[:9], y_val=y[:9])
    assert np.isfinite(model.history_["valid_loss"]).all()
    if scoring != "loss":
        best = model.history_["valid_score"][model.best_epoch_ - 1]
        assert_allclose(-np.mean((model.predict(X[:9]) - y[:9]) ** 2), best, rtol=1e-4)


def test_searches_pipelines_and_bags_let_gaps_through():
    X, y = make_data(CNNLSTMClassifier)
    pipeline = make_pipeline(FunctionTransformer(), make(CNNLSTMClassifier))
    search = GridSearchCV(pipeline, {"cnnlstmclassifier__missing": ["mask", "ffill"]}, cv=2, error_score="raise")
    assert search.fit(X, y).predict(X).shape == (20,)
    assert cross_val_predict(make(CNNLSTMClassifier), X, y, cv=KFold(2)).shape == (20,)
    bag = BaggingClassifier(make(CNNLSTMClassifier, input_shape=X.shape[1:]), n_estimators=2, random_state=0)
    assert bag.fit(X.reshape(20, -1), y).predict(X.reshape(20, -1)).shape == (20,)


def test_backbone_gets_the_indicators_too():
    widths = []

    def backbone(in_channels, n_spatial):
        widths.append(in_channels)
        return torch.nn.Conv1d(in_channels, 4, 3, padding=1)

    X, y = make_data(CNNLSTMRegressor)
    make(CNNLSTMRegressor, backbone=backbone).fit(X, y).predict(X)
    make(CNNLSTMRegressor, backbone=backbone, missing="ffill").fit(X, y).predict(X)
    assert widths == [5, 3]


@every_class
@pytest.mark.parametrize("frame", [(3,), (4, 4, 3)])
@pytest.mark.parametrize("missing", ["mask", "ffill"])
def test_attribution_adds_up_and_gives_nothing_to_what_is_missing(cls, frame, missing):
    X, y = make_data(cls, frame)
    model = make(cls, missing=missing, conv_bank=0, max_epochs=8).fit(X, y)
    X = X[:4]
    say = model.decision_function if is_classifier(model) else model.predict
    parts = attribute(model, X)
    assert (parts[np.isnan(X)] == 0).all()
    baseline = np.where(np.isnan(X), np.nan, model.net_.module_.input_mean).astype(np.float32)
    sign = np.where(model.predict(X) == model.classes_[1], 1, -1) if is_classifier(model) else 1
    atol = 0.03 * np.abs(parts).reshape(4, -1).sum(axis=1).max()
    assert_allclose(parts.reshape(4, -1).sum(axis=1), sign * (say(X) - say(baseline)), atol=atol)
    by_occlusion = attribute(model, X, method="occlusion")
    assert np.isfinite(by_occlusion).all()
    assert np.abs(by_occlusion).max() > 0


@pytest.mark.parametrize("missing", ["mask", "ffill"])
def test_inspection_takes_gaps(missing):
    X, y = make_ragged(CNNLSTMRegressor)
    model = make(CNNLSTMRegressor, missing=missing).fit(X, y)
    weights = attention_weights(model, X)
    assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
    result = spatiotemporal_importance(model, X, y, n_repeats=1, random_state=0)
    assert np.isfinite(result.channels.importances).all()


def test_table_that_ends_in_gaps_is_explained_whole():
    X, y = make_data(CNNLSTMRegressor)
    X = X[:, :, 0]
    X[:, -1] = np.nan
    model = make(CNNLSTMRegressor).fit(X, y)
    assert attribute(model, X[:3]).shape == (3, 8)
    assert attention_weights(model, X).shape == (20, 8)
    assert (attention_weights(model, X)[:, -1] > 0).all()


# -- scikit-learn's view


@every_class
@pytest.mark.parametrize(("missing", "allowed"), [("mask", True), ("ffill", True), ("error", False)])
def test_tag_follows_the_parameter(cls, missing, allowed):
    assert get_tags(cls(missing=missing)).input_tags.allow_nan is allowed


@parametrize_with_checks(
    [
        cls(missing=missing, conv_bank=0, hidden_size=8, conv_channels=(8,), max_epochs=20, dropout=0.2)
        for cls in (CNNLSTMClassifier, CNNLSTMRegressor)
        for missing in ("ffill", "error")
    ],
    expected_failed_checks=lambda estimator: {
        "check_sample_weight_equivalence_on_dense_data": "as for the default, see test_checks"
    },
)
def test_sklearn_check(estimator, check):
    check(estimator)


# -- real data


def test_days_are_told_by_traffic_counts_with_gaps(load_data):
    data = load_data("DodgerLoopDay")
    X, y = data["X_train"], data["y_train"]
    assert np.isnan(X).any()
    model = CNNLSTMClassifier(conv_bank=84, hidden_size=16, max_epochs=12, random_state=0).fit(X, y)
    guess = DummyClassifier(strategy="prior").fit(X[:, 0], y)
    assert guess.score(data["X_test"][:, 0], data["y_test"]) < 0.25
    assert model.score(data["X_test"], data["y_test"]) > 0.4


def test_air_is_forecast_from_sensors_with_gaps(load_data):
    data = load_data("BeijingPM25Quality")
    X, y, X_test, y_test = (data[name][::8] for name in ("X_train", "y_train", "X_test", "y_test"))
    assert np.isnan(X).any()
    model = CNNLSTMRegressor(conv_bank=0, hidden_size=16, max_epochs=3, random_state=0).fit(X, y)
    guess = DummyRegressor().fit(X[:, 0, 0], y)
    assert model.score(X_test, y_test) > guess.score(X_test[:, 0, 0], y_test) + 0.4
