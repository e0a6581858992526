"""Where and how a network is trained: devices, switches, batches, losses."""

import contextlib
import copy
import ctypes
import math
import mmap
import os
import pickle
import platform
import subprocess
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from skorch.callbacks import Callback, LRScheduler, PrintLog
from torch import nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from sklearn_cnnlstm import CNNLSTMClassifier, CNNLSTMRegressor, _graphs, _training
from sklearn_cnnlstm._training import SampleLoss, Samples, resolve_device, resolve_precision, to_batch, training_scope


def small_set(n=24):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 6, 2)).astype(np.float32)
    return X, (X[:, :, 0].mean(axis=1) > 0).astype(int)


# -- devices


@pytest.mark.parametrize("there", ["cuda", "mps", "xpu", "cpu"])
def test_auto_device_is_the_accelerator_if_there_is_one(there, monkeypatch):
    monkeypatch.setattr(_training, "_is_available", lambda device: device.type in (there, "cpu"))
    assert resolve_device("auto").type == there


@pytest.mark.parametrize("device", ["cuda:77", "xpu:77"])
def test_missing_device_is_an_error_and_no_silent_cpu_run(device):
    with pytest.raises(ValueError, match=f"device='{device}' is not available"):
        CNNLSTMClassifier(device=device).fit(*small_set())


def test_unknown_device_is_an_error():
    with pytest.raises(ValueError, match="is not a torch device"):
        CNNLSTMClassifier(device="quantum").fit(*small_set())


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int64, np.uint16, bool, ">f4"])
def test_batches_are_placed_on_the_device(dtype):
    batch = to_batch(np.ones((3, 2), dtype=dtype), torch.device("meta"))
    assert batch.device.type == "meta"
    assert batch.dtype == (torch.uint8 if dtype is np.uint8 else torch.float32)


def test_batch_of_a_read_only_array_is_quiet_and_its_own():
    X = np.ones((3, 2), dtype=np.float32)
    X.setflags(write=False)
    batch = to_batch(X, torch.device("cpu"))
    batch += 1
    assert X[0, 0] == 1


def test_precision_auto_is_float32():
    assert resolve_precision("auto") == "float32"
    assert resolve_precision("bfloat16") == "bfloat16"


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_autocast_trains_in_reduced_precision(precision):
    X, y = small_set(60)
    settings = {"max_epochs": 20, "random_state": 0, "conv_channels": (8,), "hidden_size": 8}
    reduced = CNNLSTMClassifier(precision=precision, **settings).fit(X, y)
    full = CNNLSTMClassifier(precision="float32", **settings).fit(X, y)
    assert reduced.precision_ == precision
    assert reduced.predict_proba(X).dtype == np.float32
    assert not np.array_equal(reduced.predict_proba(X), full.predict_proba(X))
    assert reduced.score(X, y) > 0.8


@pytest.mark.parametrize("cls", [CNNLSTMClassifier, CNNLSTMRegressor])
@pytest.mark.parametrize("target", ["sample", "step", "map"])
@pytest.mark.parametrize("shape", [(6, 2), (4, 8, 2), (3, 8, 8, 1)], ids=lambda shape: f"{len(shape) + 1}d")
def test_every_network_trains_and_answers_in_reduced_precision(cls, target, shape):
    if target == "map" and len(shape) == 2:
        pytest.skip("series have no maps")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(24, *shape)).astype(np.float32)
    steps = X.reshape(24, shape[0], -1)[..., 0]
    y = {"sample": X.mean(axis=tuple(range(1, X.ndim))), "step": steps, "map": X[:, -1:, ..., 0]}
    y = y[target] if cls is CNNLSTMRegressor else (y[target] > 0).astype(int)
    full, reduced = (
        cls(target=target, precision=precision, max_epochs=1, random_state=0).fit(X, y)
        for precision in ("float32", "bfloat16")
    )
    assert reduced.predict(X).dtype == full.predict(X).dtype
    assert np.isfinite(reduced.history_["train_loss"]).all()


@pytest.mark.parametrize("precision", ["none", "ieee", "tf32"])
def test_products_are_as_precise_after_training_as_the_caller_has_set(precision):
    products, of_cpu = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    before = products.fp32_precision
    of_cpu_before = of_cpu.fp32_precision
    try:
        products.fp32_precision = precision
        with _training._tensor_cores(torch.device("cuda")):
            assert products.fp32_precision == "tf32"
        assert products.fp32_precision == precision
        assert of_cpu.fp32_precision == of_cpu_before
        with _training._tensor_cores(torch.device("cpu")):
            assert products.fp32_precision == precision
    finally:
        products.fp32_precision = before


# -- torch's process-wide state


def switches():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.backends.cuda.matmul.fp32_precision,
        bool(torch.tensor(1e-39) * 1 == 0),
        torch.is_grad_enabled(),
    )


@pytest.mark.parametrize("deterministic", [False, True])
def test_fit_and_predict_leave_torchs_switches_as_they_were(deterministic):
    X, y = small_set()
    before = switches()
    model = CNNLSTMClassifier(max_epochs=2, deterministic=deterministic, random_state=0).fit(X, y)
    model.predict(X)
    assert switches() == before


def test_switches_are_put_back_when_training_fails():
    before, state = switches(), torch.get_rng_state()

    def fail():
        with training_scope(torch.device("cpu"), 0, deterministic=True):
            assert torch.are_deterministic_algorithms_enabled()
            raise OSError("a failure in training")

    with pytest.raises(OSError, match="a failure in training"):
        fail()
    assert switches() == before
    assert torch.equal(torch.get_rng_state(), state)


@contextlib.contextmanager
def float64_by_default():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("estimator", [CNNLSTMClassifier, CNNLSTMRegressor])
@pytest.mark.parametrize(
    "setting", [torch.no_grad, torch.inference_mode, float64_by_default, lambda: torch.device("meta")]
)
@pytest.mark.parametrize("has_gaps", [False, True])
def test_torch_as_the_caller_has_set_it_does_not_change_a_bit(estimator, setting, has_gaps):
    X, y = small_set()
    if has_gaps:
        X[::3, 2:4, 0] = np.nan
    model = estimator(max_epochs=2, random_state=0)
    expected = model.fit(X, y).predict(X)
    with setting():
        before = torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()
        predicted = model.fit(X, y).predict(X)
        assert (torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()) == before
    np.testing.assert_array_equal(predicted, expected)


@pytest.mark.parametrize("estimator", [CNNLSTMClassifier, CNNLSTMRegressor])
def test_callers_autocast_does_not_change_a_fit(estimator):
    X, y = small_set()
    model = estimator(conv_bank=10, max_epochs=2, random_state=0)
    expected = model.fit(X, y).predict(X)
    with torch.autocast("cpu", torch.bfloat16):
        model.fit(X, y)
        assert torch.is_autocast_enabled("cpu")
        np.testing.assert_array_equal(model.predict(X), expected)
    np.testing.assert_array_equal(model.predict(X), expected)


def test_samples_that_train_have_weights_of_mean_one_whatever_is_held_out():
    """The newest sixth, which is held out, has nearly all of the weight."""
    X = np.random.default_rng(0).normal(size=(60, 12, 1))
    y, newest_count = X[:, :, 0].sum(axis=1), np.repeat([1.0, 1e4], [50, 10])
    model = CNNLSTMRegressor(conv_bank=10, max_epochs=1, random_state=0)
    losses = [model.fit(X, y, weight).history_["train_loss"][0] for weight in (None, newest_count)]
    assert losses[1] > 0.1 * losses[0]


def test_scope_seeds_torch():
    draws = []
    for _ in range(2):
        with training_scope(torch.device("cpu"), 3):
            draws.append(torch.rand(4))
    assert torch.equal(*draws)


def test_scope_seeds_no_accelerator_but_its_own(monkeypatch):
    def fail(seed):
        raise AssertionError("seeded all")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", fail)
    CNNLSTMClassifier(max_epochs=1, random_state=0).fit(*small_set())


def test_denormals_are_flushed_inside_the_scope_only():
    with training_scope(torch.device("cpu"), 0):
        assert torch.tensor(1e-39) * 1 == 0
    assert torch.tensor(1e-39) * 1 != 0


# -- batches


def batches_of(n, batch_size, *, shuffle=True, weight=None):
    X = np.arange(n, dtype=np.float32).reshape(n, 1, 1)
    samples = Samples(X, np.arange(n), weight)
    return list(_training._Batches(samples, batch_size, torch.device("cpu"), shuffle=shuffle))


def test_every_sample_is_in_one_batch_with_its_target():
    batches = batches_of(33, 8)
    rows = torch.cat([y for (_, y), *_ in batches])
    assert sorted(rows.tolist()) == list(range(33))
    assert rows.tolist() != list(range(33))
    assert all(torch.equal(X[:, 0, 0].long(), y) for (X, y), *_ in batches)


def test_batches_are_as_equal_as_possible():
    assert [len(y) for (_, y), *_ in batches_of(33, 32)] == [17, 16]


def test_single_sample_is_doubled_for_batch_norm():
    ((X, _), *_) = batches_of(1, 32)[0]
    assert len(X) == 2


def test_weights_have_mean_one_over_the_whole_set():
    weight = np.array([0.5, 2.0, 4.0, 1.5])
    samples = Samples(np.zeros((4, 1, 1), dtype=np.float32), np.zeros(4), weight, np.array([1, 3]))
    assert samples.weight.tolist() == pytest.approx([2 * 2.0 / 3.5, 2 * 1.5 / 3.5])


def test_float32_rows_are_never_copied_whole():
    X = np.zeros((10, 3, 1), dtype=np.float32)
    assert _training._castable(X) is X
    assert _training._castable(X.astype(np.float64)).dtype == np.float32


def test_rows_for_an_accelerator_are_copied_in_parts(monkeypatch):
    monkeypatch.setattr(_training, "_CONVERT_BYTES", 4 * 12 * 3)  # three samples
    X, _ = small_set(40)
    for index in (np.arange(40), np.array([3, 1, 39, 7]), np.array([5])):
        assert np.array_equal(_training._copied(X, index, torch.device("cpu")).numpy(), X[index])


def test_memmap_trains_to_the_same_bits_as_an_array(tmp_path, monkeypatch):
    monkeypatch.setattr(_training, "_CONVERT_BYTES", 0)  # small data are not read ahead
    X, y = small_set(90)
    np.save(tmp_path / "X.npy", X)
    on_disk = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert _training._Batches(Samples(np.asarray(on_disk), y), 32, torch.device("cpu"), shuffle=True).reads_ahead
    settings = {"max_epochs": 3, "batch_size": 16, "random_state": 0}
    from_disk, from_memory = (CNNLSTMClassifier(**settings).fit(data, y) for data in (on_disk, X))
    assert np.array_equal(from_disk.predict_proba(on_disk), from_memory.predict_proba(X))


def test_error_of_the_reading_thread_is_the_callers():
    def fail(item):
        raise OSError(f"no disk for {item}")

    with pytest.raises(OSError, match="no disk for 3"):
        list(_training._ahead(fail, [3, 4]))


# -- steps that are recorded


class Recording:
    """In place of a CUDA graph: what was recorded was also done, and to replay is to do it again."""

    n_replays = n_closed = 0

    def __init__(self):
        self.is_done = True

    def reset(self):
        Recording.n_closed += 1

    def replay(self):
        Recording.n_replays += 1
        if not self.is_done:
            answer = self.function(*self.arguments)
            for name, values in answer.items():
                self.answer[name].copy_(values)
        self.is_done = False


@pytest.fixture
def recordings(monkeypatch):
    """Lets steps on the CPU be recorded; a list of the numbers of samples for which they were."""
    made = []
    record = _graphs.RecordedSteps._record

    def recorded(self, batch, weight, known):
        graph, inputs, answer = record(self, batch, weight, known)
        names, rest = list(known), len(inputs) - len(known)
        step, self_of = self.step, self
        weight_there = inputs[rest - 1] if weight is not None else None
        arguments = tuple(inputs[:2]), weight_there, dict(zip(names, inputs[rest:], strict=True))

        def again(*arguments):
            groups = self_of.optimizer.param_groups
            rates = [group["lr"] for group in groups]
            for group, rate in zip(groups, self_of.rates, strict=True):
                group["lr"] = rate
            answer = step(*arguments)
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate
            return answer

        graph.function, graph.arguments, graph.answer = again, arguments, answer
        made.append(len(batch[1]))
        return graph, inputs, answer

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recording)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(_graphs, "_recording", lambda graph: contextlib.nullcontext())
    monkeypatch.setattr(_graphs.RecordedSteps, "_record", recorded)
    monkeypatch.setattr(_training.TrainingNet, "_may_record", lambda self, batches: True)
    monkeypatch.setattr(_training, "_LEAST_RECORDED", 6)
    Recording.n_replays = Recording.n_closed = 0
    return made


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("cls", [CNNLSTMClassifier, CNNLSTMRegressor])
def test_recorded_steps_train_as_others_do(cls, weighted, recordings, monkeypatch):
    X, y = small_set(41)
    weight = np.linspace(0.5, 2.0, 41) if weighted else None
    settings = {"max_epochs": 6, "batch_size": 16, "random_state": 0}
    recorded = cls(**settings).fit(X, y, sample_weight=weight)
    n_trained = 41 if cls is CNNLSTMClassifier else 41 - math.ceil(41 / 6)  # a regressor holds some out
    sizes = {len(part) for part in np.array_split(np.arange(n_trained), 3)}
    assert set(recordings) == sizes
    assert Recording.n_replays == 3 * 6 - 3 * len(sizes)
    assert Recording.n_closed == len(sizes)
    monkeypatch.setattr(_training.TrainingNet, "_may_record", lambda self, batches: False)
    as_others = cls(**settings).fit(X, y, sample_weight=weight)
    pd.testing.assert_frame_equal(recorded.history_.drop(columns="seconds"), as_others.history_.drop(columns="seconds"))
    np.testing.assert_allclose(recorded.predict(X), as_others.predict(X), rtol=1e-5, atol=1e-6)
    assert recorded.net_._recorded is None


def test_sizes_of_few_steps_are_not_recorded(recordings, monkeypatch):
    monkeypatch.setattr(_training, "_LEAST_RECORDED", 12)
    CNNLSTMClassifier(max_epochs=6, batch_size=16, random_state=0).fit(*small_set(41))
    assert recordings == [14]  # two batches of an epoch; the third has 13 samples


def test_what_cannot_be_recorded_is_done_as_it_is(recordings, monkeypatch):
    def fail(self, batch, weight, known):
        raise RuntimeError("operation not permitted when stream is capturing")

    X, y = small_set(40)
    settings = {"max_epochs": 5, "batch_size": 20, "random_state": 0}
    expected = CNNLSTMClassifier(**settings).fit(X, y).predict_proba(X)
    monkeypatch.setattr(_graphs.RecordedSteps, "_record", fail)
    with pytest.warns(RuntimeWarning, match="was not recorded: operation not permitted") as caught:
        model = CNNLSTMClassifier(**settings).fit(X, y)
    assert len(caught) == 1
    np.testing.assert_allclose(model.predict_proba(X), expected, rtol=1e-5)


def test_where_memory_is_short_a_recording_gives_way_before_a_batch_does(recordings, monkeypatch):
    backward, refused = _training.TrainingNet._backward, []

    def backward_of_13_needs_what_was_recorded(self, batch, *args):
        if len(batch[1]) == 13 and self._recorded is not None and self._recorded.recordings:
            refused.append(13)
            raise torch.OutOfMemoryError("13 samples beside a recording")
        return backward(self, batch, *args)

    X, y = small_set(41)
    settings = {"max_epochs": 6, "batch_size": 16, "random_state": 0}
    expected = CNNLSTMClassifier(**settings).fit(X, y)
    Recording.n_closed = 0
    monkeypatch.setattr(_training.TrainingNet, "_backward", backward_of_13_needs_what_was_recorded)
    model = CNNLSTMClassifier(**settings).fit(X, y)
    assert refused == [13]
    assert Recording.n_closed == 1
    assert model.net_._n_parts == {True: 1, False: 1}
    np.testing.assert_allclose(model.predict_proba(X), expected.predict_proba(X), rtol=1e-5)


def test_an_interrupted_fit_keeps_no_recording(recordings, monkeypatch):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Recording, "replay", interrupt)
    with pytest.raises(KeyboardInterrupt):
        CNNLSTMClassifier(max_epochs=6, batch_size=16, random_state=0).fit(*small_set(41))
    assert Recording.n_closed == 1


class Watcher(Callback):
    pass


@pytest.mark.parametrize(
    ("params", "may"),
    [
        ({}, True),
        ({"early_stopping": True}, True),
        ({"optimizer": "adam"}, True),
        ({"optimizer": "sgd"}, False),
        ({"optimizer": torch.optim.NAdam}, False),
        ({"precision": "float16"}, False),
        ({"precision": "bfloat16"}, False),
        ({"net_callbacks": [Watcher()]}, False),
        ({"backbone": lambda n_channels, n_spatial: nn.Conv1d(n_channels, 4, 3, padding=1)}, False),
    ],
)
def test_only_steps_that_are_alike_may_be_recorded(params, may, monkeypatch):
    answers = []

    def note(self, batches):
        resident, batches.resident = batches.resident, torch.zeros(())
        with monkeypatch.context() as patch:
            assert not _MAY_RECORD(self, batches)  # it is on the CPU
            patch.setattr(type(self), "_device", torch.device("cuda"))
            answers.append(_MAY_RECORD(self, batches))
            batches.lengths = torch.ones(())
            assert not _MAY_RECORD(self, batches)
            batches.lengths, batches.resident = None, resident
            assert not _MAY_RECORD(self, batches)
            batches.resident = torch.zeros(())
            for when in ("forward_pre", "forward", "full_backward_pre", "full_backward"):
                hook = getattr(self.module_.lstm, f"register_{when}_hook")(lambda *args: None)
                assert not _MAY_RECORD(self, batches)
                hook.remove()
        batches.resident = resident
        return False

    monkeypatch.setattr(_training.TrainingNet, "_may_record", note)
    CNNLSTMClassifier(**{"max_epochs": 20, "batch_size": 10, "random_state": 0} | params).fit(*small_set(40))
    assert answers == [may]


_MAY_RECORD = _training.TrainingNet._may_record


# -- memory


class ShortOfMemory(nn.Module):
    """A CNN for which more than `limit` frames at once are too many."""

    def __init__(self, in_channels, n_spatial, limit):
        super().__init__()
        self.conv = nn.Conv1d(in_channels, 4, 3, padding=1)
        self.limit = limit

    def forward(self, X):
        if len(X) > self.limit and (self.training or len(X) > 2):  # two are passed to find the network's sizes
            raise torch.OutOfMemoryError(f"{len(X)} frames")
        return self.conv(X)


@pytest.mark.parametrize("weighted", [False, True])
def test_out_of_memory_halves_the_batch_and_keeps_its_gradient(weighted):
    X, y = small_set(40)
    weight = np.linspace(0.5, 2.0, 40) if weighted else None
    settings = {"conv_bank": 0, "max_epochs": 3, "batch_size": 40, "dropout": 0.0, "random_state": 0, "hidden_size": 4}
    with pytest.warns(RuntimeWarning, match="Out of memory with 40 samples at once") as caught:
        short = CNNLSTMClassifier(backbone=partial(ShortOfMemory, limit=12), **settings).fit(X, y, sample_weight=weight)
    assert len(caught) == 1
    roomy = CNNLSTMClassifier(backbone=partial(ShortOfMemory, limit=1000), **settings).fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(short.history_["train_loss"], roomy.history_["train_loss"], rtol=1e-5)
    np.testing.assert_allclose(short.predict_proba(X), roomy.predict_proba(X), rtol=1e-4)


def test_out_of_memory_in_predict_makes_passes_smaller():
    X, y = small_set(40)
    model = CNNLSTMClassifier(backbone=partial(ShortOfMemory, limit=40), max_epochs=1, random_state=0).fit(X, y)
    expected = model.predict_proba(X)
    model.net_.module_.cnn.cnn.limit = 7
    np.testing.assert_allclose(model.predict_proba(X), expected, rtol=1e-5)


@pytest.mark.parametrize(("n", "batch_size", "limit"), [(31, 16, 3), (28, 14, 2), (15, 5, 3)])
def test_out_of_memory_leaves_the_default_with_a_frozen_side_able_to_train(n, batch_size, limit):
    backbone = partial(ShortOfMemory, limit=limit)
    settings = {"conv_bank": 10, "batch_size": batch_size, "max_epochs": 3, "random_state": 0}
    X, y = small_set(n)
    with pytest.warns(RuntimeWarning, match="Out of memory") as caught:
        model = CNNLSTMClassifier(backbone=backbone, **settings).fit(X, y, X_val=X, y_val=y)
    assert len(caught) == 1
    assert np.isfinite(model.history_[["train_loss", "valid_loss"]]).all(axis=None)
    roomy = CNNLSTMClassifier(backbone=partial(ShortOfMemory, limit=1000), **settings).fit(X, y, X_val=X, y_val=y)
    assert model.history_["valid_loss"][0] == pytest.approx(roomy.history_["valid_loss"][0], rel=0.3)


def test_out_of_memory_of_the_validation_part_leaves_batches_of_the_training_whole():
    X, y = small_set(40)
    settings = {"conv_bank": 0, "batch_size": 8, "max_epochs": 2, "random_state": 0}
    with pytest.warns(RuntimeWarning, match="Out of memory with 40 samples at once"):
        short = CNNLSTMClassifier(backbone=partial(ShortOfMemory, limit=12), **settings).fit(X, y, X_val=X, y_val=y)
    roomy = CNNLSTMClassifier(backbone=partial(ShortOfMemory, limit=99), **settings).fit(X, y, X_val=X, y_val=y)
    np.testing.assert_allclose(short.history_["valid_loss"], roomy.history_["valid_loss"], rtol=1e-5)
    assert short.history_["train_loss"].equals(roomy.history_["train_loss"])


def test_out_of_memory_with_the_fewest_samples_is_an_error():
    with (
        pytest.raises(torch.OutOfMemoryError, match=r"[23] frames"),
        pytest.warns(RuntimeWarning, match="Out of memory"),
    ):
        CNNLSTMClassifier(backbone=partial(ShortOfMemory, limit=0), max_epochs=1).fit(*small_set())


# -- losses


def test_losses_are_torchs_without_the_mean_over_samples():
    torch.manual_seed(0)
    output, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    target, indicator = torch.randn(5, 3), torch.randint(0, 2, (5, 3)).float()
    pairs = [
        (SampleLoss("cross_entropy", 0.1)(output, labels), F.cross_entropy(output, labels, label_smoothing=0.1)),
        (SampleLoss("squared_error")(output, target), F.mse_loss(output, target)),
        (SampleLoss("absolute_error")(output, target), F.l1_loss(output, target)),
        (SampleLoss("huber")(output, target), F.huber_loss(output, target)),
        (
            SampleLoss("binary_cross_entropy")(output, indicator),
            F.binary_cross_entropy_with_logits(output, indicator),
        ),
    ]
    for ours, theirs in pairs:
        assert ours.shape == (5,)
        torch.testing.assert_close(ours.mean(), theirs)


@pytest.mark.parametrize("loss", ["absolute_error", "huber"])
def test_robust_losses_shrug_off_an_outlier(loss):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 5, 1))
    y = X.mean(axis=(1, 2))
    bad = y.copy()
    bad[:8] = 50.0
    settings = {"max_epochs": 30, "random_state": 0, "conv_channels": (8,), "hidden_size": 8}
    errors = [
        np.median(np.abs(CNNLSTMRegressor(loss=name, **settings).fit(X, bad).predict(X[8:]) - y[8:]))
        for name in (loss, "squared_error")
    ]
    assert errors[0] < errors[1]


# -- what is kept


def test_pickle_holds_neither_data_nor_optimizer():
    X, y = small_set(2000)
    model = CNNLSTMClassifier(conv_bank=0, max_epochs=1, conv_channels=(4,), hidden_size=4, random_state=0).fit(X, y)
    stored = pickle.dumps(model)
    n_parameters = sum(p.numel() for p in model.net_.module_.parameters())
    assert len(stored) < 4 * n_parameters + X.nbytes
    loaded = pickle.loads(stored)
    assert not hasattr(loaded.net_, "optimizer_")
    assert np.array_equal(loaded.predict_proba(X), model.predict_proba(X))


def test_model_trained_elsewhere_predicts_on_the_cpu():
    X, y = small_set()
    model = CNNLSTMClassifier(max_epochs=1, random_state=0).fit(X, y)
    model.device = "cuda:77"  # as if pickled on a machine with that many
    loaded = pickle.loads(pickle.dumps(model))
    assert loaded.predict(X).shape == y.shape


def test_model_of_another_kind_of_device_answers_in_float32():
    X, y = small_set()
    model = CNNLSTMClassifier(precision="bfloat16", max_epochs=1, random_state=0).fit(X, y)
    assert pickle.loads(pickle.dumps(model)).net_.settled("cpu").precision == "bfloat16"
    state = pickle.loads(pickle.dumps(model))
    state.net_._trained_on = "cuda"
    assert pickle.loads(pickle.dumps(state)).net_.settled("cpu").precision == "float32"


@pytest.mark.parametrize(("optimizer", "momentum"), [("sgd", 0.9), (torch.optim.SGD, 0)])
def test_optimizer_class_is_called_as_it_is(optimizer, momentum):
    model = CNNLSTMClassifier(optimizer=optimizer, max_epochs=1, random_state=0).fit(*small_set())
    assert model.net_.optimizer_.param_groups[0]["momentum"] == momentum


@pytest.mark.parametrize(("optimizer", "is_lean"), [("adamw", True), ("adam", True), ("sgd", False)])
def test_steps_on_the_cpu_are_torchs_to_the_bit(optimizer, is_lean, monkeypatch):
    lean_steps, clipped = [], []

    def step(adams, step=_training._adam_step):
        lean_steps.append(1)
        step(adams)

    def clip(parameters, clip=_training._clip_gradients):
        before = [parameter.grad.clone() for parameter in parameters]
        clip(parameters)
        clipped.append(not all(map(torch.equal, before, (parameter.grad for parameter in parameters))))

    monkeypatch.setattr(_training, "_adam_step", step)
    monkeypatch.setattr(_training, "_clip_gradients", clip)
    X, y = small_set()
    model = CNNLSTMClassifier(optimizer=optimizer, batch_size=8, lr=0.1, max_epochs=10, conv_bank=0, random_state=0)
    here = model.fit(X, y).net_.module_.state_dict()
    assert len(lean_steps) == (29 if is_lean else 0)  # all but the first one, in which the optimizer makes its state
    assert len(clipped) == 30
    assert 0 < sum(clipped) < 30
    monkeypatch.setattr(_training, "_clip_gradients", lambda parameters: nn.utils.clip_grad_norm_(parameters, 1.0))
    monkeypatch.setattr(_training, "_is_adam_alone", lambda optimizer: False)
    there = model.fit(X, y).net_.module_.state_dict()
    for name, values in here.items():
        assert torch.equal(values, there[name]), name


@pytest.mark.parametrize("values", [(), (0.1, 0.2), (3.0, 4.0), (1e-30, 0.0), (torch.inf, 1.0), (torch.nan, 1.0)])
def test_gradients_are_clipped_as_torch_does(values):
    parameters, others = ([nn.Parameter(torch.zeros(1)) for _ in range(3)] for _ in range(2))
    for same in (parameters, others):
        for parameter, value in zip(same, values, strict=False):  # the last one has no gradient
            parameter.grad = torch.tensor([value])
    _training._clip_gradients(parameters)
    nn.utils.clip_grad_norm_(others, 1.0)
    for parameter, other in zip(parameters[:2], others, strict=False):
        if values:
            torch.testing.assert_close(parameter.grad, other.grad, rtol=0, atol=0, equal_nan=True)
    assert parameters[2].grad is None


@pytest.mark.parametrize("verbose", [0, 2])
def test_skorchs_table_is_drawn_where_it_is_shown(verbose, monkeypatch, capsys):
    drawn = []

    def table(self, row, table=PrintLog.table):
        drawn.append(1)
        return table(self, row)

    monkeypatch.setattr(PrintLog, "table", table)
    model = CNNLSTMClassifier(max_epochs=3, conv_bank=0, verbose=verbose, random_state=0).fit(*small_set())
    assert "print_log" in dict(model.net_.callbacks_)
    assert len(drawn) == (3 if verbose else 0)
    assert bool(capsys.readouterr().out) == bool(verbose)


class OnTrainBegin(Callback):
    def __init__(self, do):
        self.do = do

    def on_train_begin(self, net, **kwargs):
        self.do(net.optimizer_)


@pytest.mark.parametrize(
    "register",
    [
        lambda optimizer, hook: optimizer.register_step_pre_hook(hook),
        lambda optimizer, hook: optimizer.register_step_post_hook(hook),
        lambda optimizer, hook: register_optimizer_step_pre_hook(hook),
        lambda optimizer, hook: register_optimizer_step_post_hook(hook),
    ],
)
def test_hooks_of_the_optimizer_are_called_at_each_step(register):
    steps, handles = [], []
    callback = OnTrainBegin(lambda optimizer: handles.append(register(optimizer, lambda *args: steps.append(1))))
    try:
        CNNLSTMClassifier(batch_size=8, max_epochs=4, net_callbacks=[callback], random_state=0).fit(*small_set())
    finally:
        handles[0].remove()
    assert len(steps) == 12


class TheirAdamW(torch.optim.AdamW):
    pass


def wrap_step(optimizer):
    optimizer.step = partial(optimizer.step)


@pytest.mark.parametrize(
    "params",
    [
        {"precision": "float16"},
        {"optimizer": TheirAdamW},
        {
            "lr_schedule": "constant",
            "net_callbacks": [LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=1)],
        },
        {"net_callbacks": [OnTrainBegin(wrap_step)]},
        {"net_callbacks": [OnTrainBegin(lambda optimizer: optimizer.register_step_post_hook(lambda *args: None))]},
        *(
            {"net_callbacks": [OnTrainBegin(lambda optimizer, o=options: optimizer.param_groups[0].update(o))]}
            for options in (
                {"of_a_later_torch": True},
                {"amsgrad": True},
                {"maximize": True},
                {"fused": False},
            )
        ),
    ],
)
def test_steps_that_are_not_adams_alone_take_torchs_way(params, monkeypatch):
    lean_steps = []

    def step(adams, step=_training._adam_step):
        lean_steps.append(1)
        step(adams)

    monkeypatch.setattr(_training, "_adam_step", step)
    sizes = {"batch_size": 8, "max_epochs": 4, "conv_bank": 0, "random_state": 0}
    CNNLSTMClassifier(**sizes).fit(*small_set())
    assert len(lean_steps) == 11
    lean_steps.clear()
    CNNLSTMClassifier(**params, **sizes).fit(*small_set())
    assert lean_steps == []


@pytest.mark.parametrize("event", ["on_batch_end", "on_grad_computed"])
def test_a_hook_that_comes_amid_an_epoch_is_called(event):
    calls = []

    class Late(Callback):
        n = 0

    def listen(self, net, training, **kwargs):
        self.n += training
        if training and self.n == 5:
            net.optimizer_.register_step_post_hook(lambda *args: calls.append(self.n))

    setattr(Late, event, listen)
    model = CNNLSTMClassifier(batch_size=8, max_epochs=4, conv_bank=0, net_callbacks=[Late()], random_state=0)
    model.fit(*small_set())
    assert len(calls) == (7 if event == "on_batch_end" else 8)


def test_state_that_a_hook_of_a_layer_exchanges_is_used():
    """The optimizer's state is loaded anew in each step, which changes nothing but where it lies."""

    class Reload(Callback):
        def on_train_begin(self, net, **kwargs):
            def reload(*args):
                if net.optimizer_.state:
                    net.optimizer_.load_state_dict(copy.deepcopy(net.optimizer_.state_dict()))

            net.module_.lstm.register_forward_hook(reload)

    sizes = {"batch_size": 8, "max_epochs": 4, "conv_bank": 0, "random_state": 0}
    models = [CNNLSTMClassifier(net_callbacks=callbacks, **sizes).fit(*small_set()) for callbacks in ([], [Reload()])]
    for ours, theirs in zip(*(model.net_.module_.parameters() for model in models), strict=True):
        assert torch.equal(ours, theirs)


def test_a_group_without_parameters_is_no_obstacle():
    callback = OnTrainBegin(lambda optimizer: optimizer.add_param_group({"params": []}))
    X, y = small_set()
    model = CNNLSTMClassifier(max_epochs=3, conv_bank=0, random_state=0)
    alone = model.fit(X, y).predict_proba(X)
    assert np.array_equal(model.set_params(net_callbacks=[callback]).fit(X, y).predict_proba(X), alone)


def test_torchs_default_device_at_import_is_not_where_steps_are_counted():
    script = """
import torch
torch.set_default_device("meta")
from sklearn_cnnlstm import CNNLSTMClassifier
torch.set_default_device("cpu")
import numpy as np
X, y = np.random.default_rng(0).normal(size=(24, 10, 2)), np.arange(24) % 2
model = CNNLSTMClassifier(batch_size=8, max_epochs=5, conv_bank=0, device="cpu", random_state=0).fit(X, y)
print({float(state["step"]) for state in model.net_.optimizer_.state.values()})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{15.0}"


def test_the_optimizers_state_may_be_looked_at_before_the_first_step():
    callback = OnTrainBegin(lambda optimizer: [optimizer.state[p] for p in optimizer.param_groups[0]["params"]])
    CNNLSTMClassifier(max_epochs=2, net_callbacks=[callback], random_state=0).fit(*small_set())


def test_an_optimizer_sets_gradients_to_zero_its_own_way():
    calls = []

    class Counts(torch.optim.SGD):
        def zero_grad(self, set_to_none=True):
            calls.append(1)
            super().zero_grad(set_to_none)

    CNNLSTMClassifier(optimizer=Counts, batch_size=8, max_epochs=2, random_state=0).fit(*small_set())
    assert len(calls) == 6


MAPPED = """
import ctypes
import pickle
import sys
import numpy as np
import torch
from sklearn_cnnlstm import CNNLSTMClassifier

FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()

class Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Mallinfo

def mapped(megabytes):
    before = mallinfo().hblkhd
    block = torch.empty(megabytes * 2**20, dtype=torch.uint8)
    return (mallinfo().hblkhd - before) >> 20

first, X = mapped(20), np.zeros((8, 10, 1), dtype=np.float32)
if sys.argv[1:]:
    with open(sys.argv[1], "rb") as file:
        pickle.load(file).predict(X)
else:
    CNNLSTMClassifier(max_epochs=1, conv_bank=0).fit(X, [0, 1] * 4)
print(first, mapped(28), mallinfo().arena >> 20)
"""


needs_glibc = pytest.mark.skipif(
    sys.platform != "linux"
    or not hasattr(ctypes.CDLL(None), "mallinfo2")
    or platform.machine() not in ("x86_64", "AMD64"),
    reason="torch's memory comes from another library than glibc from 2.33 on",
)


def numbers_printed_by(command):
    others = ("MALLOC", "GLIBC", "LD_PRELOAD")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return [int(number) for number in output.split()]


@needs_glibc
@pytest.mark.parametrize("call", ["fit", "predict"])
def test_blocks_that_a_pass_frees_are_kept_for_the_next_one(call, tmp_path):
    command = [sys.executable, "-c", MAPPED]
    if call == "predict":
        X, y = small_set()
        model = CNNLSTMClassifier(max_epochs=1, conv_bank=0).fit(X[:, :, :1], y)
        (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
        command.append(str(tmp_path / "model.pkl"))
    first, then, heap = numbers_printed_by(command)
    assert first >= 20  # mapped for itself, and given back when it is freed
    assert then == 0
    assert 256 <= heap < 1024  # what a fit keeps beyond that is given back at its end


PAGES = """
import resource
import sys
import numpy as np
from skorch.callbacks import Callback
from sklearn_cnnlstm import CNNLSTMClassifier

def new_pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

class Pages(Callback):
    def on_train_begin(self, net, **kwargs):
        self.counts = []

    def on_epoch_end(self, net, **kwargs):
        self.counts.append(new_pages())

call, n_filters, n_samples = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
X = np.ones((32, 30, 64, 64, 1), dtype=np.float32)
pages = Pages()
model = CNNLSTMClassifier(
    max_epochs=6, conv_bank=0, conv_channels=n_filters, hidden_size=4, batch_size=16, net_callbacks=[pages]
).fit(X[:n_samples], [0, 1] * (n_samples // 2))
if call == "fit":
    print(int(np.median(np.diff(pages.counts))))
else:
    counts = [new_pages()]
    for n in (8, 16, 32):
        model.predict(X[:n])
        counts.append(new_pages())
    of_four_passes, of_eight, of_sixteen = np.diff(counts)
    print(of_sixteen - of_eight)
"""


@needs_glibc
@pytest.mark.parametrize(("call", "n_filters", "n_samples"), [("fit", 8, 16), ("predict", 24, 2)])
def test_pages_that_a_step_or_a_pass_had_serve_the_next_one(call, n_filters, n_samples):
    (n_pages,) = numbers_printed_by([sys.executable, "-c", PAGES, call, str(n_filters), str(n_samples)])
    n_samples_at_once = {"fit": 16, "predict": 2}[call]
    of_a_map = n_samples_at_once * 30 * 64 * 64 * n_filters * 4 / mmap.PAGESIZE
    assert n_pages < of_a_map  # otherwise seven and more


class Library:
    """A C library that has memory for so many blocks."""

    def __init__(self, n_blocks):
        self.n_blocks, self.in_use = n_blocks, []

    def malloc(self, size):
        if len(self.in_use) == self.n_blocks:
            return None
        self.in_use.append(object())
        return self.in_use[-1]

    def free(self, block):
        if block is not None:
            self.in_use.remove(block)


@pytest.mark.parametrize(("n_blocks", "expected"), [(0, 0), (32, 0), (33, 1)])
def test_all_of_the_memory_is_kept_during_a_fit_or_none(n_blocks, expected, monkeypatch):
    _training._keep_freed_memory()
    library = Library(n_blocks)
    monkeypatch.setattr(_training, "_glibc", lambda: library)
    with training_scope(torch.device("cpu"), seed=0):
        assert len(library.in_use) == expected
    assert library.in_use == []


@pytest.mark.parametrize(("n_passes", "expected"), [(4, 0), (5, 1)])
def test_many_passes_keep_more_memory_and_give_it_back(n_passes, expected, monkeypatch):
    X, y = small_set()
    model = CNNLSTMClassifier(max_epochs=1, conv_bank=0).fit(X, y)
    library, in_use = Library(33), []
    monkeypatch.setattr(_training, "_glibc", lambda: library)
    monkeypatch.setattr(_training, "_PASS_POSITIONS", X.shape[1])
    model.net_.module_.register_forward_hook(lambda *args: in_use.append(len(library.in_use)))
    model.predict(X[:n_passes])
    assert in_use == [expected] * n_passes
    assert library.in_use == []


@pytest.mark.parametrize("broken", ["by an error", "by who asked"])
def test_passes_that_are_broken_off_give_memory_back(broken, monkeypatch):
    X, y = small_set()
    net = CNNLSTMClassifier(max_epochs=1, conv_bank=0).fit(X, y).net_
    library = Library(33)
    monkeypatch.setattr(_training, "_glibc", lambda: library)
    monkeypatch.setattr(_training, "_PASS_POSITIONS", X.shape[1])
    passes = net.forward_iter(X)
    next(passes)
    assert len(library.in_use) == 1
    if broken == "by who asked":
        passes.close()
    else:
        monkeypatch.setattr(_training, "to_batch", None)
        with pytest.raises(TypeError):
            next(passes)
    assert library.in_use == []


def test_an_interrupt_while_memory_is_set_aside_loses_none(monkeypatch):
    class Interrupted(Library):
        def malloc(self, size):
            if len(self.in_use) == 20:
                raise KeyboardInterrupt
            return super().malloc(size)

    _training._keep_freed_memory()
    library = Interrupted(33)
    monkeypatch.setattr(_training, "_glibc", lambda: library)
    with pytest.raises(KeyboardInterrupt), _training.more_memory_kept():
        pass
    assert library.in_use == []


def test_memory_of_another_library_than_glibc_is_left_to_it(monkeypatch):
    monkeypatch.setattr(_training.platform, "libc_ver", lambda: ("", ""))
    assert _training._glibc.__wrapped__() is None
    monkeypatch.setattr(_training, "_glibc", lambda: None)
    _training._keep_freed_memory.__wrapped__()
    X, y = small_set()
    assert CNNLSTMClassifier(max_epochs=1).fit(X, y).predict(X).shape == (24,)


@pytest.mark.parametrize(("n_timesteps", "expected"), [(50, 2608), (1000, 128), (2000, 64), (2046, 63), (2**18, 1)])
def test_passes_that_are_large_are_multiples_of_what_is_computed_in_step(n_timesteps, expected):
    X = np.broadcast_to(np.float32(0), (10_000, n_timesteps, 3))
    assert _training.rows_per_pass(X, torch.device("cpu")) == expected


@pytest.mark.parametrize(("n_times", "expected"), [(1, 16), (8, 128)])
def test_a_pass_of_images_is_larger_on_large_devices(n_times, expected, monkeypatch):
    monkeypatch.setattr(_training, "_larger", lambda device: n_times)
    X = np.broadcast_to(np.float32(0), (10_000, 16, 32, 32, 1))
    assert _training.rows_per_pass(X, torch.device("cuda")) == expected
