"""`net_` is a skorch net: its callbacks and history work, and it trains as a plain torch loop does."""

import copy
import io
import math
import pickle
import signal
import sys
import threading

import numpy as np
import pytest
import skorch
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, roc_auc_score
from skorch.callbacks import (
    BatchScoring,
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    EpochTimer,
    GradientNormClipping,
    LRScheduler,
    ProgressBar,
)

from sklearn_cnnlstm import CNNLSTMClassifier, CNNLSTMRegressor

SMALL = {
    "conv_bank": 0,
    "conv_channels": (8,),
    "hidden_size": 8,
    "batch_size": 16,
    "max_epochs": 6,
    "lr": 0.02,
    "random_state": 0,
}


def classifier(*callbacks, **params):
    return CNNLSTMClassifier(**SMALL | {"net_callbacks": list(callbacks)} | params)


def slopes(n_samples=48, seed=0):
    """Noisy sequences (n, 8, 2) that fall or rise in channel 0."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n_samples) % 2)
    X = rng.normal(scale=0.7, size=(n_samples, 8, 2))
    X[..., 0] += np.where(y, 1, -1)[:, np.newaxis] * np.linspace(-1, 1, 8)
    return X, y


def weights(model):
    return {name: value.clone() for name, value in model.net_.module_.state_dict().items()}


def assert_same_weights(model, before):
    after = model.net_.module_.state_dict()
    assert after.keys() == before.keys()
    for name, value in before.items():
        assert torch.equal(after[name], value), name


class Recorder(Callback):
    """What skorch's hooks were told."""

    def __init__(self):
        self.datasets = None
        self.first_module = None
        self.begun, self.ended = [], []
        self.batches = []
        self.norms = []

    def on_train_begin(self, net, **kwargs):
        self.first_module = copy.deepcopy(net.module_)

    def on_epoch_begin(self, net, dataset_train=None, dataset_valid=None, **kwargs):
        self.datasets = dataset_train, dataset_valid
        self.batches = []

    def on_batch_begin(self, net, batch=None, training=None, **kwargs):
        self.begun.append(training)

    def on_batch_end(self, net, batch=None, training=None, y_pred=None, loss=None, **kwargs):
        self.ended.append(training)
        self.batches.append((training, batch[1].numpy(), y_pred.numpy(), float(loss)))

    def on_grad_computed(self, net, named_parameters, **kwargs):
        self.norms.append(math.sqrt(sum(float(p.grad.square().sum()) for _, p in named_parameters)))


class Interrupt(Callback):
    """Stops at an event of the second epoch, as skorch's callbacks do or as Ctrl-C does."""

    def __init__(self, event, stop):
        self.event, self.stop = event, stop

    def on_epoch_end(self, net, **kwargs):
        self.act("epoch_end", net)

    def on_batch_end(self, net, **kwargs):
        self.act("batch_end", net)

    def act(self, event, net):
        if event == self.event and len(net.history) == 2:
            self.stop()


def ask_to_stop():
    raise KeyboardInterrupt


def ctrl_c():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have it ignored in what runs in the background
    signal.raise_signal(signal.SIGINT)


# -- the net and its history ---------------------------------------------------------------------------------------


def test_net_is_a_skorch_net_with_a_skorch_history():
    X, y = slopes()
    model = classifier().fit(X, y)
    assert isinstance(model.net_, skorch.NeuralNet)
    assert isinstance(model.net_.history, skorch.history.History)
    assert model.net_.history[:, "train_loss"] == model.history_["train_loss"].tolist()


def test_net_predicts_codes_and_probabilities_of_canonical_arrays():
    X, y = slopes()
    model = classifier().fit(X, np.array(["falls", "rises"])[y])
    assert_array_equal(model.classes_[model.net_.predict(X)], model.predict(X))
    assert_allclose(model.net_.predict_proba(X), model.predict_proba(X), rtol=1e-5)


def test_net_of_a_regressor_predicts_standardised_targets():
    X, _ = slopes()
    y = 100 + 7 * X[..., 0].mean(axis=1)
    model = CNNLSTMRegressor(**SMALL).fit(X, y)
    assert_allclose(model.net_.predict(X)[:, 0] * y.std() + y.mean(), model.predict(X), rtol=1e-5)


def test_history_has_a_row_per_epoch():
    X, y = slopes()
    model = classifier().fit(X, y)
    assert set(model.history_.columns) == {"epoch", "train_loss", "lr", "seconds"}
    assert model.history_["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    assert model.history_["train_loss"].iloc[-1] < model.history_["train_loss"].iloc[0]
    assert (model.history_["seconds"] > 0).all()


def test_history_has_the_validation_loss_and_score():
    X, y = slopes()
    model = classifier(early_stopping=True, scoring="roc_auc").fit(X, y)
    columns = {"epoch", "train_loss", "valid_loss", "valid_score", "lr", "seconds"}
    assert set(model.history_.columns) == columns
    assert model.history_["valid_score"].between(0, 1).all()


def test_verbose_2_prints_a_row_per_epoch(capsys):
    X, y = slopes()
    classifier(verbose=2, max_epochs=3).fit(X, y)
    lines = capsys.readouterr().out.strip().splitlines()
    assert {"epoch", "train_loss", "lr"} <= set(lines[0].split())
    assert [line.split()[0] for line in lines[2:]] == ["1", "2", "3"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_verbose_1_shows_one_line_on_a_terminal(monkeypatch):
    X, y = slopes()
    monkeypatch.setattr(sys, "stderr", Terminal())
    model = classifier(verbose=1, early_stopping=True, scoring="accuracy", n_iter_no_change=2, max_epochs=50).fit(X, y)
    written = sys.stderr.getvalue()
    assert written.count("\n") == 1
    last = written.split("\r")[-1]
    score = model.history_["valid_score"].iloc[-1]
    assert f"{model.n_epochs_}/50" in last
    assert f"valid_score={score:.3g}" in last


def test_verbose_1_is_quiet_without_a_terminal_and_beside_other_fits(capsys, monkeypatch):
    X, y = slopes()
    classifier(verbose=1, max_epochs=1).fit(X, y)
    monkeypatch.setattr(sys, "stderr", Terminal())
    thread = threading.Thread(target=classifier(verbose=1, max_epochs=1).fit, args=(X, y))
    thread.start()
    thread.join()
    assert sys.stderr.getvalue() == ""
    assert capsys.readouterr() == ("", "")


def test_a_net_that_showed_its_progress_clones_and_pickles(monkeypatch):
    X, y = slopes()
    monkeypatch.setattr(sys, "stderr", Terminal())
    model = classifier(verbose=1, max_epochs=1).fit(X, y)
    clone(model.net_)
    assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))


def test_fit_prints_nothing_unless_asked(capsys):
    X, y = slopes()
    classifier(early_stopping=True, n_iter_no_change=1).fit(X, y)
    assert capsys.readouterr() == ("", "")


# -- convergence ---------------------------------------------------------------------------------------------------


def test_max_epochs_that_ends_before_early_stopping_could_is_a_warning():
    X, y = slopes()
    with pytest.warns(ConvergenceWarning, match="max_epochs=4 ended the training before early stopping could"):
        classifier(early_stopping=True, max_epochs=4, n_iter_no_change=3).fit(X, y)


@pytest.mark.parametrize(
    "params",
    [
        {"early_stopping": True, "max_epochs": 50, "n_iter_no_change": 2},  # it stopped
        {"early_stopping": True, "max_epochs": "auto", "n_iter_no_change": 100},  # the package's own choice
        {"early_stopping": True, "max_epochs": 4, "n_iter_no_change": 4},  # it never could: all epochs are wanted
        {"early_stopping": False, "max_epochs": 4},
    ],
)
def test_other_ends_of_training_warn_of_nothing(params, recwarn):
    X, y = slopes()
    classifier(**params).fit(X, y)
    assert not [warning for warning in recwarn if warning.category is ConvergenceWarning]


# -- skorch's callbacks --------------------------------------------------------------------------------------------


def test_early_stopping_of_skorch_watches_the_training_loss():
    X, y = slopes()
    stop = EarlyStopping("train_loss", patience=2, threshold=10.0, threshold_mode="abs", sink=lambda text: None)
    model = classifier(stop, max_epochs=20).fit(X, y)
    assert model.n_epochs_ == len(model.net_.history) < 20


def test_epoch_scoring_of_the_validation_part_equals_accuracy_by_hand():
    X, y = slopes()
    X_val, y_val = slopes(30, seed=1)
    scoring = EpochScoring("accuracy", lower_is_better=False, name="accuracy")
    model = classifier(scoring, early_stopping=False).fit(X, y, X_val=X_val, y_val=y_val)
    assert model.history_["accuracy"].iloc[-1] == accuracy_score(y_val, model.predict(X_val)) > 0.7


def test_epoch_scoring_of_the_inner_split_equals_accuracy_by_hand():
    X, y = slopes()
    recorder = Recorder()
    scoring = EpochScoring("accuracy", lower_is_better=False, name="accuracy")
    model = classifier(scoring, recorder, early_stopping=True, validation_fraction=0.25).fit(X, y)
    rows = recorder.datasets[1].index
    best = model.history_["accuracy"][model.best_epoch_ - 1]
    assert len(rows) == 12
    assert best == accuracy_score(y[rows], model.predict(X[rows]))


def test_epoch_scoring_on_train_scores_what_the_updates_saw():
    X, y = slopes()
    recorder = Recorder()
    scoring = EpochScoring("accuracy", lower_is_better=False, name="accuracy", on_train=True)
    model = classifier(scoring, recorder).fit(X, y)
    labels, logits = (np.concatenate([batch[i] for batch in recorder.batches]) for i in (1, 2))
    assert len(labels) == len(y)
    assert model.history_["accuracy"].iloc[-1] == accuracy_score(labels, logits.argmax(axis=1))


@pytest.mark.parametrize("on_train", [True, False])
def test_epoch_scoring_without_caching_asks_the_net_anew(on_train):
    X, y = slopes()
    X_val, y_val = slopes(30, seed=1)
    scoring = EpochScoring("accuracy", lower_is_better=False, name="accuracy", on_train=on_train, use_caching=False)
    model = classifier(scoring, early_stopping=False).fit(X, y, X_val=X_val, y_val=y_val)
    expected = model.score(X, y) if on_train else model.score(X_val, y_val)
    assert model.history_["accuracy"].iloc[-1] == expected > 0.7


def test_epoch_scoring_takes_the_probabilities_of_the_net():
    def area(net, X, y):
        return roc_auc_score(y, net.predict_proba(X)[:, 1])

    X, y = slopes()
    X_val, y_val = slopes(30, seed=1)
    scoring = EpochScoring(area, lower_is_better=False)
    model = classifier(scoring, early_stopping=False).fit(X, y, X_val=X_val, y_val=y_val)
    assert_allclose(model.history_["area"].iloc[-1], roc_auc_score(y_val, model.predict_proba(X_val)[:, 1]))


def test_batch_scoring_averages_the_batches():
    X, y = slopes()
    recorder = Recorder()
    scoring = BatchScoring("accuracy", lower_is_better=False, name="accuracy", on_train=True)
    model = classifier(scoring, recorder).fit(X, y)
    scores = [accuracy_score(labels, logits.argmax(axis=1)) for _, labels, logits, _ in recorder.batches]
    assert len(scores) == 3
    assert model.net_.history[-1, "batches", :, "accuracy"] == scores
    assert_allclose(model.history_["accuracy"].iloc[-1], np.mean(scores))


def test_lr_scheduler_steps_every_epoch():
    X, y = slopes()
    scheduler = LRScheduler("StepLR", step_size=2, gamma=0.5)
    model = classifier(scheduler, lr_schedule="constant").fit(X, y)
    assert_allclose(model.history_["lr"], [0.02, 0.02, 0.01, 0.01, 0.005, 0.005])


def test_lr_scheduler_steps_every_batch():
    X, y = slopes()
    scheduler = LRScheduler("ExponentialLR", gamma=0.5, step_every="batch")
    model = classifier(scheduler, lr_schedule="constant", max_epochs=2).fit(X, y)
    assert_allclose(model.history_["lr"], [0.02 * 0.5**3, 0.02 * 0.5**6])


def test_cosine_schedule_climbs_and_falls():
    X, y = slopes()
    lr = classifier(batch_size=48, max_epochs=20).fit(X, y).history_["lr"]
    rise = np.minimum(1, np.arange(1, 21) / 2)
    assert_allclose(lr, 0.02 * rise * (1 + np.cos(np.pi * np.arange(20) / 20)) / 2)


@pytest.mark.parametrize("monitor", ["train_loss_best", "valid_loss_best"])
def test_checkpoint_writes_the_best_weights(tmp_path, monitor):
    X, y = slopes()
    X_val, y_val = slopes(30, seed=1)
    checkpoint = Checkpoint(monitor=monitor, dirname=str(tmp_path))
    model = classifier(checkpoint, lr=0.1, lr_schedule="constant").fit(X, y, X_val=X_val, y_val=y_val)
    saved = torch.load(tmp_path / "params.pt", weights_only=True)
    assert saved.keys() == model.net_.module_.state_dict().keys()
    if monitor == "valid_loss_best":
        assert model.best_epoch_ == model.history_["valid_loss"].argmin() + 1
        assert_same_weights(model, saved)


def test_checkpoint_loads_the_best_weights_back(tmp_path):
    X, y = slopes()
    misleading = {"X_val": X, "y_val": 1 - y}  # what the training learns makes the validation loss worse
    checkpoint = Checkpoint(monitor="valid_loss_best", dirname=str(tmp_path), load_best=True, sink=lambda *text: None)
    params = {"lr_schedule": "constant", "early_stopping": False, "max_epochs": 10}
    model = classifier(checkpoint, **params).fit(X, y, **misleading)
    best = int(model.history_["valid_loss"].argmin()) + 1
    assert model.n_epochs_ == best < 10  # skorch loads the history of the checkpoint too
    shorter = classifier(**params | {"max_epochs": best}).fit(X, y, **misleading)
    assert_same_weights(model, weights(shorter))


def test_progress_bar_counts_batches(capsys):
    X, y = slopes()
    bar = ProgressBar(detect_notebook=False)
    classifier(bar, max_epochs=2).fit(X, y)
    assert bar.pbar_.n == bar.pbar_.total == 3
    assert "0/3" in capsys.readouterr().err


def test_gradients_are_seen_before_they_are_clipped_to_norm_1():
    X, _ = slopes()
    y = np.where(np.arange(len(X)) == 0, 100.0, 0.0)  # one far target: a steep loss
    recorder = Recorder()
    CNNLSTMRegressor(**SMALL | {"batch_size": 48, "dropout": 0.0}, net_callbacks=[recorder]).fit(X, y)
    module = recorder.first_module.train()
    target = torch.tensor((y - y.mean()) / y.std(), dtype=torch.float32)
    (module(torch.tensor(X, dtype=torch.float32))[:, 0] - target).square().mean().backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in module.parameters()))
    assert_allclose(recorder.norms[0], norm, rtol=1e-4)
    assert norm > 1


def test_gradient_norm_clipping_of_skorch_clips():
    X, y = slopes()
    recorder = Recorder()
    params = {"optimizer": "sgd", "weight_decay": 0.0, "lr_schedule": "constant"}
    model = classifier(GradientNormClipping(1e-6), recorder, **params).fit(X, y)
    assert max(recorder.norms) <= 1.01e-6
    for name, parameter in recorder.first_module.named_parameters():
        moved = (model.net_.module_.get_parameter(name) - parameter).abs().max()
        assert moved < 1e-5, name


def test_batch_hooks_are_called_for_every_batch():
    X, y = slopes()
    X_val, y_val = slopes(30, seed=1)
    recorder = Recorder()
    classifier(recorder, max_epochs=4, early_stopping=False).fit(X, y, X_val=X_val, y_val=y_val)
    assert recorder.begun == recorder.ended == [True, True, True, False] * 4
    assert sum(len(labels) for training, labels, _, _ in recorder.batches if training) == len(y)


def test_batch_hooks_see_the_losses_of_the_history():
    X, y = slopes(50)  # batches of 13, 13, 12 and 12
    recorder = Recorder()
    model = classifier(recorder).fit(X, y)
    losses, sizes = zip(*((loss, len(labels)) for _, labels, _, loss in recorder.batches), strict=True)
    assert_allclose(model.history_["train_loss"].iloc[-1], np.average(losses, weights=sizes), rtol=1e-6)


class AskAtEpochEnd(Callback):
    """The probabilities that the net itself gives after each epoch."""

    def __init__(self, X):
        self.X = X

    def on_epoch_end(self, net, **kwargs):
        self.probabilities = net.predict_proba(self.X)


@pytest.mark.parametrize("has_validation", [True, False])
def test_net_answers_in_a_callback_as_it_does_after_fit(has_validation):
    X, y = slopes()
    keywords = {"X_val": X[:8], "y_val": y[:8]} if has_validation else {}
    asker = AskAtEpochEnd(X.astype(np.float32))
    model = classifier(asker, dropout=0.5, early_stopping=False).fit(X, y, **keywords)
    assert_allclose(asker.probabilities, model.predict_proba(X), rtol=1e-5)


def test_callbacks_that_ask_the_net_change_nothing():
    X, y = slopes()
    asked = classifier(AskAtEpochEnd(X.astype(np.float32)), dropout=0.0).fit(X, y)
    assert_same_weights(asked, weights(classifier(dropout=0.0).fit(X, y)))


def test_callbacks_that_only_look_change_nothing():
    X, y = slopes()
    watched = classifier(Recorder(), EpochScoring("accuracy", on_train=True)).fit(X, y)
    assert_same_weights(watched, weights(classifier().fit(X, y)))


# -- interrupts ----------------------------------------------------------------------------------------------------


def test_keyboard_interrupt_of_a_callback_ends_the_training():
    X, y = slopes()
    model = classifier(Interrupt("epoch_end", ask_to_stop)).fit(X, y)
    assert model.n_epochs_ == 2
    assert model.predict(X).shape == y.shape


@pytest.mark.parametrize("event", ["batch_end", "epoch_end"])
def test_ctrl_c_leaves_an_unfitted_estimator_unfitted(event):
    X, y = slopes()
    model = classifier(Interrupt(event, ctrl_c))
    before = dict(vars(model))
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        model.fit(X, y)
    assert vars(model) == before


@pytest.mark.parametrize("event", ["batch_end", "epoch_end"])
def test_ctrl_c_leaves_a_fitted_estimator_as_it_was(event):
    X, y = slopes()
    model = classifier(warm_start=True).fit(X, y)
    expected, before = model.predict_proba(X), weights(model)
    model.set_params(net_callbacks=[Interrupt(event, ctrl_c)])
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        model.fit(X, y)
    assert model.n_epochs_ == 6
    assert_same_weights(model, before)
    assert_array_equal(model.predict_proba(X), expected)


def test_ctrl_c_leaves_torchs_random_state_alone():
    X, y = slopes()
    before = torch.random.get_rng_state()
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        classifier(Interrupt("batch_end", ctrl_c)).fit(X, y)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_error_of_a_callback_leaves_fit():
    def fail():
        raise RuntimeError("the disk is full")

    X, y = slopes()
    model = classifier(Interrupt("epoch_end", fail))
    with pytest.raises(RuntimeError, match="the disk is full"):
        model.fit(X, y)
    assert not hasattr(model, "net_")


# -- the validation part and early stopping ------------------------------------------------------------------------


def test_best_weights_are_put_back():
    X, y = slopes()
    misleading = 1 - y  # what the training learns makes the validation score worse
    model = classifier(max_epochs=10, scoring="neg_log_loss", tol=0.0).fit(X, y, X_val=X, y_val=misleading)
    scores = model.history_["valid_score"]
    log_loss = -np.log(model.predict_proba(X)[np.arange(len(X)), misleading]).mean()
    assert model.best_epoch_ < model.n_epochs_
    assert scores[model.best_epoch_ - 1] == scores.max()
    assert_allclose(scores.max(), -log_loss, rtol=1e-5)


def test_early_stopping_waits_for_n_iter_no_change_epochs():
    X, y = slopes()
    X_val, y_val = slopes(30, seed=1)
    model = classifier(n_iter_no_change=3, tol=10.0, max_epochs=20).fit(X, y, X_val=X_val, y_val=y_val)
    assert model.early_stopping_
    assert (model.best_epoch_, model.n_epochs_) == (1, 4)


def test_early_stopping_holds_out_a_stratified_part():
    X, y = slopes(60)
    recorder = Recorder()
    classifier(recorder, early_stopping=True, validation_fraction=0.2).fit(X, y)
    train, valid = (data.index for data in recorder.datasets)
    assert sorted([*train, *valid]) == list(range(60))
    assert np.bincount(y[valid]).tolist() == [6, 6]


@pytest.mark.parametrize("estimator", [CNNLSTMClassifier, CNNLSTMRegressor])
@pytest.mark.parametrize("validation_order", ["random", "last"])
def test_groups_stay_on_one_side_of_the_inner_split(estimator, validation_order):
    X, y = slopes(60)
    groups = np.arange(60) // 7
    recorder = Recorder()
    model = estimator(
        **SMALL,
        early_stopping=True,
        validation_fraction=0.2,
        validation_order=validation_order,
        net_callbacks=[recorder],
    )
    model.fit(X, y, groups=groups)
    train, valid = (data.index for data in recorder.datasets)
    assert len(valid) >= 7
    assert not set(groups[train]) & set(groups[valid])


def test_validation_order_last_holds_out_the_end():
    X, y = slopes()
    recorder = Recorder()
    classifier(recorder, early_stopping=True, validation_order="last", validation_fraction=0.25).fit(X, y)
    train, valid = recorder.datasets
    assert train.index.tolist() == list(range(36))
    assert valid.index.tolist() == list(range(36, 48))


def test_validation_data_replace_the_inner_split():
    X, y = slopes()
    X_val, y_val = slopes(30, seed=1)
    recorder = Recorder()
    classifier(recorder, early_stopping=True).fit(X, y, X_val=X_val, y_val=y_val)
    train, valid = recorder.datasets
    assert len(train) == len(X)
    assert_array_equal(valid.X, X_val)


def test_validation_loss_is_that_of_the_validation_data():
    X, y = slopes()
    X_val, y_val = slopes(30, seed=1)
    model = classifier(early_stopping=False, label_smoothing=0.0).fit(X, y, X_val=X_val, y_val=y_val)
    log_loss = -np.log(model.predict_proba(X_val)[np.arange(30), y_val]).mean()
    assert_allclose(model.history_["valid_loss"].iloc[-1], log_loss, rtol=1e-5)


def test_validation_loss_is_weighted():
    X, y = slopes()
    X_val, y_val = slopes(30, seed=1)
    weight = np.linspace(0, 3, 30)
    model = classifier(early_stopping=False, label_smoothing=0.0)
    model.fit(X, y, X_val=X_val, y_val=y_val, sample_weight_val=weight)
    log_losses = -np.log(model.predict_proba(X_val)[np.arange(30), y_val])
    assert_allclose(model.history_["valid_loss"].iloc[-1], np.average(log_losses, weights=weight), rtol=1e-5)


def test_validation_labels_without_validation_data_are_refused():
    X, y = slopes()
    with pytest.raises(ValueError, match="y_val or sample_weight_val was passed without X_val"):
        classifier().fit(X, y, y_val=y)


# -- pickles -------------------------------------------------------------------------------------------------------


def test_pickled_net_predicts_the_same():
    X, y = slopes()
    model = classifier(early_stopping=True).fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert again.net_.history == model.net_.history


def test_pickle_holds_neither_optimizer_nor_data():
    X, y = slopes()
    X[0, 0, 0] = 1.2345678
    blob = pickle.dumps(classifier().fit(X, y))
    again = pickle.loads(blob)
    assert not hasattr(again.net_, "optimizer_")
    assert X[0, 0, 0].tobytes() not in blob
    assert X[0, 0, 0].astype(np.float32).tobytes() not in blob


def test_pickle_does_not_grow_with_the_data():
    params = {"early_stopping": True, "validation_fraction": 0.5, "max_epochs": 2}
    small, large = (len(pickle.dumps(classifier(**params).fit(*slopes(n)))) for n in (40, 400))
    assert abs(large - small) < 200  # bytes; a sample alone has 128


def test_pickling_leaves_the_estimator_able_to_go_on():
    X, y = slopes()
    model = classifier().partial_fit(X, y, classes=[0, 1])
    pickle.dumps(model)
    assert hasattr(model.net_, "optimizer_")
    assert model.partial_fit(X, y).n_epochs_ == 2


# -- going on ------------------------------------------------------------------------------------------------------


def test_partial_fit_goes_on_after_unpickling():
    X, y = slopes()
    model = classifier()
    for _ in range(3):
        model.partial_fit(X, y, classes=[0, 1])
    model = pickle.loads(pickle.dumps(model))
    for _ in range(5):
        model.partial_fit(X, y)
    assert model.n_epochs_ == len(model.history_) == 8
    assert model.history_["train_loss"].iloc[-1] < model.history_["train_loss"].iloc[2]
    assert model.score(X, y) > 0.8


def test_partial_fit_is_one_pass_at_constant_lr():
    X, y = slopes()
    model = classifier().partial_fit(X, y, classes=[0, 1]).partial_fit(X[:10], y[:10])
    assert model.history_["epoch"].tolist() == [1, 2]
    assert model.history_["lr"].tolist() == [0.02, 0.02]


def test_first_partial_fit_fixes_the_classes():
    X, y = slopes()
    model = classifier().partial_fit(X[y == 0], y[y == 0], classes=[0, 1, 2])
    model.partial_fit(X, y)
    assert model.classes_.tolist() == [0, 1, 2]
    assert model.predict_proba(X).shape == (len(X), 3)
    with pytest.raises(ValueError, match=r"y has the new classes \[3\]; expected those of \[0, 1, 2\]"):
        model.partial_fit(X, np.full(len(X), 3))


def test_first_partial_fit_needs_the_classes():
    X, y = slopes()
    with pytest.raises(ValueError, match="classes must be passed on the first call to partial_fit"):
        classifier().partial_fit(X, y)


def test_partial_fit_refuses_early_stopping():
    X, y = slopes()
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
        classifier(early_stopping=True).partial_fit(X, y, classes=[0, 1])


def test_partial_fit_refuses_other_channels():
    X, y = slopes()
    model = classifier().partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match="X has 1 channels, but CNNLSTMClassifier was fitted with 2"):
        model.partial_fit(X[..., :1], y)


def test_partial_fit_of_a_regressor_keeps_the_first_statistics():
    X, _ = slopes()
    y = 100 + X[..., 0].mean(axis=1)
    model = CNNLSTMRegressor(**SMALL).partial_fit(X, y)
    mean, scale = (values.copy() for values in model.net_.module_.target_statistics())
    model.partial_fit(X, y + 50)
    assert_array_equal(model.net_.module_.target_statistics(), (mean, scale))
    assert_allclose(mean, y.mean(), rtol=1e-6)


def test_warm_start_goes_on_with_a_fresh_schedule():
    X, y = slopes()
    model = classifier(warm_start=True).fit(X, y)
    model.set_params(max_epochs=4).fit(X, y)
    assert model.n_epochs_ == len(model.history_) == 10
    assert model.history_["epoch"].tolist() == list(range(1, 11))
    assert model.history_["train_loss"][6] < 0.8 * model.history_["train_loss"][0]
    assert model.history_["lr"][7] > model.history_["lr"][5]


def test_warm_start_with_early_stopping_counts_the_best_epoch_on():
    X, y = slopes()
    X_val, y_val = slopes(30, seed=1)
    model = classifier(warm_start=True, max_epochs=3).fit(X, y, X_val=X_val, y_val=y_val)
    model.fit(X, y, X_val=X_val, y_val=y_val)
    assert model.n_epochs_ == 6
    later = model.history_["valid_loss"].iloc[3:]
    assert 3 < model.best_epoch_ <= 6
    assert later[model.best_epoch_ - 1] <= later.min() + model.tol


def test_without_warm_start_fit_begins_anew():
    X, y = slopes()
    model = classifier().fit(X, y)
    before = weights(model)
    assert model.fit(X, y).n_epochs_ == 6
    assert_same_weights(model, before)


def test_warm_start_refuses_other_classes():
    X, y = slopes()
    model = classifier(warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match=r"y has the new classes \[2\]; expected those of \[0, 1\]"):
        model.fit(X, y + 1)
    assert model.n_epochs_ == 6


def test_warm_start_refuses_other_channels():
    X, y = slopes()
    model = classifier(warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match="X has 1 channels, but CNNLSTMClassifier was fitted with 2"):
        model.fit(X[..., :1], y)


def test_warm_start_refuses_other_dimensions():
    X, y = slopes()
    model = classifier(warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match="X has 2 dimensions, but CNNLSTMClassifier was fitted with X of 3"):
        model.fit(X[..., 0], y)


def test_warm_start_of_a_regressor_refuses_other_targets():
    X, y = slopes()
    model = CNNLSTMRegressor(**SMALL, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match=r"y has targets of shape \(2,\), but CNNLSTMRegressor was fitted with \(\)"):
        model.fit(X, np.c_[y, y])


# -- against a plain torch loop ------------------------------------------------------------------------------------


class BatchKeeper(Callback):
    """The network before training and every batch it was trained on, in order."""

    def on_train_begin(self, net, **kwargs):
        self.module = copy.deepcopy(net.module_)
        self.batches = []

    def on_batch_begin(self, net, batch=None, **kwargs):
        self.batches.append(batch)


def train_by_hand(module, batches, criterion, *, lr, weight_decay):
    """Losses of AdamW: decay on matrices only, gradients of norm 1 at most, 10 % warm-up, then a cosine to 0."""
    module.train()
    matrices = [p for p in module.parameters() if p.ndim > 1]
    vectors = [p for p in module.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, fused=True)
    losses = []
    for step, (X, y) in enumerate(batches):
        warm_up = min(1.0, (step + 1) / (0.1 * len(batches)))
        for group in optimizer.param_groups:
            group["lr"] = lr * warm_up * 0.5 * (1 + math.cos(math.pi * step / len(batches)))
        optimizer.zero_grad()
        loss = criterion(module(X), y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


LOOP = {"dropout": 0.0, "weight_decay": 0.1, "lr": 0.01}


@pytest.mark.parametrize(("batch_size", "max_epochs"), [(48, 30), (16, 10)])
def test_classifier_trains_as_a_plain_torch_loop(batch_size, max_epochs):
    X, y = slopes()
    keeper = BatchKeeper()
    model = classifier(keeper, batch_size=batch_size, max_epochs=max_epochs, label_smoothing=0.2, **LOOP).fit(X, y)
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.2)
    losses = train_by_hand(keeper.module, keeper.batches, criterion, lr=0.01, weight_decay=0.1)
    assert len(losses) == 30
    assert losses[-1] < 0.8 * losses[0]
    assert_allclose(model.net_.history[:, "batches", :, "train_loss"], np.reshape(losses, (max_epochs, -1)), rtol=1e-5)


@pytest.mark.parametrize(("batch_size", "max_epochs"), [(48, 30), (16, 10)])
def test_regressor_trains_as_a_plain_torch_loop(batch_size, max_epochs):
    X, _ = slopes()
    y = 5 * X[..., 0].max(axis=1) - 40
    keeper = BatchKeeper()
    params = SMALL | LOOP | {"batch_size": batch_size, "max_epochs": max_epochs}
    model = CNNLSTMRegressor(**params, net_callbacks=[keeper]).fit(X, y)
    losses = train_by_hand(keeper.module, keeper.batches, torch.nn.MSELoss(), lr=0.01, weight_decay=0.1)
    assert len(losses) == 30
    assert losses[-1] < 0.8 * losses[0]
    assert_allclose(model.net_.history[:, "batches", :, "train_loss"], np.reshape(losses, (max_epochs, -1)), rtol=1e-5)


def test_an_epoch_has_every_sample_once_with_its_own_target():
    X, _ = slopes()
    y = 5 * X[..., 0].max(axis=1) - 40
    keeper = BatchKeeper()
    CNNLSTMRegressor(**SMALL | {"max_epochs": 2}, net_callbacks=[keeper]).fit(X, y)
    for epoch in (keeper.batches[:3], keeper.batches[3:]):
        seen_X, seen_y = (np.concatenate([batch[i].numpy() for batch in epoch]) for i in (0, 1))
        order = seen_y[:, 0].argsort()
        assert_array_equal(seen_X[order], X[y.argsort()].astype(np.float32))
        assert_allclose(seen_y[order, 0], (np.sort(y) - y.mean()) / y.std(), rtol=1e-4, atol=1e-5)
        assert not np.array_equal(order, y.argsort())


def test_partial_fit_that_is_broken_off_has_never_begun():
    X, y = slopes()
    model = classifier().partial_fit(X, y, classes=[0, 1])
    twin = classifier().partial_fit(X, y, classes=[0, 1])
    before = weights(model)
    model.net_.callbacks_.append(("break", Interrupt("batch_end", ctrl_c)))
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        model.partial_fit(X, y)
    assert_same_weights(model, before)
    assert model.n_epochs_ == len(model.net_.history) == 1
    model.net_.callbacks_.pop()
    assert_array_equal(model.partial_fit(X, y).predict_proba(X), twin.partial_fit(X, y).predict_proba(X))
    assert model.history_["epoch"].tolist() == [1, 2]


@pytest.mark.filterwarnings("error::sklearn.exceptions.ConvergenceWarning")
def test_partial_fit_whose_warning_is_an_error_has_never_begun():
    X, y = slopes()
    model = classifier().partial_fit(X, y, classes=[0, 1])
    before = weights(model)
    with pytest.raises(ConvergenceWarning, match="Training diverged"):
        model.set_params(lr=1e30).partial_fit(X, y)
    assert_same_weights(model, before)
    assert model.n_epochs_ == len(model.net_.history) == 1


@pytest.mark.parametrize("entry", [3, "EpochTimer", ("name", 3), ("a", "b", "c"), (3, EpochTimer())])
def test_what_is_no_callback_is_refused(entry):
    X, y = slopes()
    with pytest.raises(ValueError, match=r"net_callbacks has the entry .* expected a skorch\.callbacks\.Callback"):
        classifier(entry).fit(X, y)


@pytest.mark.parametrize(
    "entry",
    [EpochTimer, ("timer", EpochTimer()), ("timer", EpochTimer), ["timer", EpochTimer()], None, ("timer", None)],
)
def test_callbacks_may_be_classes_and_have_names(entry):
    X, y = slopes()
    assert classifier(entry).fit(X, y).n_epochs_ == SMALL["max_epochs"]


def test_partial_fit_counts_on_after_warm_starts():
    X, y = slopes()
    model = classifier(warm_start=True, max_epochs=3).fit(X, y).fit(X, y).partial_fit(X, y)
    assert model.n_epochs_ == 7
    assert model.history_["epoch"].tolist() == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(("given", "expected"), [(64, 64), ("auto", 32)])
def test_first_part_of_a_stream_does_not_tell_the_size_of_later_batches(given, expected):
    X, y = slopes()
    model = classifier(batch_size=given).partial_fit(X[:3], y[:3], classes=[0, 1])
    assert model.batch_size_ == expected
    assert model.partial_fit(X, y).net_.batch_size == min(48, expected)


def test_partial_fit_after_fit_does_not_depend_on_streams_before_it():
    X, y = slopes()
    models = [classifier().partial_fit(X, y, classes=[0, 1]), classifier()]
    first, second = (model.fit(X, y).partial_fit(X, y).predict_proba(X) for model in models)
    assert_array_equal(first, second)


def test_partial_fit_of_a_model_from_another_machine_trains_on_this_one():
    X, y = slopes()
    model = classifier().fit(X, y)
    model.device_ = torch.device("cuda")
    model = pickle.loads(pickle.dumps(model)).partial_fit(X, y)
    assert model.device_ == torch.device("cpu")


def test_warm_start_with_one_sample_keeps_what_was_solved_for():
    X, y = slopes()
    model = classifier(warm_start=True, conv_bank=10).fit(X, y)
    before = model.net_.module_.join.readout.coefficients.clone()
    model.fit(X[:1], y[:1])
    assert torch.equal(model.net_.module_.join.readout.coefficients, before)
