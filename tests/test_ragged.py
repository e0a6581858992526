"""Samples of unequal length: neither the padding nor the samples beside it change what is said of a sample."""

import pickle
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from nets import answer, every_class, make, over_frames
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.dummy import DummyClassifier
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn

from sklearn_cnnlstm import CNNLSTMClassifier, CNNLSTMRegressor, _sequences, _training
from sklearn_cnnlstm._network import CNNLSTM, POOLINGS
from sklearn_cnnlstm.inspection import attribute

EXAMPLES = Path(__file__).parents[1] / "examples"
FRAMES = [(2,), (5, 2), (4, 4, 1), (2, 3, 4, 1)]  # what is inside a step of 3-D, 4-D, 5-D and 6-D X
every_frame = over_frames(FRAMES)


def make_data(cls, frame=(2,), n=20, longest=12, seed=0):
    """A list of noise of 1 to `longest` steps, whose level tells the target."""
    rng = np.random.default_rng(seed)
    lengths = rng.permutation(np.resize(np.arange(1, longest + 1), n))
    level = rng.permutation(np.linspace(-1, 1, n))
    X = [rng.normal(a, 1, size=(length, *frame)).astype(np.float32) for a, length in zip(level, lengths, strict=True)]
    return X, (level > 0).astype(int) if cls is CNNLSTMClassifier else level


def padded(X, n_timesteps):
    array = np.full((len(X), n_timesteps, *X[0].shape[1:]), np.nan, dtype=X[0].dtype)
    for row, sample in zip(array, X, strict=True):
        row[: len(sample)] = sample
    return array


def build(frame, *, conv_channels, **sizes):
    torch.manual_seed(0)
    sizes |= {"kernel_size": (3, 3), "pool_size": (2, 2), "hidden_size": 4, "bidirectional": True, "dropout": 0}
    return CNNLSTM((5, *frame), 1, conv_channels=conv_channels, **sizes).eval()


def one_by_one(function, X):
    return np.concatenate([function(sample[np.newaxis]) for sample in X])


# -- the form


@every_class
def test_a_series_of_unequal_samples_is_a_list_of_them(cls):
    X, y = make_data(cls)
    series = pd.Series(X, index=[7] * len(X))
    model = make(cls).fit(series, y)
    assert_array_equal(answer(model, series), answer(make(cls).fit(X, y), X))
    assert_array_equal(answer(model, series[:1]), answer(model, X[:1]))


def test_a_series_that_lacks_a_sample_is_refused():
    X, y = make_data(CNNLSTMClassifier)
    X[3] = None
    with pytest.raises(ValueError, match="X has None in place of sample 3"):
        make(CNNLSTMClassifier).fit(pd.Series(X), y)


# -- the rule


@every_class
@every_frame
@pytest.mark.parametrize("params", [{}, {"num_layers": 2}, {"pool_size": 3, "bidirectional": False}])
@pytest.mark.parametrize("conv_bank", [0, 84])
def test_samples_are_answered_as_each_of_them_alone_and_unpadded(cls, frame, params, conv_bank):
    X, y = make_data(cls, frame)
    model = make(cls, conv_bank=conv_bank, **params).fit(X, y)
    assert_allclose(answer(model, X), one_by_one(lambda sample: answer(model, sample), X), atol=1e-6)
    assert_allclose(model.embed(X), one_by_one(model.embed, X), atol=1e-6)
    assert_allclose(answer(model, X[3:9]), answer(model, X)[3:9], atol=1e-6)


@every_class
@every_frame
def test_length_of_the_padding_does_not_change_a_bit(cls, frame):
    X, y = make_data(cls, frame)
    models = [make(cls).fit(given, y) for given in (X, padded(X, 12), padded(X, 100), padded(X, 400))]
    for model in models[1:]:
        assert model.history_["train_loss"].tolist() == models[0].history_["train_loss"].tolist()
        assert_array_equal(answer(model, padded(X, 50)), answer(models[0], X))
        assert model.input_shape_ == (12, *frame)


@pytest.mark.parametrize("n_spatial", range(4))
@pytest.mark.parametrize("pooling", POOLINGS)
def test_gradients_are_those_of_the_samples_one_by_one(n_spatial, pooling):
    X, _ = make_data(CNNLSTMRegressor, FRAMES[n_spatial], n=6, longest=5)
    sizes = {"kernel_size": (3, 3), "pool_size": (2, 2), "hidden_size": 4, "num_layers": 2, "bidirectional": True}
    network = CNNLSTM((5, *FRAMES[n_spatial]), 1, conv_channels=(4, 4), pooling=[pooling], dropout=0, **sizes).eval()
    parameters = list(network.parameters())
    lengths = torch.tensor([len(sample) for sample in X])
    together = torch.autograd.grad(network(torch.from_numpy(padded(X, 5)), lengths).sum(), parameters)
    alone = torch.autograd.grad(sum(network(torch.from_numpy(sample[None])).sum() for sample in X), parameters)
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@every_frame
def test_batch_norm_sees_valid_steps_alone(frame):
    X, _ = make_data(CNNLSTMRegressor, frame, n=6, longest=5)
    network = build(frame, conv_channels=(4,), num_layers=1, pooling=POOLINGS)
    block = next(layer for layer in network.cnn.cnn if hasattr(layer, "norm"))
    seen = []

    def note_values(layer, inputs, output):
        seen.append(output.movedim(1, -1).flatten(0, -2))

    hook = block.conv.register_forward_hook(note_values)
    for sample in X:
        network(torch.from_numpy(sample[None]))
    hook.remove()
    network.train()(torch.from_numpy(padded(X, 5)), torch.tensor([len(sample) for sample in X]))
    torch.testing.assert_close(block.norm.running_mean, 0.1 * torch.cat(seen).mean(0))
    torch.testing.assert_close(block.norm.running_var, 0.9 + 0.1 * torch.cat(seen).var(0))


def shortening_backbone(in_channels, n_spatial):
    return nn.Sequential(
        nn.Conv1d(in_channels, 4, 3, padding=2), nn.BatchNorm1d(4), nn.Conv1d(4, 4, 2, stride=2), nn.ReLU()
    )


def test_backbone_along_time_needs_to_know_nothing_of_lengths():
    X, y = make_data(CNNLSTMRegressor)
    model = make(CNNLSTMRegressor, backbone=shortening_backbone).fit(X, y)
    assert_allclose(model.predict(X), one_by_one(model.predict, X), atol=1e-6)


def test_statistics_are_those_of_valid_steps():
    X, y = make_data(CNNLSTMRegressor)
    network = make(CNNLSTMRegressor).fit(X, y).net_.module_
    assert_allclose(network.input_mean, np.concatenate(X).mean(0), rtol=1e-5)
    assert_allclose(network.input_scale, np.concatenate(X).std(0), rtol=1e-5)


def test_sizes_follow_the_longest_valid_sample():
    X, y = make_data(CNNLSTMRegressor, n=24)
    sizes = [
        CNNLSTMRegressor(max_epochs=1, random_state=0).fit(given, y)
        for given in (padded(X, 500), padded(X, 12), np.zeros((24, 12, 2)))
    ]
    assert len({(m.pool_size_, m.kernel_size_, m.hidden_size_, m.batch_size_) for m in sizes}) == 1


# -- forms of X


def as_object_array(X):
    samples = np.empty(len(X), dtype=object)
    samples[:] = X
    return samples


def as_tuple(X):
    return tuple(X)


def as_tensors(X):
    return [torch.from_numpy(sample) for sample in X]


def as_nested_lists(X):
    return [sample.tolist() for sample in X]


def as_float64(X):
    return [sample.astype(np.float64) for sample in X]


def as_tensor_with_padding(X):
    return torch.from_numpy(padded(X, 30))


@every_frame
@pytest.mark.parametrize(
    "form", [as_object_array, as_tuple, as_tensors, as_nested_lists, as_float64, as_tensor_with_padding]
)
def test_form_of_ragged_X_does_not_change_predictions(frame, form):
    X, y = make_data(CNNLSTMRegressor, frame)
    expected = make(CNNLSTMRegressor).fit(X, y).predict(X)
    assert_allclose(make(CNNLSTMRegressor).fit(form(X), y).predict(form(X)), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, bool])
def test_integers_are_padded_exactly(dtype):
    X, y = make_data(CNNLSTMRegressor)
    X = [(40 * abs(sample)).astype(dtype) for sample in X]
    expected = make(CNNLSTMRegressor).fit([sample.astype(np.float64) for sample in X], y)
    model = make(CNNLSTMRegressor).fit(X, y)
    assert_array_equal(model.predict(X), expected.predict(X))


@pytest.mark.parametrize(("layout", "frame"), [("NCT", (2,)), ("NTCS", (5, 2)), ("NCTHW", (4, 5, 2))])
def test_layout_is_that_of_the_samples(layout, frame):
    X, y = make_data(CNNLSTMRegressor, frame)
    order = {3: "NTC", 4: "NTSC", 5: "NTHWC"}[len(layout)]
    given = [np.einsum(f"{order[1:]}->{layout[1:]}", sample) for sample in X]
    expected = make(CNNLSTMRegressor).fit(X, y).predict(X)
    model = make(CNNLSTMRegressor, layout=layout).fit(given, y)
    assert_array_equal(model.predict(given), expected)


@every_frame
def test_ragged_after_dense_and_dense_after_ragged(frame):
    dense = np.random.default_rng(0).normal(size=(20, 7, *frame)).astype(np.float32)
    X, y = make_data(CNNLSTMRegressor, frame)
    model = make(CNNLSTMRegressor, conv_bank=0).fit(dense, y)
    assert model.input_shape_ == (7, *frame)
    assert_allclose(model.predict(X), one_by_one(model.predict, X), atol=1e-6)
    model = make(CNNLSTMRegressor, conv_bank=0).fit(X, y)
    assert_allclose(model.predict(dense), model.predict([*dense, X[0]])[:-1], atol=1e-6)


def test_padding_that_all_samples_share_leaves_them_dense():
    dense = np.random.default_rng(0).normal(size=(20, 7, 2)).astype(np.float32)
    y = dense.mean(axis=(1, 2))
    expected = make(CNNLSTMRegressor).fit(dense, y).predict(dense)
    given = padded(dense, 30)
    assert_array_equal(make(CNNLSTMRegressor).fit(given, y).predict(given), expected)


def test_dense_X_is_handed_on_as_it_is():
    X = np.ones((4, 3, 2), dtype=np.float32)
    assert _sequences.trim(X, may_be_padded=True)[0] is X
    view = _sequences.trim(padded([X[0], X[1, :2]], 9), may_be_padded=True)[0]
    assert view.shape == (2, 3, 2)
    assert view.values.base is not None


def test_memmap_with_padding_is_read_as_the_array(tmp_path):
    X, y = make_data(CNNLSTMRegressor)
    np.save(tmp_path / "X.npy", padded(X, 20))
    given = np.load(tmp_path / "X.npy", mmap_mode="r")
    expected = make(CNNLSTMRegressor).fit(X, y).predict(X)
    assert_array_equal(make(CNNLSTMRegressor).fit(given, y).predict(given), expected)


def test_streamed_rows_with_padding_are_read_as_the_array(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    X, y = make_data(CNNLSTMRegressor)
    expected = make(CNNLSTMRegressor).fit(X, y).predict(X)
    monkeypatch.setattr(_sequences, "_CHUNK_BYTES", 1000)  # too large for one block
    with h5py.File(tmp_path / "X.h5", "w") as file:
        file["X"] = padded(X, 20)
        model = make(CNNLSTMRegressor).fit(file["X"], y)
        assert model.input_shape_ == (12, 2)
        assert_allclose(model.predict(file["X"]), expected, atol=1e-5)


# -- what bad X gets


@every_class
@every_frame
def test_sample_with_other_channels_is_named(cls, frame):
    X, y = make_data(cls, frame)
    model = make(cls).fit(X, y)
    X[7] = np.concatenate([X[7], X[7]], axis=-1)
    for call in (lambda: make(cls).fit(X, y), lambda: model.predict(X)):
        with pytest.raises(ValueError, match=rf"sample 7 has shape \({len(X[7])}, .* alone"):
            call()


@every_class
def test_sample_without_steps_is_named(cls):
    X, y = make_data(cls)
    model = make(cls).fit(X, y)
    empty = [*X[:5], X[5][:0], *X[6:]]
    all_nan = [*X[:5], X[5] * np.nan, *X[6:]]
    for given, words in ((empty, r"empty sample 5 of shape \(0, 2\)"), (all_nan, r"not NaN in sample 5 of shape")):
        with pytest.raises(ValueError, match=words):
            make(cls).fit(given, y)
        with pytest.raises(ValueError, match=words):
            model.predict(given)


@every_class
@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinity_is_refused_in_ragged_X(cls, value):
    X, y = make_data(cls)
    X[3][0, 0] = value
    with pytest.raises(ValueError, match="Input X contains infinity"):
        make(cls).fit(X, y)


def test_samples_need_time_and_channels():
    with pytest.raises(ValueError, match=r"sample 0 of shape \(3,\); expected \(n_timesteps, n_channels\)"):
        make(CNNLSTMRegressor).fit([np.zeros(3), np.zeros(4)], [0, 1])


def test_layout_of_ragged_X_is_checked():
    X, y = make_data(CNNLSTMRegressor)
    with pytest.raises(ValueError, match="layout='NTCHW' does not name the 3 axes of X"):
        make(CNNLSTMRegressor, layout="NTCHW").fit(X, y)


def test_failing_second_fit_leaves_the_estimator_as_it_was():
    X, y = make_data(CNNLSTMRegressor)
    model = make(CNNLSTMRegressor).fit(X, y)
    before = dict(vars(model))
    with pytest.raises(ValueError, match="negative"):
        model.fit([sample[:5] for sample in X], y, -np.ones(len(y)))
    assert vars(model) == before


# -- with scikit-learn's tools


def test_cross_validation_takes_lists():
    X, y = make_data(CNNLSTMClassifier)
    probability = cross_val_predict(make(CNNLSTMClassifier), X, y, cv=2, method="predict_proba")
    assert_allclose(probability.sum(axis=1), 1, rtol=1e-5)
    assert len(probability) == len(X)


def test_search_in_a_pipeline_takes_lists():
    X, y = make_data(CNNLSTMRegressor)
    pipeline = make_pipeline(FunctionTransformer(), make(CNNLSTMRegressor))
    search = GridSearchCV(pipeline, {"cnnlstmregressor__hidden_size": [2, 3]}, cv=2, error_score="raise").fit(X, y)
    assert search.predict(X).shape == (20,)


@every_class
def test_partial_fit_takes_parts_of_other_lengths(cls):
    X, y = make_data(cls)
    model = make(cls)
    first = {"classes": [0, 1]} if cls is CNNLSTMClassifier else {}
    model.partial_fit(X[:10], y[:10], **first).partial_fit([np.repeat(x, 3, axis=0) for x in X[10:]], y[10:])
    assert_allclose(answer(model, X), one_by_one(lambda sample: answer(model, sample), X), atol=1e-6)


@every_class
def test_warm_start_goes_on_with_ragged_X(cls):
    X, y = make_data(cls)
    model = make(cls, warm_start=True).fit(X, y).fit(X, y)
    assert model.n_epochs_ == 4


@every_class
@pytest.mark.parametrize("scoring", ["loss", "neg_mean_squared_error"])
def test_early_stopping_takes_ragged_validation_data(cls, scoring):
    X, y = make_data(cls, n=40)
    X_val, y_val = make_data(cls, n=10, longest=20, seed=1)
    model = make(cls, scoring=scoring, max_epochs="auto", n_iter_no_change=2).fit(X, y, X_val=X_val, y_val=y_val)
    assert np.isfinite(model.history_["valid_loss"]).all()
    if scoring != "loss":
        best = model.history_["valid_score"][model.best_epoch_ - 1]
        assert_allclose(-np.mean((model.predict(X_val) - y_val) ** 2), best, rtol=1e-4)
    model = make(cls, scoring=scoring, max_epochs="auto", n_iter_no_change=2, early_stopping=True).fit(X, y)
    assert np.isfinite(model.history_["valid_loss"]).all()


@every_class
def test_rows_of_weight_zero_are_as_absent_to_the_bit(cls):
    X, y = make_data(cls, n=24)
    weight = np.tile([1.0, 0.0, 3.0, 0.5], 6)
    said = np.flatnonzero(weight)
    expected = answer(make(cls).fit([X[i] for i in said], y[said], weight[said]), X)
    assert_array_equal(answer(make(cls).fit(X, y, weight), X), expected)


@every_class
def test_pickle_predicts_the_same_on_ragged_X(cls):
    X, y = make_data(cls)
    model = make(cls).fit(X, y)
    assert_array_equal(answer(pickle.loads(pickle.dumps(model)), X), answer(model, X))


@every_class
@every_frame
@pytest.mark.parametrize(("n", "batch_size"), [(1, 1), (9, 4), (3, 2), (12, 1), (12, 1000)])
def test_every_batch_size_trains(cls, frame, n, batch_size):
    X, y = make_data(cls, frame, n=n)
    model = make(cls, batch_size=batch_size).fit(X, y)
    assert np.isfinite(model.history_["train_loss"]).all()
    assert np.isfinite(answer(model, X)).all()


def test_maps_of_ragged_X_are_refused():
    X, _ = make_data(CNNLSTMRegressor, (4, 4, 1))
    with pytest.raises(ValueError, match=r"X is ragged .* target='map'"):
        make(CNNLSTMRegressor, target="map").fit(X, np.zeros((20, 4, 4)))


@pytest.mark.parametrize("n_spatial", [0, 2])
def test_backbone_with_batch_norm_trains_with_a_lone_sample_of_one_step(n_spatial):
    """Along time a norm would see one value alone, of which there is no variance."""
    norm, conv = [(nn.BatchNorm1d, nn.Conv1d), (), (nn.BatchNorm2d, nn.Conv2d)][n_spatial]

    def backbone(in_channels, n_spatial):
        return nn.Sequential(conv(in_channels, 4, 3, padding=1), norm(4), nn.ReLU())

    X, y = make_data(CNNLSTMRegressor, FRAMES[n_spatial], n=24)
    X = [X[0][:1], *(sample for sample in X[1:] if len(sample) > 1)]
    model = make(CNNLSTMRegressor, backbone=backbone, conv_bank=0).fit(X, y[: len(X)])
    assert np.isfinite(model.history_["train_loss"]).all()
    assert_allclose(model.predict(X), one_by_one(model.predict, X), atol=1e-6)


def test_sample_too_short_for_a_backbone_is_told_so():
    X, y = make_data(CNNLSTMRegressor)
    model = make(CNNLSTMRegressor, backbone=lambda in_channels, n_spatial: nn.Conv1d(in_channels, 4, 5))
    with pytest.raises(ValueError, match=r"backbone does not take samples of \d steps: .*[Kk]ernel size"):
        model.fit(X, y)


# -- an answer per step


def make_steps(cls, frame=(2,), n_outputs=None, **kwargs):
    """Ragged noise and for each step whether, or how far, its mean is above 0."""
    X, _ = make_data(cls, frame, **kwargs)
    level = [sample.reshape(len(sample), -1).mean(axis=1) for sample in X]
    if n_outputs:
        level = [np.repeat(steps[:, None], n_outputs, axis=1) for steps in level]
    return X, [(steps > 0).astype(int) if cls is CNNLSTMClassifier else steps for steps in level]


def padded_steps(y, n_timesteps):
    dtype = np.result_type(np.float16, y[0])
    array = np.full((len(y), n_timesteps, *y[0].shape[1:]), np.nan, dtype=dtype)
    for row, steps in zip(array, y, strict=True):
        row[: len(steps)] = steps
    return array


@every_class
@every_frame
@pytest.mark.parametrize("params", [{}, {"pool_size": 3, "num_layers": 2}])
def test_steps_are_answered_as_those_of_each_sample_alone(cls, frame, params):
    X, y = make_steps(cls, frame)
    model = make(cls, target="step", **params).fit(X, y)
    for ask in (lambda X: answer(model, X), model.embed):
        together = ask(X)
        assert together.dtype == object
        assert [len(steps) for steps in together] == [len(sample) for sample in X]
        for steps, sample in zip(together, X, strict=True):
            assert_allclose(steps, ask(sample[np.newaxis])[0], atol=1e-6)
    array = answer(model, padded(X, 30))
    assert array.shape[:2] == (20, 30)
    for row, steps in zip(array, answer(model, X), strict=True):
        assert_array_equal(row[: len(steps)], steps)
        assert np.isnan(row[len(steps) :]).all()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_outputs", [None, 2])
def test_training_on_steps_follows_a_loop_over_samples(n_outputs, weighted):
    """One full batch per epoch without norms that mix samples: the loss is the mean over all steps there are."""
    X, y = make_steps(CNNLSTMRegressor, n_outputs=n_outputs)
    weight = np.linspace(0.5, 2, 20) if weighted else np.ones(20)
    model = make(CNNLSTMRegressor, target="step", conv_channels=(), batch_size=1000, max_epochs=3, dropout=0, lr=0.01)
    model.set_params(optimizer="sgd", lr_schedule="constant", weight_decay=0)
    losses = model.fit(X, y, weight if weighted else None).history_["train_loss"]
    with _training.training_scope(model.device_, 0):
        first = make(
            CNNLSTMRegressor, target="step", conv_channels=(), max_epochs=1, lr=1e-12, optimizer="sgd", dropout=0
        )
        network = first.fit(X, y, weight if weighted else None).net_.module_
    mean, scale = network.target_statistics()
    error = [
        np.mean(
            (network(torch.from_numpy(x[None])).detach().numpy()[0] - (t.reshape(len(x), -1) - mean) / scale) ** 2, 1
        )
        for x, t in zip(X, y, strict=True)
    ]
    share = np.concatenate([np.full(len(x), w) for x, w in zip(X, weight, strict=True)])
    assert_allclose(losses[0], np.average(np.concatenate(error), weights=share), rtol=1e-4)
    assert losses.iloc[-1] < losses[0]


@every_class
def test_batches_give_every_step_the_same_say(cls):
    """The mean of an epoch's losses does not depend on how samples share batches, if weights hardly move."""
    X, y = make_steps(cls)
    still = {"target": "step", "lr": 1e-12, "max_epochs": 1, "conv_channels": (), "dropout": 0}
    losses = [make(cls, batch_size=size, **still).fit(X, y).history_["train_loss"][0] for size in (4, 5, 20)]
    assert_allclose(losses, losses[0], rtol=1e-5)


@every_class
@every_frame
def test_form_of_padding_does_not_change_a_bit_of_steps(cls, frame):
    X, y = make_steps(cls, frame)
    expected = answer(make(cls, target="step").fit(X, y), X)
    for n in (12, 40, 100):
        model = make(cls, target="step").fit(padded(X, n), padded_steps(y, n))
        assert model.input_shape_ == (12, *frame)
        for steps, other in zip(answer(model, X), expected, strict=True):
            assert_array_equal(steps, other)
    model = make(cls, target="step").fit(X, padded_steps(y, 12))
    assert_array_equal(np.concatenate(answer(model, X)), np.concatenate(expected))


def test_labels_of_steps_keep_their_type():
    X, y = make_steps(CNNLSTMClassifier)
    for names in (np.array([3, 7]), np.array(["off", "on"])):
        model = make(CNNLSTMClassifier, target="step").fit(X, [names[steps] for steps in y])
        assert model.classes_.tolist() == names.tolist()
        predicted = model.predict(X)
        assert {steps.dtype.kind for steps in predicted} == {names.dtype.kind}
        array = model.predict(padded(X, 15))
        assert set(array[0, : len(X[0])]) <= set(names.tolist())
        assert array.shape == (20, 15)
        assert all(value != value for value in array[0, len(X[0]) :])  # NaN


@every_class
def test_score_of_steps_is_that_of_all_steps_there_are(cls):
    X, y = make_steps(cls)
    model = make(cls, target="step").fit(X, y)
    truth, predicted = np.concatenate(y), np.concatenate(model.predict(X))
    by_hand = np.mean(truth == predicted) if cls is CNNLSTMClassifier else r2_score(truth, predicted)
    for given in ((X, y), (padded(X, 30), padded_steps(y, 30)), (X, padded_steps(y, 12)), (X, padded_steps(y, 19))):
        assert_allclose(model.score(*given), by_hand, rtol=1e-6)


@every_class
def test_cross_validation_of_steps_takes_lists(cls):
    X, y = make_steps(cls)
    model = make(cls, target="step")
    assert np.isfinite(cross_val_score(model, X, y, cv=KFold(4), error_score="raise")).all()
    assert np.isfinite(cross_val_score(model, X, padded_steps(y, 12), cv=KFold(10), error_score="raise")).all()
    predicted = cross_val_predict(model, X, y, cv=KFold(4))
    assert [len(steps) for steps in predicted] == [len(sample) for sample in X]
    search = GridSearchCV(model, {"hidden_size": [2, 3]}, cv=KFold(2), error_score="raise").fit(X, y)
    assert np.isfinite(search.score(X, y))


@every_class
def test_steps_with_gaps_in_y_validation_data_and_partial_fit(cls):
    X, y = make_steps(cls)
    y = [steps.astype(float) for steps in y]
    y[3][:] = y[5][0] = np.nan
    model = make(cls, target="step", max_epochs=4).fit(X, y, X_val=X[4:9], y_val=y[4:9])
    assert np.isfinite(model.history_[["train_loss", "valid_loss"]]).all(axis=None)
    first = {"classes": [0.0, 1.0]} if cls is CNNLSTMClassifier else {}
    model = make(cls, target="step").partial_fit(X, y, **first).partial_fit(X[3:], y[3:])
    assert np.isfinite(np.concatenate(answer(model, X))).all()


def test_streamed_steps_are_read_as_the_array(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    X, y = make_steps(CNNLSTMRegressor)
    expected = make(CNNLSTMRegressor, target="step").fit(X, y).predict(padded(X, 20))
    monkeypatch.setattr(_sequences, "_CHUNK_BYTES", 1000)
    monkeypatch.setattr(_training, "_PASS_POSITIONS", 100)
    with h5py.File(tmp_path / "X.h5", "w") as file:
        file["X"] = padded(X, 20)
        model = make(CNNLSTMRegressor, target="step").fit(file["X"], padded_steps(y, 20))
        assert_allclose(model.predict(file["X"]), expected, atol=1e-5)


@every_class
def test_answers_that_do_not_fit_the_steps_are_named(cls):
    X, y = make_steps(cls)
    model = make(cls, target="step").fit(X, y)
    i = next(i for i, sample in enumerate(X) if len(sample) == 7)
    short, long, odd = list(y), list(y), list(y)
    short[i], long[i], odd[i] = y[i][:5], np.resize(y[i], 9), y[i][:, None]
    behind = padded_steps(y, 12)
    behind[i, 7] = 1
    words = [
        (short, rf"y has shape \(5,\) in sample {i}, whose X has 7 steps; expected an answer per step"),
        (long, rf"y has a value at step 7 of sample {i}, whose X has 7 steps; expected NaN behind them"),
        (behind, rf"y has a value at step 7 of sample {i}, whose X has 7 steps"),
        (odd, rf"y has shape \(7, 1\) in sample {i} and .* in sample 0; expected shapes that differ in the number of"),
    ]
    for given, match in words:
        for call in (model.fit, model.score):
            with pytest.raises(ValueError, match=match):
                call(X, given)


@every_class
def test_attribution_takes_ragged_steps_and_names_those_that_are_not_there(cls):
    X, y = make_steps(cls)
    model = make(cls, target="step").fit(X, y)
    target = (0, 1) if cls is CNNLSTMClassifier else 0
    for given in (X[:4], padded(X[:4], 14)):
        parts = attribute(model, given, target=target)
        assert [len(part) for part in parts] == [len(sample) for sample in given]
    target = (13, 1) if cls is CNNLSTMClassifier else 13
    with pytest.raises(ValueError, match=r"target=.*13.* expected (\(0 to \d, label\)|an index of one)"):
        attribute(model, padded(X[:4], 14), target=target)


# -- batches


def test_similar_lengths_share_a_batch_and_each_sample_has_its_turn():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 100, size=256)
    X = _sequences.Padded(np.zeros((256, 100, 1), dtype=np.float32), lengths)
    y = np.arange(256.0)
    torch.manual_seed(0)
    batches = list(_training._Batches(_training.Samples(X, y), 16, torch.device("cpu"), shuffle=True))
    seen = torch.cat([y for (_, y), *_ in batches])
    assert seen.sort().values.tolist() == y.tolist()
    assert seen.tolist() != y.tolist()
    steps = sum(len(y) * len((X[0] if isinstance(X, tuple) else X)[0]) for (X, y), *_ in batches)
    assert steps < 0.8 * 256 * lengths.max()


# -- real data


def test_speakers_are_told_by_vowels_of_unequal_length(load_data):
    data = load_data("JapaneseVowels")
    example = runpy.run_path(str(EXAMPLES / "vowels.py"))
    samples = example["to_samples"](data["X_train"])
    assert len({len(sample) for sample in samples}) > 15
    assert_array_equal(padded(samples, 29), data["X_train"])
    model = CNNLSTMClassifier(hidden_size=32, conv_bank=84, max_epochs=8, random_state=0).fit(samples, data["y_train"])
    guess = DummyClassifier(strategy="prior").fit(data["X_train"][:, 0], data["y_train"])
    assert guess.score(data["X_test"][:, 0], data["y_test"]) < 0.3
    assert model.score(example["to_samples"](data["X_test"]), data["y_test"]) > 0.95


@pytest.mark.slow
def test_speakers_are_told_better_than_by_means_and_spreads(load_data):
    example = runpy.run_path(str(EXAMPLES / "vowels.py"))
    result = example["accuracies"](load_data("JapaneseVowels"), conv_bank=84, max_epochs=8)
    assert result["CNNLSTMClassifier"][1] > result["random forest"][1]
    assert len(result["CNNLSTMClassifier"][0]) == 3
