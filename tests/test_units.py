"""Series that differ widely in size are seen in units of their own, too."""

import numpy as np
import pytest
import torch
from nets import SMALL, answer
from numpy.testing import assert_allclose
from torch import nn

from sklearn_cnnlstm import CNNLSTMClassifier, CNNLSTMRegressor, _estimators
from sklearn_cnnlstm._network import OwnUnits, SharedUnits
from sklearn_cnnlstm.inspection import attribute


def waves(n=90, n_steps=40, decades=6.0):
    """Series (sample, time, channel) of three frequencies, which are the classes, and of sizes that tell nothing."""
    random = np.random.default_rng(0)
    y = np.arange(n) % 3
    phase = random.uniform(0, 2 * np.pi, (n, 1))
    X = np.sin(np.arange(n_steps) * (0.3 + 0.3 * y[:, None]) + phase) + 0.1 * random.normal(size=(n, n_steps))
    X *= 10 ** random.uniform(-decades / 2, decades / 2, (n, 1))
    return X[:, :, None].astype(np.float32), y


def units_of(model):
    return model.net_.module_.units


def by_hand(sample, units, *, for_kernels=False):
    """What is seen of standardised steps (time, channel) without gaps, by numpy."""
    own, deviation = own_by_hand(sample, units)
    views = [sample, own]
    if not for_kernels:
        size = (np.log(deviation) - units.usual.numpy()) / units.spread.numpy()
        views.append(np.broadcast_to(size, own.shape))
    return np.concatenate(views, axis=1)


def own_by_hand(sample, units):
    sample = np.asarray(sample, dtype=np.float64)
    deviation = np.sqrt(np.nanvar(sample, axis=0) + units.least.numpy() ** 2)
    return (sample - np.nanmean(sample, axis=0)) / deviation, deviation


@pytest.mark.parametrize("conv_bank", [0, "auto"])
def test_shapes_are_told_apart_whatever_their_size(conv_bank, monkeypatch):
    X, y = waves()

    def score():
        return CNNLSTMClassifier(conv_bank=conv_bank, random_state=0).fit(X[:60], y[:60]).score(X[60:], y[60:])

    assert score() > 0.9
    monkeypatch.setattr(_estimators, "_SIZES_DIFFER", np.inf)
    assert score() < 0.8


def test_size_is_not_lost():
    X, _ = waves(n=120, decades=4.0)
    size = X.std(axis=(1, 2))
    y = size > np.median(size)
    model = CNNLSTMClassifier(random_state=0).fit(X[:80], y[:80])
    assert isinstance(units_of(model), OwnUnits)
    assert model.score(X[80:], y[80:]) > 0.9


def test_views_are_those_of_each_series():
    units = OwnUnits([0.1, 0.2], [-1.0, 0.5], [2.0, 3.0])
    X = torch.randn(5, 12, 2) * torch.logspace(-3, 1, 5)[:, None, None] + 1
    assert_allclose(units(X, X), [by_hand(sample, units) for sample in X], atol=1e-5)
    assert_allclose(units.for_kernels(X, X), [by_hand(sample, units, for_kernels=True) for sample in X], atol=1e-5)


def test_padding_is_no_part_of_a_series():
    units = OwnUnits([0.1, 0.2], [-1.0, 0.5], [2.0, 3.0])
    X = torch.randn(3, 12, 2)
    lengths = torch.tensor([12, 1, 7])
    for row, length in enumerate(lengths):
        X[row, length:] = torch.nan
    for views, for_kernels in ((units(X, X, lengths), False), (units.for_kernels(X, X, lengths), True)):
        for view, sample, length in zip(views, X, lengths, strict=True):
            assert_allclose(view[:length], by_hand(sample[:length], units, for_kernels=for_kernels), atol=1e-5)


def test_indicators_stay_behind_the_views():
    units = OwnUnits([0.1], [0.0], [1.0])
    values, indicators = torch.randn(4, 9, 1), torch.ones(4, 9, 2)
    X = torch.cat([values, indicators], dim=-1)
    assert_allclose(units(X, values)[..., :3], units(values, values), atol=1e-6)
    assert_allclose(units(X, values)[..., 3:], indicators)
    assert_allclose(units.for_kernels(X, values)[..., 2:], indicators)


@pytest.mark.parametrize("missing", ["mask", "ffill"])
def test_what_is_missing_has_no_say(missing):
    X, y = waves(decades=3.0)
    X += np.linspace(-3, 3, len(X), dtype=np.float32)[:, None, None]  # far from the mean of the channel
    X[::2, 0] = X[1::2, 20] = np.nan
    model = CNNLSTMClassifier(missing=missing, **SMALL).fit(X, y)
    network, units = model.net_.module_.eval(), units_of(model)
    standardised = (X - network.input_mean.numpy()) / network.input_scale.numpy()
    if missing == "ffill":
        standardised[1::2, 20] = standardised[1::2, 19]
    hand = [own_by_hand(sample, units) for sample in standardised]
    own, deviation = (np.stack(values) for values in zip(*hand, strict=True))
    views = network.seen(torch.from_numpy(X))
    assert_allclose(views[..., 1:2], np.nan_to_num(own), atol=2e-3)
    assert_allclose(views[:, 0, 2:3], (np.log(deviation) - units.usual.numpy()) / units.spread.numpy(), atol=1e-3)
    assert_allclose(units.usual, np.log(deviation).mean(axis=0), atol=1e-3)
    of_kernels = network.bridged(torch.from_numpy(X))[..., 1:2].numpy()
    assert abs(of_kernels.std(axis=1) - 1).max() < 0.1


def test_statistics_are_those_of_the_deviations_in_training():
    X, y = waves()
    X = np.concatenate([X, 0.1 + 0 * X, X[::-1] ** 2], axis=2)
    X[::7, :, 2] = 0.1
    model = CNNLSTMClassifier(**SMALL).fit(X, y)
    units, network = units_of(model), model.net_.module_
    deviation = X.astype(np.float64).std(axis=1) / network.input_scale.numpy()
    deviation[deviation < 1e-6] = 0  # of what is constant but for rounding
    usual = [np.median(sizes[sizes > 0]) for sizes in deviation.T[[0, 2]]]
    assert_allclose(units.least[[0, 2]], 1e-3 * np.array(usual), rtol=1e-5)
    size = np.log(np.hypot(deviation, units.least.numpy()))
    assert_allclose(units.usual[[0, 2]], size.mean(axis=0)[[0, 2]], rtol=1e-5)
    assert_allclose(units.spread, [size[:, 0].std(), 1.0, size[:, 2].std()], rtol=1e-5)  # 1 for the constant channel
    assert np.isfinite(answer(model, X)).all()


@pytest.mark.parametrize(("decades", "expected"), [(0.5, SharedUnits), (0.8, SharedUnits), (1.0, OwnUnits)])
def test_sizes_that_differ_little_are_left_to_the_channels_units(decades, expected):
    X, y = waves(decades=decades)  # of tenths four fifths of the decades apart: 5 times for .87 of them
    assert type(units_of(CNNLSTMClassifier(**SMALL).fit(X, y))) is expected


@pytest.mark.parametrize("n_alike", [1, 2])
def test_most_channels_decide(n_alike):
    X, y = waves()
    alike = X / X.std(axis=1, keepdims=True)
    X = np.concatenate([X] * (3 - n_alike) + [alike] * n_alike, axis=2)
    assert isinstance(units_of(CNNLSTMClassifier(**SMALL).fit(X, y)), OwnUnits) == (n_alike == 1)


def test_only_a_classifiers_series_have_own_units():
    X, y = waves()
    frames = X[:, :, None, None] * np.ones((1, 1, 4, 4, 1), dtype=np.float32)
    by_step = np.repeat(y[:, None], X.shape[1], axis=1)
    for model in (
        CNNLSTMClassifier(**SMALL).fit(X[:, :, 0], y),  # a table
        CNNLSTMClassifier(**SMALL).fit(frames[:, :8], y),
        CNNLSTMClassifier(target="step", **SMALL).fit(X, by_step),
        CNNLSTMRegressor(**SMALL).fit(X, y),
        CNNLSTMClassifier(**SMALL).fit(X[:, :4], y),  # deviations of four values differ anyway
        CNNLSTMClassifier(**SMALL).fit([sample[: 2 + i % 6] for i, sample in enumerate(X)], y),
        CNNLSTMClassifier(backbone=lambda n_channels, n_spatial: nn.Conv1d(1, 4, 3), **SMALL).fit(X, y),
        CNNLSTMClassifier(**SMALL).fit(np.repeat(X, 33, axis=2), y),
        CNNLSTMClassifier(**SMALL).fit(0 * X + 0.1, y),
    ):
        assert type(units_of(model)) is SharedUnits


def test_a_table_unfolded_into_series_has_own_units():
    X, y = waves()
    model = CNNLSTMClassifier(input_shape=X.shape[1:], **SMALL).fit(X[:, :, 0], y)
    assert type(units_of(model)) is OwnUnits
    assert_allclose(answer(model, X[:, :, 0]), answer(CNNLSTMClassifier(**SMALL).fit(X, y), X), atol=1e-6)


@pytest.mark.parametrize("missing", ["mask", "ffill"])
def test_answers_do_not_depend_on_mates_whatever_is_missing(missing):
    X, y = waves(decades=3.0)
    X[np.random.default_rng(1).random(X.shape) < 0.1] = np.nan
    ragged = [sample[: 8 + i % 30] for i, sample in enumerate(X)]
    model = CNNLSTMClassifier(missing=missing, **SMALL).fit(ragged, y)
    assert type(units_of(model)) is OwnUnits
    together = answer(model, ragged)
    assert np.isfinite(together).all()
    alone = np.concatenate([answer(model, [sample]) for sample in ragged])
    assert_allclose(together, alone, atol=2e-6)


def test_a_channel_that_is_always_missing_changes_nothing():
    X, y = waves()
    X = np.concatenate([X, X * np.nan], axis=2)
    model = CNNLSTMClassifier(missing="ffill", **SMALL).fit(X, y)
    assert type(units_of(model)) is OwnUnits
    assert np.isfinite(answer(model, X)).all()


@pytest.mark.parametrize("conv_bank", [0, 84])
def test_attributions_add_up_to_the_change_of_the_answer(conv_bank):
    pytest.importorskip("captum")
    X, y = waves(n=60)
    model = CNNLSTMClassifier(**SMALL | {"max_epochs": 20}, conv_bank=conv_bank).fit(X, y)
    X = X[:20]
    assert type(units_of(model)) is OwnUnits
    predicted = np.searchsorted(model.classes_, model.predict(X))
    start = np.full_like(X[:1], model.net_.module_.input_mean.item())
    change = (model.decision_function(X) - model.decision_function(start))[np.arange(len(X)), predicted]
    assert_allclose(attribute(model, X).sum(axis=(1, 2)), change, atol=0.15 * abs(change).mean())


def test_a_channel_whose_series_are_of_one_size_is_not_magnified():
    X, y = waves()
    X = np.concatenate([X, X / X.std(axis=1, keepdims=True), X], axis=2)
    network = CNNLSTMClassifier(**SMALL).fit(X, y).net_.module_
    X[0, :, 1] *= 1.05
    X[1, :, 1] = 0.3
    assert abs(network.seen(torch.from_numpy(X))[0, :, 6:]).max() < 5
    assert network.seen(torch.from_numpy(X))[1, :, 4].abs().max() == 0


def test_constant_series_at_a_level_do_not_depend_on_mates():
    random = np.random.default_rng(0)
    X = random.normal(size=(60, 30, 1)) * 10 ** random.uniform(-6, 0, (60, 1, 1)) + random.normal(5, 2, (60, 1, 1))
    X[::5] = X[::5, :1]
    ragged = [sample[: 10 + i % 20].astype(np.float32) for i, sample in enumerate(X)]
    model = CNNLSTMClassifier(**SMALL).fit(ragged, np.arange(60) % 2)
    assert type(units_of(model)) is OwnUnits
    alone = np.concatenate([answer(model, [sample]) for sample in ragged])
    assert_allclose(answer(model, ragged)[::5], alone[::5], atol=1e-6)


@pytest.mark.parametrize("value", [1e20, -9.97e36, 3e38])
def test_a_huge_value_does_not_end_in_nan(value):
    X, y = waves()
    model = CNNLSTMClassifier(**SMALL).fit(X, y)
    X = X.astype(np.float32)
    X[1, 5:8] = value  # whose sum is infinite in float32
    assert np.isfinite(answer(model, X)).all()
