"""What frozen kernels see, and how answers are read off it."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_expit, log_softmax
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from skorch.callbacks import EarlyStopping
from torch.nn import functional as F

from sklearn_cnnlstm import CNNLSTMClassifier, CNNLSTMRegressor, _bank, _estimators, _training
from sklearn_cnnlstm._bank import (
    FOR_NUMBERS,
    N_PARTS,
    N_THRESHOLDS,
    CompetingKernels,
    KernelBank,
    Levels,
    LevelsFromLast,
    Mix,
    _in_two,
    _rounded,
)
from sklearn_cnnlstm._network import BankCNNLSTM, Blend
from sklearn_cnnlstm._readout import _PENALTIES, _leads, solve_ridge
from sklearn_cnnlstm._training import SampleLoss, Samples, TrainingNet

SHAPES = [(40, 3), (6, 20, 2), (5, 9, 12, 1), (3, 5, 5, 5, 1)]


def calibrated_bank(shape, n_kernels, X):
    torch.manual_seed(0)
    bank = KernelBank(shape, n_kernels)
    bank.calibrate(X)
    return bank


@pytest.mark.parametrize("shape", [*SHAPES, (1, 1), (2, 1, 1)])
def test_features_have_the_width_that_the_bank_names(shape):
    X = torch.randn(7, *shape)
    features = calibrated_bank(shape, 30, X)(X)
    assert features.shape == (7, calibrated_bank(shape, 30, X).width)
    assert features.isfinite().all()


@pytest.mark.parametrize(("shape", "n_groups"), [*((shape, 0) for shape in SHAPES), ((40, 3), 4)])
def test_features_are_computed_where_the_samples_are(shape, n_groups):
    bank = KernelBank(shape, 30, n_groups=n_groups).to("meta")
    features = bank(torch.empty(7, *shape, device="meta"))
    assert features.device.type == "meta"
    assert features.shape == (7, bank.width)


def test_kernels_are_minirockets():
    bank = KernelBank((81, 4), 84 * 4)
    used = bank.weight.abs().sum(2) > 0
    assert used.any(1).all()
    assert 1 <= used.sum(1).float().mean() < 4
    patterns = bank.weight[used]
    assert torch.all(patterns.sum(1) == 0)
    assert torch.all((patterns == 2).sum(1) == 3)
    assert [dilation for _, dilation in bank.places] == [1, 2, 3, 4, 6, 10]


def test_thresholds_are_quantiles_of_the_responses():
    X = torch.randn(50, 30, 1)
    bank = calibrated_bank((30, 1), 15, X)
    R = F.conv1d(X.mT, bank.weight[:5], padding=4, dilation=bank.places[0][1])
    shares = (R.movedim(1, 0).flatten(1)[:, None] > bank.threshold[: len(R[0]), :, None]).float().mean(2)
    golden = ((torch.arange(1, 5 * N_THRESHOLDS + 1) * 0.618034) % 1).view(N_THRESHOLDS, 5).mT.sort(dim=1).values
    assert bank.sizes == [5, 5, 5]
    torch.testing.assert_close(shares, 1 - golden, atol=0.02, rtol=0)


def test_shares_are_those_of_the_parts_of_time():
    X = (torch.randn(4, 32, 1) * 1024).round() / 1024  # the bank rounds to such a grid itself
    bank = calibrated_bank((32, 1), 6, X)
    _, parts = bank.split(bank(X))
    weight, threshold, softness = bank.weight, bank.threshold[:, N_THRESHOLDS // 2], bank.softness[:, 0]
    first = bank.sizes[0]
    for kernel in range(first):
        R = F.conv1d(X.mT, weight[kernel : kernel + 1], padding=4)[:, 0]
        above = ((R - threshold[kernel]) / softness[kernel] + 0.5).clamp(0, 1)
        torch.testing.assert_close(parts[:, :, kernel], above.view(4, N_PARTS, 4).mean(2))


def test_padding_is_not_seen():
    X = torch.randn(4, 50, 3)
    bank = calibrated_bank((50, 3), 60, X)
    lengths = torch.tensor([50, 30, 10, 1])
    padded = X.clone()
    for row, length in zip(padded, lengths, strict=True):
        row[length:] = 0
    alone = torch.cat([bank(row[None, :length]) for row, length in zip(X, lengths, strict=True)])
    torch.testing.assert_close(bank(padded, lengths), alone, atol=1e-5, rtol=1e-5)


def test_gradients_reach_the_input():
    X = torch.randn(3, 40, 2)
    bank = calibrated_bank((40, 2), 20, X)
    X.requires_grad_()
    bank(X).sum().backward()
    assert X.grad.isfinite().all()
    assert (X.grad != 0).any()


@pytest.mark.parametrize("caution", [0, 2, 99])
@pytest.mark.parametrize("n_units", [1, 2, None])
@pytest.mark.parametrize(("n_samples", "n_features"), [(60, 20), (20, 60)])
def test_readout_is_scikit_learns_ridge_at_the_best_penalty_or_above(n_samples, n_features, n_units, caution):
    random = np.random.default_rng(0)
    X = random.normal(size=(n_samples, n_features)) * np.linspace(1, 5, n_features)
    y = X[:, :3] @ random.normal(size=(3, 2)) + random.normal(size=(n_samples, 2)) + 5
    weight = random.integers(1, 4, n_samples)
    folds = [np.arange(n_samples)[i::5] for i in range(5)]
    Z = X - np.average(X, 0, weight)
    variance = np.average(Z**2, 0, weight)
    units = np.arange(n_features) % (n_units or n_features)
    variance = np.array([variance[units == unit].mean() for unit in units])
    Z /= np.sqrt(variance * n_features)
    path = np.empty((len(_PENALTIES), *y.shape))
    for predictions, penalty in zip(path, _PENALTIES, strict=True):
        for fold in folds:
            rows = np.setdiff1d(np.arange(n_samples), fold)
            predictions[fold] = Ridge(alpha=penalty).fit(Z[rows], y[rows], weight[rows]).predict(Z[fold])
    best = (weight @ ((path - y) ** 2).sum(2).T).argmin()
    chosen = min(best + caution, len(_PENALTIES) - 1)
    expected = Ridge(alpha=_PENALTIES[chosen]).fit(Z, y, weight).predict(Z)
    coefficients, intercept, cv = solve_ridge(
        torch.tensor(X),
        torch.tensor(y),
        [torch.tensor(fold) for fold in folds],
        blocks=[n_features],
        mixes=[Mix((1.0,))],
        units=torch.tensor(units),
        weight=torch.tensor(weight),
        caution=caution,
    )
    np.testing.assert_allclose(X @ coefficients.numpy() + intercept.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(cv.numpy(), path[chosen], atol=1e-5)


@pytest.mark.parametrize(
    ("make", "n_samples", "is_cautious"),
    [(CNNLSTMRegressor, 2000, False), (CNNLSTMRegressor, 2001, True), (CNNLSTMClassifier, 2001, False)],
)
def test_a_regressors_readout_of_many_samples_is_cautious(make, n_samples, is_cautious, monkeypatch):
    cautions = []

    def spy(*arguments, caution, **keywords):
        cautions.append(caution)
        return solve_ridge(*arguments, caution=caution, **keywords)

    monkeypatch.setattr(_training, "solve_ridge", spy)
    X = np.random.default_rng(0).normal(size=(n_samples, 10, 1))
    make(conv_bank=3, conv_channels=(), max_epochs=1, random_state=0).fit(X, X[:, 0, 0].round())
    assert cautions == [2 * is_cautious]


@pytest.mark.parametrize(("n_samples", "reads_parts"), [(100, True), (2001, False)])
def test_readout_of_many_series_leaves_the_parts_of_time_alone(n_samples, reads_parts):
    random = np.random.default_rng(0)
    y = np.arange(n_samples) % 2
    steps = np.arange(20) + random.uniform(0, 6, size=(n_samples, 1))
    X = np.sin(steps * np.where(y, 1.0, 1.6)[:, None])[:, :, None] + 0.1 * random.normal(size=(n_samples, 20, 1))
    module = CNNLSTMRegressor(conv_bank=10, max_epochs=1, random_state=0).fit(X, y).net_.module_
    whole, parts = module.bank.split(module.join.readout.coefficients.T)
    assert whole.any(dim=0)[-50:].any()  # the kernels' 50 shares of all of the time
    assert parts.any() == reads_parts


@pytest.mark.parametrize("n_samples", [100, 2001])
def test_readout_of_series_whose_labels_are_random_is_that_of_competing_kernels_alone(n_samples):
    random = np.random.default_rng(0)
    X = random.normal(size=(n_samples, 20, 1))
    module = CNNLSTMClassifier(conv_bank=10, max_epochs=1, random_state=0).fit(X, np.arange(n_samples) % 2).net_.module_
    *others, last = module.join.readout.coefficients.split(module.bank.blocks)
    assert last.any()
    assert not any(part.any() for part in others)


@pytest.mark.parametrize("n_samples", [200, 2001])
def test_readout_of_labelled_series_is_that_of_levels_where_these_are_clearly_better(n_samples):
    random = np.random.default_rng(0)
    X = random.normal(size=(n_samples, 20, 1))
    y = X[:, 10:, 0].mean(axis=1) > 0
    module = CNNLSTMClassifier(conv_bank=10, max_epochs=1, random_state=0).fit(X, y).net_.module_
    levels, *others = module.join.readout.coefficients.split(module.bank.blocks)
    assert levels.any()
    assert not any(part.any() for part in others)


def calibrated_competition(shape, X, lengths=None):
    torch.manual_seed(0)
    kernels = CompetingKernels(shape, 4)
    kernels.calibrate(X.mT, lengths)
    return kernels


def test_competing_kernels_are_hydras(monkeypatch):
    monkeypatch.setattr(_bank, "_RIVALRY", 1e-6)  # the winner takes all
    X = torch.randn(5, 40, 3, generator=torch.Generator().manual_seed(0))  # no two kernels of a group are level in it
    kernels = calibrated_competition((40, 3), X)
    changes = np.diff(X.numpy(), axis=1, prepend=X[:, :1].numpy())
    expected = []
    for i, (dilation, series) in enumerate(itertools.product(kernels.dilations, (X.numpy(), changes))):
        padded = np.pad(series, [(0, 0), (4 * dilation, 4 * dilation), (0, 0)])
        windows = np.stack([padded[:, k * dilation : k * dilation + 40] for k in range(9)], axis=-1)  # n, t, c, 9
        mixed = np.einsum("gc,ntck->ntgk", kernels.mixture[i].numpy(), windows)
        R = np.einsum("gjk,ntgk->ntgj", kernels.weight[i].numpy().reshape(2, 8, 9), mixed) / kernels.scale[i].item()
        greatest = np.where(R.max(axis=-1, keepdims=True) == R, np.maximum(R, 0), 0)
        least = R.min(axis=-1, keepdims=True) == R
        expected += [greatest.mean(axis=1).reshape(5, -1), least.mean(axis=1).reshape(5, -1)]
    np.testing.assert_allclose(kernels(X.mT) ** 2 - 1e-3, np.concatenate(expected, axis=1), atol=2e-3)


def test_competing_kernels_see_no_padding_and_no_level():
    X = torch.randn(4, 50, 3)
    kernels = calibrated_competition((50, 3), X)
    lengths = torch.tensor([50, 30, 10, 2])
    padded = X * (torch.arange(50) < lengths[:, None])[:, :, None]
    alone = torch.cat([kernels(row[None, :length].mT) for row, length in zip(X, lengths, strict=True)])
    torch.testing.assert_close(kernels(padded.mT, lengths), alone, atol=1e-4, rtol=1e-4)
    assert not kernels.weight.sum(-1).any()


def test_gradients_reach_the_input_through_competing_kernels():
    X = torch.randn(2, 30, 2, dtype=torch.float64)
    kernels = calibrated_competition((30, 2), X.float()).double()
    assert torch.autograd.gradcheck(lambda X: kernels(X.mT).sum(1), X.requires_grad_(), atol=1e-4)


def test_what_hardly_ever_varied_is_not_magnified():
    random = np.random.default_rng(0)
    X = torch.tensor(random.normal(size=(30, 40)))
    X[:, 0] = 1e-4 * X[:, 0]  # as a share that is 0 but in a few samples
    y = X[:, 1:] @ torch.ones(39, 1, dtype=X.dtype)
    folds = torch.arange(30).tensor_split(5)
    coefficients, *_ = solve_ridge(X, y, folds, blocks=[40], mixes=[Mix((1.0,))], units=torch.arange(40))
    unusual = torch.zeros(1, 40, dtype=X.dtype)
    unusual[0, 0] = 1  # ten thousand standard deviations
    change = float(unusual @ coefficients)
    assert abs(change) < float(y.std())


@pytest.mark.parametrize("tells", ["its mean", "how much it moves"])
def test_a_cell_of_images_tells_as_much_as_it_varies(tells):
    random = np.random.default_rng(0)
    X = random.normal(size=(200, 4, 3, 3, 1)) * random.uniform(0.5, 1.5, size=(200, 1, 3, 3, 1))
    cell = X[:, :, 1, 1, 0]
    y = cell.mean(axis=1) if tells == "its mean" else np.abs(np.diff(cell, axis=1)).mean(axis=1)
    y += 0.3 * y.std() * random.normal(size=200)
    scores = []
    for size in (1, 10):
        X[:, :, 1, 1] *= size
        scores.append(readout_score(X, y))
    assert scores[1] > scores[0] + 0.05


def test_levels_fade_with_the_age_of_their_part_of_the_time():
    bank = KernelBank((3, 2, 2, 2), 3, n_indicators=1)
    levels, *others = bank.fading().split(bank.blocks)
    of_all_time, of_steps = levels.reshape(3 * 4, -1).split([5, 3], dim=1)  # channels and indicator in four cells
    assert not of_all_time.any()
    torch.testing.assert_close(of_steps, torch.tensor([1 / 3, 1 / 2, 1.0]).expand(12, 3))
    assert all((other == 1).all() for other in others)


def test_cells_share_a_unit_but_those_of_indicators():
    bank = KernelBank((4, 3, 2, 2), 3, n_indicators=1)
    *levels_and_changes, whole, parts = bank.units().split(bank.blocks)
    of_channels = [levels.reshape(3, -1) for levels in levels_and_changes]
    shared = [channels[:2] for channels in of_channels]
    alone = [*(channels[2] for channels in of_channels), whole, parts]
    assert all(len(numbers.unique()) == 1 for numbers in shared)
    assert all(len(numbers.unique()) == len(numbers) for numbers in alone)
    assert len(bank.units().unique()) == len(shared) + sum(map(len, alone))


@pytest.mark.parametrize(("told_by", "gain"), [(-1, 0.05), (0, 0.0), (slice(None), 0.0)])
def test_of_few_images_the_last_ones_tell_more_unless_folds_tell_otherwise(monkeypatch, told_by, gain):
    random = np.random.default_rng(0)
    X = random.normal(size=(200, 12, 5, 5, 1))
    y = X[:, told_by, 1:3, 1:4, 0].reshape(200, -1).mean(axis=1)
    y += 0.3 * y.std() * random.normal(size=200)
    score = readout_score(X, y, n_samples=100)
    monkeypatch.setattr(_bank, "_MIXES_THAT_FADE", _bank._MIXES_OF_FRAMES)
    assert score >= readout_score(X, y, n_samples=100) + gain


def readout_score(X, y, n_samples=40):
    """How well what is read off the frozen features of the first samples predicts the others."""
    model = CNNLSTMRegressor(conv_bank=3, max_epochs=1, random_state=0).fit(X[:n_samples], y[:n_samples])
    model.net_.module_.join.trust.fill_(0.0)
    return model.score(X[n_samples:], y[n_samples:])


def test_readout_does_not_extrapolate_far():
    """What the first steps tell as long as they hardly move says nothing of series that move there as much as later."""
    random = np.random.default_rng(0)
    X = random.normal(size=(60, 40, 1))
    X[:, :20] *= 0.05
    y = 20 * X[:, :20, 0].mean(axis=1) + X[:, 20:, 0].mean(axis=1)
    model = CNNLSTMRegressor(max_epochs=1, random_state=0).fit(X, y)
    model.net_.module_.join.trust.fill_(0.0)
    assert model.score(X, y) > 0.5
    new = X.copy()
    new[:, :20] = 3
    spread = y.max() - y.min()  # every step is cut by itself, and here all of them have to be; without it 37
    assert (model.predict(new) < y.max() + 4 * spread).all()
    assert (model.predict(-new) > y.min() - 4 * spread).all()


@pytest.mark.parametrize("make", [CNNLSTMClassifier, CNNLSTMRegressor])
def test_readout_takes_no_feature_for_more_than_it_was(make):
    X = np.random.default_rng(0).normal(size=(60, 20, 2))
    y = X[:, :10, 0].mean(axis=1)
    module = make(max_epochs=1, random_state=0).fit(X, y > 0 if make is CNNLSTMClassifier else y).net_.module_
    features = module.bank(module.standardise(torch.tensor(X, dtype=torch.float32)))
    greatest, least = features.amax(0, keepdim=True), features.amin(0, keepdim=True)
    margin = 0.1 + (0.5 * (greatest - least) if make is CNNLSTMRegressor else 0)
    greatest, least = greatest + margin, least - margin
    assert torch.equal(module.join.base(greatest + 1000), module.join.base(greatest))
    assert torch.equal(module.join.base(least - 1000), module.join.base(least))
    assert not torch.equal(module.join.base(greatest), module.join.base(least))


def test_steps_that_vary_together_are_not_cut_one_by_one():
    random = np.random.default_rng(0)
    lines = np.exp(-(((np.linspace(0, 1, 200) - np.array([[0.2], [0.4], [0.6], [0.8]])) / 0.1) ** 2))
    parts = random.uniform(size=(90, 4))  # a spectrum is a mixture of four lines, of which the first one is asked for
    X = (parts @ lines + 1e-4 * random.normal(size=(90, 200)))[..., None]
    model = CNNLSTMRegressor(max_epochs=1, random_state=0).fit(X[:30], parts[:30, 0])
    model.net_.module_.join.trust.fill_(0.0)
    assert model.score(X[30:], parts[30:, 0]) > 0.99999


@pytest.mark.parametrize(("shape", "margin"), [((20, 2), 0.5), ((4, 6, 2), 0.5), ((4, 6, 6, 1), 0.0)])
def test_features_are_cut_half_a_range_beyond_it_but_those_of_images(shape, margin):
    torch.manual_seed(0)
    readout = Blend(KernelBank(shape, 20), 1, 8, ()).readout
    features = torch.randn(30, len(readout.least)).half()
    features[:, 0] = 3.0
    readout.set(features, readout.coefficients, readout.intercept)
    least, greatest = features.float().numpy().min(axis=0), features.float().numpy().max(axis=0)
    np.testing.assert_allclose(readout.least, least - margin * (greatest - least), rtol=1e-5)
    np.testing.assert_allclose(readout.greatest, greatest + margin * (greatest - least), rtol=1e-5)


def test_three_opinions_are_surer_than_their_mean():
    X = np.random.default_rng(0).normal(size=(40, 20, 2))
    model = CNNLSTMClassifier(max_epochs=1, random_state=0).fit(X, np.arange(40) % 3)
    join, opinions = model.net_.module_.join, []
    for layer in (join.readout, join.head, join.beside, model.net_.module_.head):
        layer.register_forward_hook(lambda layer, inputs, output: opinions.append(output))
    logits = model._logits(X)
    np.testing.assert_allclose(logits, sum(opinions).numpy() / 2, atol=1e-5)


def test_a_warm_start_sees_anew_where_features_lie():
    random = np.random.default_rng(0)
    X = random.normal(size=(40, 30, 2))
    y = X[:, :, 0].mean(axis=1)
    model = CNNLSTMRegressor(warm_start=True, max_epochs=1, random_state=0).fit(0.1 * X, y)
    model.fit(X, y)
    module = model.net_.module_
    features = module.bank(module.standardise(torch.tensor(X, dtype=torch.float32)))
    least, greatest = features.amin(0), features.amax(0)
    margin = 0.5 * (greatest - least)
    torch.testing.assert_close(module.join.readout.greatest, greatest + margin, atol=2e-2, rtol=1e-2)
    torch.testing.assert_close(module.join.readout.least, least - margin, atol=2e-2, rtol=1e-2)


@pytest.mark.parametrize("n_samples", [30, 300])
def test_features_to_which_no_mix_gives_a_share_are_left_out(n_samples):
    torch.manual_seed(0)
    X, y = torch.randn(n_samples, 60), torch.randn(n_samples, 2)
    folds = torch.arange(n_samples).tensor_split(5)
    mixes = [Mix((1.0, 0.0, 0.0)), Mix((1.0, 2.0, 0.0))]
    coefficients, intercept, cv = solve_ridge(X, y, folds, blocks=[20, 20, 20], mixes=mixes, units=torch.arange(60))
    mixes = [Mix(mix.shares[:2]) for mix in mixes]
    of_two = solve_ridge(X[:, :40], y, folds, blocks=[20, 20], mixes=mixes, units=torch.arange(40))
    assert torch.equal(coefficients, torch.cat([of_two[0], torch.zeros(20, 2)]))
    assert torch.equal(intercept, of_two[1])
    assert torch.equal(cv, of_two[2])


@pytest.mark.parametrize("n_samples", [30, 300])
def test_a_mix_without_the_first_group_reads_the_second_one_alone(n_samples):
    torch.manual_seed(0)
    X = torch.randn(n_samples, 40)
    y = X[:, 20:] @ torch.randn(20, 2) + torch.randn(n_samples, 2)
    folds = torch.arange(n_samples).tensor_split(5)
    mixes = [Mix((1.0, 0.0)), Mix((0.0, 1.0))]
    coefficients, intercept, cv = solve_ridge(X, y, folds, blocks=[20, 20], mixes=mixes, units=torch.arange(40))
    second = solve_ridge(X[:, 20:], y, folds, blocks=[20], mixes=[Mix((1.0,))], units=torch.arange(20))
    torch.testing.assert_close(coefficients, torch.cat([torch.zeros(20, 2, dtype=coefficients.dtype), second[0]]))
    torch.testing.assert_close(intercept, second[1])
    torch.testing.assert_close(cv, second[2])


@pytest.mark.parametrize("best", [0, 1])
@pytest.mark.parametrize("n_samples", [30, 300])
def test_caution_does_not_change_which_mix_predicts_best(n_samples, best):
    torch.manual_seed(0)
    X = torch.randn(n_samples, 40)
    y = X[:, :20].sum(1, keepdim=True) + torch.randn(n_samples, 1)
    settings = {"blocks": [20, 20], "units": torch.arange(40), "caution": 4}
    folds = torch.arange(n_samples).tensor_split(5)
    mixes = [Mix((1e4, 5e3)), Mix((1e4, 5e3))]  # so large that no penalty there is makes it worse
    mixes[best] = Mix((1.0, 0.01))
    chosen = solve_ridge(X, y, folds, mixes=mixes, **settings)
    expected = solve_ridge(X, y, folds, mixes=[mixes[best]], **settings)
    assert all(torch.equal(*pair) for pair in zip(chosen, expected, strict=True))


@pytest.mark.parametrize("rank", [1, 4, 1000])
@pytest.mark.parametrize("fades", [False, True])
@pytest.mark.parametrize(("n_samples", "n_features"), [(60, 20), (20, 60)])
def test_readout_of_a_rank_is_ridge_on_scikit_learns_principal_components(n_samples, n_features, fades, rank):
    random = np.random.default_rng(0)
    X = random.normal(size=(n_samples, 5)) @ random.normal(size=(5, n_features))
    X += random.normal(size=(n_samples, n_features))
    y = X[:, :3] @ random.normal(size=(3, 2)) + random.normal(size=(n_samples, 2))
    weight = random.integers(1, 4, n_samples)
    blocks, shares = [5, n_features - 5], (3.0, 1.0)
    folds = [np.arange(n_samples)[i::5] for i in range(5)]
    Z = X - np.average(X, 0, weight)
    Z *= np.sqrt(np.repeat(np.divide(shares, blocks), blocks) / np.average(Z**2, 0, weight))
    fading = np.concatenate([[0.0], random.uniform(0.2, 2, n_features - 1)])
    if fades:
        for columns in np.split(np.arange(n_features), blocks[:1]):
            Z[:, columns] *= fading[columns] / np.sqrt(np.mean(fading[columns] ** 2))

    def components(rows):
        n_components = min(rank, len(rows), n_features)
        return PCA(n_components, svd_solver="full").fit(np.repeat(Z[rows], weight[rows], axis=0))

    every = np.arange(n_samples)
    path = np.empty((len(_PENALTIES), *y.shape))
    for fold in folds:
        rows = np.setdiff1d(every, fold)
        T = components(every if n_samples <= n_features else rows).transform(Z)
        for predictions, penalty in zip(path, _PENALTIES, strict=True):
            predictions[fold] = Ridge(alpha=penalty).fit(T[rows], y[rows], weight[rows]).predict(T[fold])
    best = (weight @ ((path - y) ** 2).sum(2).T).argmin()
    T = components(every).transform(Z)
    coefficients, intercept, cv = solve_ridge(
        torch.tensor(X),
        torch.tensor(y),
        [torch.tensor(fold) for fold in folds],
        blocks=blocks,
        mixes=[Mix(shares, rank=rank, fades=fades)],
        units=torch.arange(n_features),
        fading=torch.tensor(fading),
        weight=torch.tensor(weight),
    )
    expected = Ridge(alpha=_PENALTIES[best]).fit(T, y, weight).predict(T)
    np.testing.assert_allclose(X @ coefficients.numpy() + intercept.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(cv.numpy(), path[best], atol=1e-5)


@pytest.mark.parametrize(
    ("gains", "weight", "lead", "expected"),
    [
        ([1, 1], [1, 1], 2, True),
        ([0, 0], [1, 1], 2, False),
        ([9, 1], [90, 10], 2, True),  # each sample gains as much
        ([1, 9], [90, 10], 2, False),
        ([0.9, 0.1], [1, 1], 0, True),
        ([-0.9, 0.8], [1, 1], 0, False),
        ([1, 2, 3, 4, 5], [1] * 5, 4.24, True),  # mean 3, standard error sqrt(2.5 / 5)
        ([1, 2, 3, 4, 5], [1] * 5, 4.25, False),
    ],
)
def test_a_lead_is_counted_in_standard_errors_of_the_folds(gains, weight, lead, expected):
    gains, weight = torch.tensor(gains, dtype=torch.float64), torch.tensor(weight, dtype=torch.float64)
    folds = torch.arange(2 * len(gains)).view(-1, 2)
    gains, weight = gains.repeat_interleave(2) / 2, weight.repeat_interleave(2) / 2
    before = torch.full_like(gains, 10.0)
    assert bool(_leads(before, before - gains, weight, folds, Mix((1,), lead=lead))) is expected
    share = float(gains.sum() / before.sum())
    assert bool(_leads(before, before - gains, weight, folds, Mix((1,), lead=lead, gain=share - 1e-6))) is expected
    assert not _leads(before, before - gains, weight, folds, Mix((1,), lead=lead, gain=share + 1e-6))


def test_movements_are_not_chosen_by_luck():
    torch.manual_seed(0)
    bank = KernelBank((6, 4, 4, 1), 12)
    X = torch.randn(40, 6, 4, 4, 1)
    bank.calibrate(X)
    features, folds = bank(X), torch.arange(40).tensor_split(5)
    movements = torch.arange(bank.width).split(bank.blocks)[1]

    def reads_movements(y, mixes):
        coefficients, *_ = solve_ridge(features, y, folds, blocks=bank.blocks, mixes=mixes, units=bank.units())
        return bool(coefficients[movements].any())

    mixes = bank.mixes(len(X))
    at_once = [mix._replace(lead=0.0) for mix in mixes]
    noise = torch.randn(30, 40, 1)
    assert sum(reads_movements(y, at_once) for y in noise) > 10
    assert sum(reads_movements(y, mixes) for y in noise) < 5
    assert reads_movements(X.diff(dim=1).abs().mean((1, 2, 3)), mixes)


@pytest.mark.parametrize(
    ("few_samples", "noise", "rank"),
    [(2000, 10, 20), (2000, 0, 30), (50, 10, 30)],  # what little is there; clearly more; many images
)
def test_levels_of_few_images_are_read_as_twenty_components_or_clearly_more(monkeypatch, few_samples, noise, rank):
    monkeypatch.setattr(_bank, "FEW_SAMPLES", few_samples)
    random = np.random.default_rng(0)
    X = random.normal(size=(100, 3, 6, 6, 1))
    y = X.mean(axis=1).reshape(100, -1)[:, :30] + noise * random.normal(size=(100, 30))
    model = CNNLSTMRegressor(conv_bank=3, max_epochs=1, random_state=0).fit(X, y)
    coefficients = model.net_.module_.join.readout.coefficients
    assert torch.linalg.matrix_rank(coefficients.double(), rtol=1e-5) == rank


def test_frozen_side_alone_tells_frequencies_apart():
    random = np.random.default_rng(0)
    y = np.arange(60) % 2
    phase = random.uniform(0, 6, size=60)
    X = np.sin(np.arange(60) * np.where(y, 0.5, 0.8)[:, None] + phase[:, None])[:, :, None]
    model = CNNLSTMClassifier(conv_bank=84, max_epochs=1, random_state=0).fit(X[:40], y[:40])
    module = model.net_.module_
    features = module.features(torch.tensor(X[40:], dtype=torch.float32))
    assert (module.join.readout(features).argmax(1).numpy() == y[40:]).all()


@pytest.mark.parametrize(
    ("cls", "shape", "varies"),
    [
        (CNNLSTMClassifier, (20, 2), True),
        (CNNLSTMClassifier, (4, 8, 8, 1), False),
        (CNNLSTMRegressor, (20, 2), False),
    ],
)
def test_size_is_varied_where_a_label_does_not_depend_on_it(cls, shape, varies):
    X = np.random.default_rng(0).normal(size=(12, *shape))
    model = cls(conv_bank=10, max_epochs=1, random_state=0).fit(X, np.arange(12) % 2)
    vary = model.net_.module_.train().vary
    assert torch.equal(vary(torch.ones(2, *shape)), torch.ones(2, *shape)) != varies


def levels(n_samples=300):
    """Series and their mean, which is one of the frozen features."""
    X = np.random.default_rng(0).normal(size=(n_samples, 20, 1)).astype(np.float32)
    return X, X.mean(axis=(1, 2))


def test_learned_network_that_is_clearly_worse_is_not_trusted():
    model = CNNLSTMRegressor(conv_bank=20, max_epochs=1, random_state=0).fit(*levels(900))
    assert model.net_.module_.join.trust < 0.1


def trust(base, learned, y, weight=None):
    """What a blend chooses by samples (sample,) of one target."""
    base, learned, y = (values[:, None] for values in (base, learned, y))
    join = Blend(KernelBank((20, 1), 20), 1, 8, ())
    return float(join.choose(base, (learned,), y, torch.ones(len(y)) if weight is None else weight, None))


USUAL_TRUST = float(Blend(KernelBank((20, 1), 20), 1, 8, ()).trust)


def test_learned_network_has_its_usual_say_where_nothing_tells():
    same = torch.arange(60.0)
    assert trust(same, same, same + 1) == pytest.approx(USUAL_TRUST)
    assert trust(same, same + torch.nan, same) == pytest.approx(USUAL_TRUST)
    assert trust(same[:1], same[:1] + 1, same[:1]) == pytest.approx(USUAL_TRUST)


@pytest.mark.parametrize("least_squares", [0.8, 0.1])
def test_trust_is_that_of_least_squares_where_samples_tell_it(least_squares):
    base, learned, noise = torch.randn((3, 600), generator=torch.Generator().manual_seed(0))
    y = torch.lerp(base, learned, torch.tensor(least_squares)) + 0.01 * noise
    assert trust(base, learned, y) == pytest.approx(least_squares, abs=0.01)
    assert trust(base, learned, y + 30 * noise) == pytest.approx(USUAL_TRUST, abs=0.1)
    outside = torch.lerp(base, learned, torch.tensor(-3.0 if least_squares < 0.5 else 3.0))
    assert trust(base, learned, outside) == (least_squares > 0.5)


def test_neighbours_that_err_together_do_not_tell_much():
    """400 samples in a row, of which half are best with the network and half without it, or all of these mixed."""
    base, learned = torch.zeros(400), torch.ones(400)
    in_a_row = torch.cat([torch.full((200,), 1.5), torch.full((200,), 0.1)])
    mixed = in_a_row[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    assert trust(base, learned, in_a_row) < 0.5 * USUAL_TRUST
    assert trust(base, learned, mixed) == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize(
    ("errors", "weights", "alike", "independent", "spread"),
    [
        # by hand: products of neighbours by squares, of (error * root of weight); samples that count; mean square
        ((1.0, -1.0), (1.0, 1.0), 25 / 48, 48, 1.0),
        ((1.0, -4.0), (4.0, 1.0), 272 / 480, 120**2 / 408, 480 / 120),
    ],
)
def test_trust_worked_out_by_hand(errors, weights, alike, independent, spread):
    """Six parts, in each four neighbours that miss by the first error and four by the second; 0.9 is best."""
    error, weight = (torch.tensor(pair).repeat_interleave(4).repeat(6) for pair in (errors, weights))
    as_one = (1 + alike) / (1 - alike)
    usual, deviation = 0.35 / as_one**0.5, 0.3 / as_one**0.5
    told = deviation**2 / (deviation**2 + spread * as_one / independent)
    expected = usual + told * (0.9 - usual)
    assert trust(0 * error, 1 + 0 * error, 0.9 + error, weight) == pytest.approx(expected, rel=1e-5)


def test_few_samples_or_weights_tell_little_of_the_trust():
    """y is 0.9 of the way to the network, and noise as large as the way."""
    learned, noise = torch.ones(600), torch.randn(600, generator=torch.Generator().manual_seed(0))
    y = 0.9 + noise - noise.mean()
    many = trust(learned * 0, learned, y)
    assert many == pytest.approx(0.9, abs=0.05)
    few = torch.tensor([0.9, 1.9, -0.1])
    assert trust(torch.zeros(3), torch.ones(3), few) < USUAL_TRUST + 0.5 * (many - USUAL_TRUST)
    one_counts = torch.where(torch.arange(600) == 0, 1e6, 1.0)
    assert trust(learned * 0, learned, y, one_counts) < USUAL_TRUST + 0.3 * (many - USUAL_TRUST)


def test_samples_tell_of_the_trust_as_many_as_they_are_unless_neighbours_err_together():
    learned, noise = torch.ones(600), torch.randn(600, generator=torch.Generator().manual_seed(0))
    y = 0.9 + noise - noise.mean()
    runs = 3 * torch.randn(10, generator=torch.Generator().manual_seed(1))
    in_a_row = 0.9 + (runs - runs.mean()).repeat_interleave(10).repeat(6)  # by sixths all are alike
    mixed = in_a_row.view(6, 100)[:, torch.randperm(100, generator=torch.Generator().manual_seed(2))].flatten()
    of_runs, of_mixed = (trust(learned * 0, learned, y) for y in (in_a_row, mixed))
    assert of_runs < USUAL_TRUST < of_mixed - 0.2
    assert trust(learned * 0, learned, 0.9 * learned) == pytest.approx(0.9)
    bad, weight = torch.full((100,), 50.0), torch.ones(700)
    weight[600:] = 1e-9  # neighbours that err alike, and do not count
    between = torch.stack([in_a_row, torch.full((600,), 50.0)], 1).flatten()
    ones, every_other = torch.ones(1200), torch.tensor([1.0, 1e-9]).repeat(600)
    assert trust(ones * 0, ones, between, every_other) == pytest.approx(of_runs)
    alone, more = trust(learned * 0, learned, y), torch.ones(700)
    assert trust(more * 0, more, torch.cat([y, bad]), weight) == pytest.approx(alone, abs=0.03)


def test_where_neighbours_err_alike_less_trust_is_usual():
    """Nothing tells: of two walks one is as far from the target as the other."""
    steps = torch.randn(2, 2000, generator=torch.Generator().manual_seed(0))
    walk, other = steps.cumsum(1)
    assert trust(walk, other, 0 * walk) < 0.3 * USUAL_TRUST


def test_held_out_samples_of_a_group_stand_side_by_side():
    groups = np.arange(60) % 20
    parts = CNNLSTMRegressor()._parts(np.arange(60.0), groups, 6)
    assert all((np.diff(groups[part]) >= 0).all() for part in parts)
    assert (np.sort(np.concatenate(parts)) == np.arange(60)).all()


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "huber", "quantile"])
def test_network_beside_an_exact_readout_is_not_trusted_whatever_the_loss(loss):
    X, y = levels(900)
    model = CNNLSTMRegressor(loss=loss, conv_bank=20, max_epochs=1, random_state=0).fit(X, y)
    assert model.net_.module_.join.trust < 0.05


def test_trust_outlives_the_return_of_the_best_weights():
    best = EarlyStopping("train_loss", patience=50, load_best=True, sink=lambda text: None)
    model = CNNLSTMRegressor(conv_bank=20, max_epochs=1, net_callbacks=[best], random_state=0).fit(*levels(900))
    assert model.net_.module_.join.trust < 0.1


def test_best_epochs_validation_loss_is_that_of_the_model():
    random = np.random.default_rng(0)
    X, y = random.normal(size=(60, 30, 1)), random.normal(size=60)
    params = {"n_iter_no_change": 50, "scoring": "neg_mean_squared_error", "random_state": 0}
    model = CNNLSTMRegressor(conv_bank=20, max_epochs=20, **params).fit(X[:45], y[:45], X_val=X[45:], y_val=y[45:])
    error = ((model.predict(X[45:]) - y[45:]) ** 2).mean()
    np.testing.assert_allclose(-model.history_["valid_score"][model.best_epoch_ - 1], error, rtol=1e-4)


def test_warm_start_learns_its_trust_anew_and_keeps_the_meaning_of_its_answers():
    X, y = levels()
    model = CNNLSTMRegressor(conv_bank=20, max_epochs=1, warm_start=True, random_state=0).fit(X, y)
    model.net_.module_.join.trust.fill_(0.875)
    model.fit(X, X[:, -1, 0])  # which would persist
    assert model.net_.module_.join.trust < 0.1
    assert model.net_.module_.start is None


def test_regressor_continues_a_target_that_persists():
    """Where the levels of a random walk lie beyond those of the training data, a linear model of levels still knows."""
    random = np.random.default_rng(0)
    walk = random.normal(size=700).cumsum()
    series = np.stack([random.normal(size=700), walk], axis=1).astype(np.float32)
    X = np.stack([series[i : i + 20] for i in range(600)])
    y = np.stack([series[i + 20 : i + 23, 1] for i in range(600)])
    X_far, y_far = X[450:] + np.float32([0, 5 * walk.std()]), y[450:] + 5 * walk.std()
    model = CNNLSTMRegressor(conv_bank=84, max_epochs=5, random_state=0).fit(X[:450], y[:450])
    persistence = X_far[:, -1, 1:]
    error = ((model.predict(X_far) - y_far) ** 2).mean()
    assert error < 2 * ((persistence - y_far) ** 2).mean()
    start = model.net_.module_.start_of(torch.tensor(X)).numpy()
    mean, scale = model.net_.module_.target_statistics()
    change = start * scale + mean - X[:, -1, 1:]
    np.testing.assert_allclose(change, np.broadcast_to(change.mean(axis=0), change.shape), atol=0.02)


def test_a_target_may_persist_in_another_unit_than_the_channel_is_in():
    """Kelvin to degrees: a shift a thousand times as large as the spread is none of the network's business."""
    random = np.random.default_rng(0)
    series = 293 + 0.1 * random.normal(size=340).cumsum()
    X = np.stack([series[i : i + 20] for i in range(300)])[:, :, None].astype(np.float32)
    y = np.stack([series[i + 20] for i in range(300)])
    params = {"conv_bank": 84, "max_epochs": 5, "early_stopping": True, "random_state": 0}
    errors = [
        ((CNNLSTMRegressor(**params).fit(X, y - shift).predict(X) - (y - shift)) ** 2).mean() for shift in (0, 5000)
    ]
    assert errors[1] == pytest.approx(errors[0], rel=0.1)


def test_samples_of_no_weight_do_not_tell_what_persists():
    random = np.random.default_rng(0)
    X = random.normal(size=(120, 20, 1)).astype(np.float32)
    y = np.where(np.arange(120) < 60, X[:, -1, 0], random.normal(size=120))
    weight = np.where(np.arange(120) < 60, 1.0, 1e-6)
    model = CNNLSTMRegressor(conv_bank=20, max_epochs=1, random_state=0)
    assert model.fit(X, y, sample_weight=weight).net_.module_.start.slope.item() > 0
    assert model.fit(X, y, sample_weight=weight[::-1]).net_.module_.start is None


def test_regressor_starts_from_nothing_where_no_channel_tells():
    random = np.random.default_rng(0)
    X = random.normal(size=(60, 20, 2)).astype(np.float32)
    model = CNNLSTMRegressor(conv_bank=20, max_epochs=1, random_state=0).fit(X, X[:, -1, 0] + 2 * X[:, 3, 1])
    assert model.net_.module_.start is None


def test_ridge_takes_the_place_of_the_median_and_quantiles_keep_their_distance():
    random = np.random.default_rng(0)
    X, y = random.normal(size=(60, 20, 1)), random.normal(size=60)
    params = {"loss": "quantile", "quantiles": (0.5, 0.9, 0.95), "max_epochs": 2, "random_state": 0}
    model = CNNLSTMRegressor(conv_bank=20, **params).fit(X, y)
    module, answers = model.net_.module_, []
    module.join.shift.zero_()
    for trust in (0.0, 1.0):
        module.join.trust.fill_(trust)
        answers.append(model.predict_quantiles(X))
    np.testing.assert_allclose(np.diff(answers[0]), np.diff(answers[1]), atol=1e-5)
    base = module.join.base(module.features(torch.tensor(X, dtype=torch.float32))).numpy()
    mean, scale = module.target_statistics()
    np.testing.assert_allclose(answers[0][:, 0], base[:, 0] * scale + mean, atol=1e-5)


def quantile_blend(quantiles, n_outputs=1):
    return Blend(KernelBank((20, 1), 20), n_outputs, 8, quantiles)


def settled(quantiles, y, weight=None, learned=0.0):
    """A blend whose network learned these quantiles of (sample, output) y, whatever X, that has seen how y lies."""
    n_samples, n_outputs = y.shape
    join = quantile_blend(quantiles, n_outputs)
    base = torch.zeros(n_samples, n_outputs)
    opinion = torch.as_tensor(learned).expand(n_samples, n_outputs, len(quantiles))
    weight = torch.ones(n_samples) if weight is None else torch.as_tensor(weight)
    join.settle(base, (opinion,), torch.as_tensor(y, dtype=torch.float32), weight, None)
    return join


def test_quantiles_are_as_far_apart_as_those_of_samples_left_out():
    levels = (0.05, 0.3, 0.5, 0.95)
    y = np.random.default_rng(0).normal(size=(500, 2)) * [1, 3]
    learned = torch.tensor([-0.2, -0.1, 0.0, 0.1])
    join = settled(levels, y, learned=learned)
    expected = np.quantile(y, levels, axis=0, method="averaged_inverted_cdf").T
    np.testing.assert_allclose(join.shift + learned, expected - expected[:, [2]], atol=1e-5)


def test_mirrored_samples_give_mirrored_quantiles():
    y = np.random.default_rng(0).normal(size=(20, 1))
    levels = (0.1, 0.25, 0.5, 0.75, 0.9)
    torch.testing.assert_close(settled(levels, y).shift, -settled(levels, -y).shift.flip(-1))


def test_weights_count_as_copies_where_quantiles_are_set_apart():
    y, weight = np.random.default_rng(0).normal(size=(60, 1)), np.arange(60) % 3
    weighted, copied = settled((0.1, 0.5, 0.9), y, weight), settled((0.1, 0.5, 0.9), y.repeat(weight, axis=0))
    torch.testing.assert_close(weighted.shift, copied.shift)


@pytest.mark.parametrize("n_samples", [1, 4])
def test_few_samples_left_out_tell_nothing_of_quantiles(n_samples):
    y = np.arange(n_samples)[:, np.newaxis]
    assert not settled((0.1, 0.5, 0.9), y, learned=torch.tensor([-1.0, 0.0, 1.0])).shift.any()


def test_quantiles_that_cross_give_way_to_the_median():
    join = quantile_blend((0.1, 0.3, 0.5, 0.7, 0.9))
    answer = join._in_order(torch.tensor([[[0.1, -0.2, 0.0, 0.3, 0.2]]]))
    torch.testing.assert_close(answer, torch.tensor([[[-0.2, -0.2, 0.0, 0.3, 0.3]]]))


def noisy_means(n_samples, seed=0):
    random = np.random.default_rng(seed)
    X = random.normal(size=(n_samples, 16, 1)).astype(np.float32)
    return X, X[:, -3:].mean(axis=(1, 2)) + random.normal(size=n_samples)


def test_intervals_of_what_a_network_learned_by_heart_hold_nearly_what_they_promise():
    X, y = noisy_means(2400)
    model = CNNLSTMRegressor(loss="quantile", max_epochs=40, random_state=0).fit(X[:400], y[:400])
    assert model.conv_bank_ > 0

    def coverage():
        low, _, high = model.predict_quantiles(X[400:]).T
        return ((low <= y[400:]) & (y[400:] <= high)).mean()

    covered = coverage()
    model.net_.module_.join.shift.zero_()
    assert coverage() < 0.75 < 0.8 < covered < 0.97


def test_samples_sorted_by_their_target_do_not_draw_the_median_to_theirs():
    X, y = noisy_means(900)
    order = np.argsort(y[:300])
    params = {"conv_bank": 84, "conv_channels": (8,), "max_epochs": 10, "random_state": 0}
    means, medians = (
        CNNLSTMRegressor(loss=loss, **params).fit(X[order], y[order]).predict(X[300:])
        for loss in ("squared_error", "quantile")
    )
    assert abs(medians.mean() - means.mean()) < 0.15


def test_early_stopping_leaves_quantiles_as_they_were_learned():
    X = np.random.default_rng(0).normal(size=(60, 12, 1))
    model = CNNLSTMRegressor(loss="quantile", early_stopping=True, max_epochs=2, random_state=0)
    assert not model.fit(X, X[:, -1, 0]).net_.module_.join.shift.any()


@pytest.mark.parametrize("target", ["step", "map"])
def test_answers_of_another_shape_have_no_frozen_side(target):
    random = np.random.default_rng(0)
    X = random.normal(size=(12, 10, 2) if target == "step" else (12, 4, 6, 6, 1))
    y = X[..., 0] if target == "step" else X[:, -1, :, :, 0]
    model = CNNLSTMRegressor(conv_bank=10, target=target, max_epochs=1, random_state=0).fit(X, y)
    assert model.conv_bank_ == 0
    assert model.predict(X).shape == y.shape


def test_classes_of_one_sample_each_train():
    X = np.random.default_rng(0).normal(size=(12, 20, 2))
    model = CNNLSTMClassifier(max_epochs=1, random_state=0).fit(X, np.arange(12))
    assert model.conv_bank_ > 0
    assert model.predict_proba(X).shape == (12, 12)


@pytest.mark.parametrize("cls", [CNNLSTMClassifier, CNNLSTMRegressor])
def test_one_sample_leaves_nothing_to_validate_a_readout_on(cls):
    X = np.random.default_rng(0).normal(size=(1, 20, 2))
    model = cls(conv_bank=10, max_epochs=1, random_state=0).fit(X, [1])
    assert model.conv_bank_ == 0
    assert model.predict(X).shape == (1,)


def test_frozen_side_stays_as_it_is_in_training():
    random = np.random.default_rng(0)
    X, y = random.normal(size=(40, 30, 2)), np.arange(40) % 2
    states = [
        CNNLSTMClassifier(conv_bank=20, max_epochs=epochs, random_state=0).fit(X, y).net_.module_.state_dict()
        for epochs in (1, 3)
    ]
    for name in ("bank.weight", "bank.threshold", "join.readout.coefficients", "join.norm.mean"):
        assert torch.equal(states[0][name], states[1][name])
    assert not torch.equal(states[0]["join.head.weight"], states[1]["join.head.weight"])


def test_vote_on_frames_is_trusted_as_far_as_makes_the_loss_least():
    random = np.random.default_rng(0)
    X = random.normal(size=(60, 6, 8, 8, 1)).astype(np.float32)
    y = (X[:, :, :4].mean(axis=(1, 2, 3, 4)) > 0).astype(int)
    model = CNNLSTMClassifier(conv_bank=24, max_epochs=10, random_state=0).fit(X[:40], y[:40])
    net, module = model.net_, model.net_.module_
    samples = Samples(X[40:], y[40:])
    with torch.no_grad():
        samples.base = module.join.readout(module.features(torch.tensor(X[40:])))
        module.join.trust.fill_(-1.0)
        net._settle(samples)
        chosen, losses = module.join.trust.item(), []
        for trust in np.linspace(0, 1, 41):
            module.join.trust.fill_(trust)
            losses.append(net.criterion_(module(torch.tensor(X[40:])), samples.y).mean())
    assert chosen == pytest.approx(np.argmin(losses) / 40, abs=0.03)


def test_kernels_see_what_moves_in_frames_and_levels_what_stands():
    random = np.random.default_rng(0)
    X = torch.tensor(random.normal(size=(8, 6, 8, 8, 1)), dtype=torch.float32)
    background = torch.tensor(random.normal(size=(8, 1, 8, 8, 1)), dtype=torch.float32)
    bank = KernelBank((6, 8, 8, 1), 24)
    bank.calibrate(X)
    levels, changes, *shares = bank(X).split(bank.blocks, dim=1)
    levels_before, changes_before, *shares_before = bank(X + background).split(bank.blocks, dim=1)
    torch.testing.assert_close(changes, changes_before, atol=1e-3, rtol=0)
    for now, before in zip(shares, shares_before, strict=True):
        assert (now - before).abs().mean() < 1e-3
    assert (levels - levels_before).abs().mean() > 0.1


def test_columns_in_different_units_are_each_scaled_by_itself():
    X, y = load_wine(return_X_y=True)
    X = np.roll(X, 3, axis=1)
    units = np.array([1.0, 1000.0] * 6 + [1.0])
    models = [CNNLSTMClassifier(max_epochs=2, random_state=0).fit(table, y) for table in (X, X * units)]
    np.testing.assert_allclose(models[0].predict_proba(X), models[1].predict_proba(X * units), atol=1e-3)
    assert CNNLSTMClassifier(max_epochs=1).fit(X[:, :3] * 0 + 1, y).net_.module_.input_mean.shape == (1,)


# -- what has a say


def three_classes(n=60):
    """Series of three classes, which differ in their shape."""
    random = np.random.default_rng(0)
    y = np.arange(n) % 3
    X = random.normal(size=(n, 40, 1)) + 2 * np.sin(np.arange(40)[:, None] * (0.3 + 0.4 * y[:, None, None]))
    return X.astype(np.float32), y


def test_class_of_weight_0_is_as_good_as_absent():
    X, y = three_classes()
    params = {"conv_bank": 84, "max_epochs": 2, "random_state": 0}
    weighted = CNNLSTMClassifier(class_weight={0: 1, 1: 1, 2: 0}, **params).fit(X, y)
    left_out = CNNLSTMClassifier(**params).fit(X, y, sample_weight=(y < 2).astype(float))
    np.testing.assert_array_equal(weighted.predict_proba(X), left_out.predict_proba(X))
    kernels = weighted.net_.module_.join.readout.coefficients[weighted.net_.module_.bank.blocks[0] :]
    assert kernels.isfinite().all()
    assert weighted.score(X[y < 2], y[y < 2]) > 0.9


def test_samples_of_next_to_no_weight_are_left_out():
    X, y = three_classes()
    weight = 10.0 ** -np.arange(60)  # the last are less than the least of float32
    params = {"conv_bank": 20, "max_epochs": 2, "random_state": 0}
    all_rows = CNNLSTMClassifier(**params).fit(X, y, sample_weight=weight)
    first_rows = CNNLSTMClassifier(**params).fit(X[:19], y[:19], sample_weight=weight[:19])
    assert np.isfinite(all_rows.history_["train_loss"]).all()
    np.testing.assert_allclose(all_rows.predict_proba(X), first_rows.predict_proba(X), atol=1e-4)


def test_labels_that_all_have_weight_0_are_refused():
    X, y = three_classes()
    model = CNNLSTMClassifier(class_weight={0: 1, 1: 1, 2: 0}, max_epochs=1, random_state=0)
    expected = model.partial_fit(X, y, classes=[0, 1, 2]).predict_proba(X)
    ignored = y == 2
    with pytest.raises(ValueError, match="class_weight for the labels of y, is 0 for all 20 samples of X"):
        model.partial_fit(X[ignored], y[ignored])
    with pytest.raises(ValueError, match="is 0 for all 20 samples of the validation part"):
        model.fit(X, y, X_val=X[ignored], y_val=y[ignored])
    np.testing.assert_array_equal(model.predict_proba(X), expected)


def test_logits_are_scaled_by_those_that_have_weight():
    loss = SampleLoss("cross_entropy")
    output = 0.2 * torch.tensor([[-1.0, 1], [-1, 1], [1, -1], [1, -1]])
    y = torch.tensor([1, 1, 1, 1])  # the last two are wrong
    right, all_alike = torch.tensor([1.0, 1, 0, 0]), torch.ones(4)
    assert loss.factor(output, y, right) == pytest.approx(np.log(0.995 / 0.005) / 0.4, rel=0.04)
    assert loss.factor(output, y, all_alike) == 1


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy"])
def test_scale_of_logits_is_that_of_the_least_log_loss_whatever_smooths_the_training(name, smoothing):
    random = np.random.default_rng(0)
    y = random.integers(3, size=400)
    codes = 2.0 * np.eye(3)[y] - 1
    output = 0.2 * codes + random.normal(scale=0.25, size=codes.shape)

    def loss(factor):
        logits = factor * output
        if name == "cross_entropy":
            return -np.mean((0.99 * np.eye(3)[y] + 0.01 / 3) * log_softmax(logits, axis=1))
        share = 0.99 * (codes > 0) + 0.005
        return -np.mean(share * log_expit(logits) + (1 - share) * log_expit(-logits))

    target = torch.as_tensor(y) if name == "cross_entropy" else torch.as_tensor(codes > 0).float()
    found = SampleLoss(name, smoothing).factor(torch.as_tensor(output), target, torch.ones(400))
    assert found == pytest.approx(minimize_scalar(loss, (1, 20)).x, rel=0.05)


@pytest.mark.parametrize("n_groups", [2, 5, 12])
def test_what_shows_how_far_to_trust_divides_no_group(n_groups, monkeypatch):
    random = np.random.default_rng(0)
    X, groups = random.normal(size=(60, 20, 1)), np.sort(np.arange(60) % n_groups)
    parts, hold_out = [], TrainingNet._hold_out

    def spy(net, train):
        parts.extend(hold_out(net, train))
        return parts

    monkeypatch.setattr(TrainingNet, "_hold_out", spy)
    CNNLSTMRegressor(conv_bank=10, max_epochs=1, random_state=0).fit(X, random.normal(size=60), groups=groups)
    trained, held_out = (set(groups[part.index]) for part in parts)
    assert not trained & held_out
    assert sum(map(len, parts)) == 60
    assert len(parts[1]) <= 60 / min(n_groups, 6)


def test_what_shows_how_far_to_trust_has_all_classes(monkeypatch):
    random = np.random.default_rng(0)
    X, y = random.normal(size=(48, 3, 6, 6, 1)), np.sort(np.arange(48) % 4)
    parts, hold_out = [], TrainingNet._hold_out
    monkeypatch.setattr(TrainingNet, "_hold_out", lambda *args: parts.extend(hold_out(*args)) or parts)
    CNNLSTMClassifier(conv_bank=24, max_epochs=1, random_state=0).fit(X, y)
    assert np.bincount(y[parts[1].index]).tolist() == [2, 2, 2, 2]


# -- arithmetic


@pytest.mark.parametrize("shape", SHAPES)
def test_features_are_those_of_float32_under_autocast(shape):
    X = torch.randn(7, *shape)
    bank = calibrated_bank(shape, 30, X)
    with torch.autocast("cpu", torch.bfloat16):
        features = bank(X)
    assert torch.equal(features, bank(X))


def test_the_addends_of_a_value_are_exact_in_the_arithmetic_of_tensor_cores():
    X = _rounded(20 * torch.randn(1000).clamp(-1, 1))
    addends = _in_two(X)
    assert torch.equal(sum(addends), X)
    for addend in addends:
        assert torch.equal(addend.half().float(), addend)  # eleven binary digits, as TF32 has them
    weight = CompetingKernels((300, 5), 32).weight
    assert torch.equal(weight.half().float(), weight)


def test_model_of_many_kernels_learns_in_bfloat16():
    X, y = three_classes()
    models = [
        CNNLSTMClassifier(conv_bank=84, max_epochs=2, precision=precision, random_state=0).fit(X, y)
        for precision in ("bfloat16", "float32")
    ]
    states = [model.net_.module_.join.readout.coefficients for model in models]
    torch.testing.assert_close(*states)


# -- what a forecast reads


def walks(n=500, seed=0):
    """Windows of a random walk beside noise, and the walk's next two values."""
    random = np.random.default_rng(seed)
    series = np.stack([random.normal(size=n + 22), random.normal(size=n + 22).cumsum()], axis=1)
    X = np.stack([series[i : i + 20] for i in range(n)]).astype(np.float32)
    return X, np.stack([series[i + 20 : i + 22, 1] for i in range(n)])


@pytest.mark.parametrize(("n_channels", "n_parts"), [(3, 32), (32, 32), (64, 16), (1000, 8)])
def test_levels_of_many_channels_are_means_of_fewer_parts(n_channels, n_parts):
    X = torch.randn(2, 64, n_channels)
    levels = KernelBank((64, n_channels), 84)(X)[:, : (5 + n_parts) * n_channels].unflatten(1, (n_channels, -1))
    expected = X.unflatten(1, (n_parts, -1)).mean(2).mT
    torch.testing.assert_close(levels[:, :, 5:], expected, atol=1e-3, rtol=0)  # the bank rounds to a grid
    assert KernelBank((6, n_channels), 84).n_steps == 6


def test_numbers_are_read_off_single_steps_of_series():
    random = np.random.default_rng(0)
    X = random.normal(size=(300, 100, 2)).astype(np.float32)
    y = X[:, 50, 0] - X[:, 51, 0]
    module = CNNLSTMRegressor(max_epochs=1, random_state=0).fit(X, y).net_.module_
    assert module.bank.n_steps == 100
    module.join.trust.fill_(0.0)
    with torch.no_grad():
        answer = module(torch.tensor(X))[:, 0].numpy()
    assert np.corrcoef(answer, y)[0, 1] > 0.95
    assert KernelBank((100, 2), 84).n_steps == 32  # of classes
    assert KernelBank((100, 8, 2), 84, fineness=FOR_NUMBERS).n_steps == 32  # of frames
    assert KernelBank((28, 49), 84, fineness=FOR_NUMBERS).n_steps == 28
    assert KernelBank((28, 100), 84, fineness=FOR_NUMBERS).n_steps == 20


def test_levels_of_ragged_series_are_tried_in_small_parts(monkeypatch):
    X, y = walks(150)
    loss_of_levels, forward, seen, losses = BankCNNLSTM.loss_of_levels, Levels._of_channels, [], []
    monkeypatch.setattr(Levels, "_of_channels", lambda *args: seen.append(len(args[1])) or forward(*args))

    def watched(self, *args, **keywords):
        seen.clear()
        losses.append(loss_of_levels(self, *args, **keywords))
        assert max(seen) == (150 if args[2] is None else 64)
        assert sum(seen) == 150
        return losses[-1]

    monkeypatch.setattr(BankCNNLSTM, "loss_of_levels", watched)
    for as_given in (X, [*X[:-1], X[-1][1:]]):
        CNNLSTMRegressor(max_epochs=1, random_state=0).fit(as_given, y)
    assert losses[:2] == pytest.approx(losses[2:], rel=0.05)


def test_levels_from_the_last_value_do_not_depend_on_where_they_are():
    X, _ = walks(40)
    bank = LevelsFromLast((20, 2), knows_last=False)
    features = bank(torch.tensor(X))
    assert features.shape == (40, bank.width)
    torch.testing.assert_close(bank(torch.tensor(X + np.float32([3, -7]))), features, atol=1e-4, rtol=1e-4)
    lengths = torch.tensor([20, 9, 1] + [20] * 37)
    padded = torch.tensor(X) * (torch.arange(20) < lengths[:, None])[:, :, None]
    alone = torch.cat([bank(torch.tensor(x[None, :length])) for x, length in zip(X, lengths, strict=True)])
    torch.testing.assert_close(bank(padded, lengths), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stays", [0.7, 1.0])
def test_last_values_are_read_where_what_is_high_falls(stays):
    random = np.random.default_rng(0)
    series = random.normal(size=(806, 3))
    for before, now in itertools.pairwise(series):
        now += stays * before
    X = np.stack([series[i : i + 6] for i in range(800)]).astype(np.float32)
    y = series[6:]
    module = CNNLSTMRegressor(max_epochs=1, random_state=0).fit(X[:600], y[:600]).net_.module_
    assert module.is_change
    of_last = module.join.readout.coefficients[-3:]
    assert of_last.any() == (stays < 1)
    module.join.trust.fill_(0.0)
    with torch.no_grad():
        answer = module(torch.tensor(X[600:])) * module.target_scale + module.target_mean
    assert ((answer.numpy() - y[600:]) ** 2).mean() < 1.1  # of noise with variance 1


def test_readout_of_changes_is_ridge_on_levels_from_the_last_value():
    X, y = walks()
    module = CNNLSTMRegressor(conv_bank=84, max_epochs=1, random_state=0).fit(X, y).net_.module_
    assert isinstance(module.bank, LevelsFromLast)
    assert module.join.readout.margin == 0.5
    module.join.trust.fill_(0.0)
    with torch.no_grad():
        answer, features = module(torch.tensor(X)), module.features(torch.tensor(X))
    change = (answer - module.start_of(torch.tensor(X))).numpy()
    known = np.c_[features.numpy(), np.ones(len(X))]
    assert np.abs(change - known @ np.linalg.lstsq(known, change, rcond=None)[0]).max() < 1e-4
    assert module.start.channel.tolist() == [1, 1]


def drifting(n=240, shift=2.0):
    """Windows of noise about a level that is another one every forty samples, and the next value."""
    random = np.random.default_rng(0)
    level = random.permutation(np.arange(n // 40)).repeat(40) * shift / 2 + shift * (np.arange(n) >= n // 2)
    series = random.normal(size=(n, 22)) + level[:, None]
    return series[:, :20, None].astype(np.float32), series[:, 20]


def test_levels_are_measured_from_the_last_value_where_they_drift():
    X, y = drifting()
    model = CNNLSTMRegressor(conv_bank=84, max_epochs=1, random_state=0).fit(X[:120], y[:120])
    assert isinstance(model.net_.module_.bank, LevelsFromLast)
    level = X.mean(axis=(1, 2))
    of_noise = CNNLSTMRegressor(conv_bank=84, max_epochs=1, random_state=0).fit(X - level[:, None, None], y - level)
    assert isinstance(of_noise.net_.module_.bank, KernelBank)


def test_a_channel_that_hardly_varies_is_none_that_the_target_continues():
    random = np.random.default_rng(0)
    time = random.uniform(0, 2 * np.pi, size=(200, 1)) + np.arange(20)
    X = np.stack([np.sin(time), 0.1 * random.normal(size=time.shape)], axis=2).astype(np.float32)
    y = np.cos(time[:, -1]) + 0.3 * random.normal(size=200)
    model = CNNLSTMRegressor(conv_bank=84, max_epochs=1, random_state=0).fit(X, y)
    assert model.net_.module_.start is None


def test_changes_of_several_channels_start_from_the_last_value_of_each():
    random = np.random.default_rng(0)
    series = random.normal(size=(522, 2)).cumsum(axis=0) * [1, 5]
    X = np.stack([series[i : i + 20] for i in range(500)]).astype(np.float32)
    y = np.stack([series[i + 20 : i + 22].T.ravel() for i in range(500)])
    module = CNNLSTMRegressor(conv_bank=84, max_epochs=1, random_state=0).fit(X, y).net_.module_
    assert module.is_change
    assert module.start.channel.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("constant", [5.0, 0.1, 1 / 3, 0.0])
def test_a_constant_target_changes_nothing(constant):
    X, y = walks(200)
    module = CNNLSTMRegressor(conv_bank=20, max_epochs=1, random_state=0)
    channels = module.fit(1e8 * X, np.c_[1e8 * y, np.full(200, constant)]).net_.module_.start.channel
    assert channels.tolist()[:2] == [1, 1]
    assert module.fit(1e8 * X, np.full(200, constant)).net_.module_.start is None


def test_what_weighs_nothing_does_not_tell_where_to_measure_from():
    X, y = walks(200)
    noise = np.random.default_rng(1).normal(size=(2000, 20, 2)).astype(np.float32) * X.std(axis=(0, 1))
    mixed, targets = np.concatenate([noise, X]), np.concatenate([np.full((2000, 2), y.mean()), y])
    weight = np.where(np.arange(2200) < 2000, 1e-9, 1.0)
    model = CNNLSTMRegressor(conv_bank=20, max_epochs=1, random_state=0).fit(mixed, targets, sample_weight=weight)
    assert model.net_.module_.is_change


def test_folds_that_tell_where_to_measure_from_divide_no_group(monkeypatch):
    X, y = walks(120)
    groups = np.random.default_rng(0).integers(12, size=120)
    seen, loss = [], BankCNNLSTM.loss_of_levels
    monkeypatch.setattr(
        BankCNNLSTM, "loss_of_levels", lambda *args, folds: seen.append(folds) or loss(*args, folds=folds)
    )
    CNNLSTMRegressor(conv_bank=84, max_epochs=1, random_state=0).fit(X, y, groups=groups)
    assert len(seen) == 2
    for folds in seen:
        assert sorted(np.concatenate(folds)) == list(range(120))
        parts = [set(groups[fold]) for fold in folds]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 12


def test_where_to_measure_from_is_found_by_a_moderate_part_of_the_values(monkeypatch):
    X, y = walks(300)
    monkeypatch.setattr(_estimators, "_TRIAL_VALUES", 60 * X[0].size)
    seen, loss = [], BankCNNLSTM.loss_of_levels
    monkeypatch.setattr(
        BankCNNLSTM, "loss_of_levels", lambda *args, folds: seen.append(len(args[2])) or loss(*args, folds=folds)
    )
    model = CNNLSTMRegressor(conv_bank=84, max_epochs=1, random_state=0).fit(X, y)
    assert seen == [60, 60]
    assert model.net_.module_.is_change


def test_network_answers_with_changes_in_units_of_the_spread_from_the_last_value_on():
    X, y = walks()
    X, y = np.concatenate([X, -X]), np.concatenate([y, -y])  # not skewed
    module = CNNLSTMRegressor(conv_bank=84, max_epochs=2, random_state=0).fit(X, y).net_.module_
    X = torch.tensor(X)

    def changes(X):
        with torch.no_grad():
            return module.learned(X)

    torch.testing.assert_close(changes(X + torch.tensor([3.0, -70.0])), changes(X), atol=1e-4, rtol=1e-3)
    wide = X[:, -1:] + 1000 * (X - X[:, -1:])
    torch.testing.assert_close(changes(X[:, -1:] + 2 * (wide - X[:, -1:])), 2 * changes(wide), atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("missing", ["mask", "ffill"])
@pytest.mark.parametrize("is_ragged", [False, True])
def test_changes_depend_on_neither_level_nor_mates_whatever_is_missing(missing, is_ragged):
    X, y = walks()
    X, y = np.concatenate([X, -X]), np.concatenate([y, -y])  # not skewed
    X[::7, -3:, 0], X[3::7, 4:9, 1] = np.nan, np.nan
    if missing == "mask":  # else the mean stands before the first value
        X[5::7, :6, 1], X[4::14, :, 0] = np.nan, np.nan
    if is_ragged:
        X = [x[: len(x) - i % 9] for i, x in enumerate(X)]
    model = CNNLSTMRegressor(conv_bank=20, max_epochs=2, missing=missing, random_state=0).fit(X, y)
    assert model.net_.module_.is_change
    far = [x + np.float32([300, -300]) for x in X[:60]]
    predicted = model.predict(X[:60])
    assert np.isfinite(predicted).all()
    np.testing.assert_allclose(model.predict(far) + 300, predicted, atol=2e-3)
    np.testing.assert_allclose(
        np.concatenate([model.predict(X[i : i + 1]) for i in range(20)]), predicted[:20], atol=1e-4
    )


def test_quantiles_of_changes():
    X, y = walks(200)
    model = CNNLSTMRegressor(loss="quantile", conv_bank=20, max_epochs=2, random_state=0).fit(X, y)
    assert model.net_.module_.is_change
    assert model.predict_quantiles(X).shape == (200, 2, 3)
    assert (np.diff(model.predict_quantiles(X), axis=2) >= 0).all()


def test_kernels_stay_where_not_all_targets_persist():
    X, y = walks()
    y[:, 1] = X[:, :, 0].max(axis=1)
    module = CNNLSTMRegressor(conv_bank=84, max_epochs=1, random_state=0).fit(X, y).net_.module_
    assert isinstance(module.bank, KernelBank)
    assert (module.start.slope != 0).tolist() == [True, False]


def test_kernels_and_levels_stay_where_the_last_value_tells_the_change():
    X, _ = walks()
    X -= X[:, :1]
    y = 2 * X[:, -1, 1]  # as in another unit
    model = CNNLSTMRegressor(conv_bank=84, max_epochs=1, random_state=0).fit(X[:400], y[:400])
    module = model.net_.module_
    assert isinstance(module.bank, KernelBank)
    module.join.trust.fill_(0.0)
    assert model.score(X[400:], y[400:]) > 0.97


@pytest.mark.parametrize("missing", ["mask", "ffill"])
def test_forecast_starts_from_the_last_value_observed(missing):
    X, y = walks()
    model = CNNLSTMRegressor(conv_bank=84, max_epochs=1, missing=missing, random_state=0)
    X_gappy = X.copy()
    X_gappy[::7, -3:, 1] = np.nan
    module = model.fit(X_gappy, y).net_.module_
    mean, scale = module.target_statistics()
    start = module.start_of(torch.tensor(X_gappy)).numpy() * scale + mean
    expected = np.where(np.arange(500) % 7 == 0, X[:, -4, 1], X[:, -1, 1])
    assert np.ptp(start[:, 0] - expected) < 1e-3
    assert ((model.predict(X_gappy) - y) ** 2).mean() < 1.5 * ((np.c_[expected, expected] - y) ** 2).mean()


@pytest.mark.parametrize("is_ragged", [False, True])
def test_levels_from_the_last_value_measure_from_the_last_known_one(is_ragged):
    X, y = walks(200)
    X[::7, -3:, 0] = np.nan
    starts = [i % 5 if is_ragged else 0 for i in range(len(X))]
    module = CNNLSTMRegressor(conv_bank=84, max_epochs=1, random_state=0).fit(X, y).net_.module_
    assert isinstance(module.bank, LevelsFromLast)
    filled = np.stack([pd.DataFrame(x).ffill().to_numpy() for x in X])

    def features(X):
        padded = np.full_like(X, np.nan)
        for i, (x, start) in enumerate(zip(X, starts, strict=True)):
            padded[i, : len(x) - start] = x[start:]
        lengths = torch.tensor([X.shape[1] - start for start in starts]) if is_ragged else None
        return module.features(torch.tensor(padded, dtype=torch.float32), lengths)

    torch.testing.assert_close(features(X), features(filled))


def test_forecast_of_ragged_windows_starts_from_their_ends():
    X, y = walks(200)
    ragged = [x[i % 5 :] for i, x in enumerate(X)]
    model = CNNLSTMRegressor(conv_bank=84, max_epochs=1, random_state=0).fit(ragged, y)
    expected = ((X[:, -1:, 1] - y) ** 2).mean()
    assert ((model.predict(ragged) - y) ** 2).mean() < 1.3 * expected
    np.testing.assert_allclose(model.predict(ragged)[:7], model.predict(ragged[:7]), atol=1e-4)


def test_no_step_before_training_copies_the_series_whole(monkeypatch):
    X, y = walks(400)
    monkeypatch.setattr(_training, "_PASS_POSITIONS", 20 * 50)  # fifty samples
    longest, collect = [], TrainingNet._collect
    monkeypatch.setattr(TrainingNet, "_collect", lambda net, f, X: longest.append(len(X)) or collect(net, f, X))
    CNNLSTMRegressor(conv_bank=84, max_epochs=1, random_state=0).fit(X, y)
    assert len(longest) == 17  # start and features in eight blocks each, at last a held-out sixth
    assert max(longest[:-1]) == 50


def test_skewed_channels_are_squashed_and_others_are_not():
    random = np.random.default_rng(0)
    X = np.stack([random.normal(size=(200, 20)), random.exponential(size=(200, 20)) ** 2], axis=2)
    module = CNNLSTMRegressor(conv_bank=20, max_epochs=1, random_state=0).fit(X, X.mean(axis=(1, 2))).net_.module_
    assert module.squash.is_skewed.tolist() == [False, True]
    standardised = (X - X.mean(axis=(0, 1))) / X.std(axis=(0, 1))
    standardised[..., 1] = np.arcsinh(2 * standardised[..., 1])
    np.testing.assert_allclose(module.standardise(torch.tensor(X)).numpy(), standardised, atol=1e-4)


def test_skewness_counts_values_alone():
    random = np.random.default_rng(0)
    X = random.normal(size=(60, 20, 2))
    X[::3, 15:] = np.nan
    X[1, 3, 0] = np.nan
    module = (
        CNNLSTMRegressor(conv_bank=20, max_epochs=1, random_state=0).fit(X, np.nanmean(X, axis=(1, 2))).net_.module_
    )
    assert isinstance(module.squash, torch.nn.Identity)
