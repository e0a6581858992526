"""What only a CUDA device shows; the other tests run on the CPU wherever they are."""

import copy
import gc
import pickle
import threading

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks
from skorch.callbacks import BatchScoring, EarlyStopping, EpochScoring

from sklearn_cnnlstm import CNNLSTMClassifier, CNNLSTMRegressor, _training, inspection
from sklearn_cnnlstm._graphs import RecordedSteps
from sklearn_cnnlstm._network import CNNLSTM

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
SHAPES = [(40, 2), (6, 8, 2), (5, 8, 8, 1), (3, 4, 4, 4, 1)]
SMALL = {"conv_channels": (8,), "hidden_size": 8, "random_state": 0}
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{len(shape) + 1}d")
every_class = pytest.mark.parametrize("cls", [CNNLSTMClassifier, CNNLSTMRegressor])


@pytest.fixture
def exact():
    """Products in float32: torch lets cuDNN round them to TF32, of which an error of a thousandth is left."""
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


def data(cls, shape, n=60):
    X = np.random.default_rng(0).normal(size=(n, *shape)).astype(np.float32)
    level = X.reshape(n, -1)[:, ::2].mean(axis=1)
    return X, (level > 0).astype(int) if cls is CNNLSTMClassifier else level / level.std()


def answer(model, X):
    return model.predict_proba(X) if hasattr(model, "predict_proba") else model.predict(X)


def on_the_cpu(model):
    """The model as it is where there is no GPU."""
    state = pickle.loads(pickle.dumps(model))
    state.device = "cpu"
    assert not next(state.net_.module_.parameters()).is_cuda
    return state


# -- what is trained, and where


@every_class
@every_shape
def test_default_trains_there_and_answers_as_on_the_cpu(cls, shape, exact):
    X, y = data(cls, shape)
    model = cls(max_epochs=3, precision="float32", random_state=0).fit(X, y)
    assert model.device_.type == "cuda"
    assert next(model.net_.module_.parameters()).is_cuda
    np.testing.assert_allclose(answer(on_the_cpu(model), X), answer(model, X), atol=2e-5)


@every_class
@every_shape
def test_default_learns(cls, shape):
    X, y = data(cls, shape, n=200)
    model = cls(max_epochs=30, random_state=0).fit(X, y)
    assert model.score(X, y) > 0.6
    assert np.isfinite(model.history_["train_loss"]).all()


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "float32"])
@every_shape
def test_every_precision_learns(precision, shape):
    X, y = data(CNNLSTMClassifier, shape, n=120)
    model = CNNLSTMClassifier(precision=precision, max_epochs=30, random_state=0).fit(X, y)
    assert model.precision_ == precision
    assert model.score(X, y) > 0.7


@every_class
@pytest.mark.parametrize("target", ["step", "map"])
def test_steps_and_maps_are_answered_as_on_the_cpu(cls, target, exact):
    X, _ = data(cls, (5, 8, 8, 1))
    y = X[:, :, 0, 0, 0] if target == "step" else X[:, -1:, ..., 0]
    y = y if cls is CNNLSTMRegressor else (y > 0).astype(int)
    model = cls(target=target, precision="float32", max_epochs=2, **SMALL).fit(X, y)
    np.testing.assert_allclose(answer(on_the_cpu(model), X), answer(model, X), atol=2e-5)


@every_class
@pytest.mark.parametrize("conv_bank", [0, 84])
def test_neither_padding_nor_mates_nor_gaps_change_an_answer(cls, conv_bank, exact):
    X, y = data(cls, (40, 2))
    X[::3, 5:9, 0] = np.nan
    ragged = [x[: 20 + i % 20] for i, x in enumerate(X)]
    model = cls(conv_bank=conv_bank, max_epochs=2, **SMALL).fit(ragged, y)
    alone = np.concatenate([answer(model, [x]) for x in ragged])
    np.testing.assert_allclose(answer(model, ragged), alone, atol=1e-5)
    np.testing.assert_allclose(answer(on_the_cpu(model), ragged), alone, atol=2e-5)


def test_quantiles_are_answered_as_on_the_cpu(exact):
    X, y = data(CNNLSTMRegressor, (40, 2))
    model = CNNLSTMRegressor(loss="quantile", quantiles=(0.1, 0.5, 0.9), max_epochs=3, **SMALL).fit(X, y)
    np.testing.assert_allclose(on_the_cpu(model).predict(X), model.predict(X), atol=2e-5)


@parametrize_with_checks(
    [CNNLSTMClassifier(deterministic=True), CNNLSTMRegressor(deterministic=True)],
    expected_failed_checks=lambda estimator: {
        "check_sample_weight_equivalence_on_dense_data": "as on the CPU (test_checks.py)"
    },
)
def test_sklearn_check(estimator, check, exact):
    check(estimator)


# -- steps that are recorded


@pytest.fixture
def made(monkeypatch):
    """The numbers of samples for which steps were recorded."""
    sizes, record = [], RecordedSteps._record

    def recorded(self, batch, weight, known):
        recording = record(self, batch, weight, known)
        sizes.append(len(batch[1]))
        return recording

    monkeypatch.setattr(RecordedSteps, "_record", recorded)
    return sizes


def fits_with_and_without_recording(monkeypatch, made, fit):
    recorded = fit()
    assert made
    n_recorded = len(made)
    monkeypatch.setattr(_training.TrainingNet, "_may_record", lambda self, batches: False)
    as_it_is = fit()
    assert len(made) == n_recorded
    return recorded, as_it_is


def losses_are_close(a, b, rtol=1e-3):
    np.testing.assert_allclose(a.history_["train_loss"], b.history_["train_loss"], rtol=rtol, atol=1e-3)


@every_class
@every_shape
def test_recorded_steps_learn_what_others_learn(cls, shape, exact, made, monkeypatch):
    X, y = data(cls, shape, n=90)
    settings = {"max_epochs": 20, "batch_size": 16, "dropout": 0.0, "deterministic": True, "random_state": 0}
    losses_are_close(*fits_with_and_without_recording(monkeypatch, made, lambda: cls(**settings).fit(X, y)))


@pytest.mark.parametrize(
    "params",
    [
        {"loss": "quantile", "quantiles": (0.1, 0.5, 0.9)},
        {"loss": "huber", "conv_bank": 0},
        {"target": "step"},
        {"optimizer": "adam"},
        {"early_stopping": True, "n_iter_no_change": 50},
        {"missing": "ffill"},
        {"missing": "mask"},
    ],
    ids=str,
)
def test_recorded_steps_of_every_kind(params, exact, made, monkeypatch):
    X, y = data(CNNLSTMRegressor, (40, 2), n=90)
    if "missing" in params:
        X[::3, 4:7, 0] = np.nan
    y = np.nan_to_num(X[..., 0]) if "target" in params else y
    weight = np.linspace(0.5, 2.0, 90)
    settings = {"max_epochs": 20, "batch_size": 16, "dropout": 0.0, "random_state": 0} | params

    def fit():
        return CNNLSTMRegressor(**settings).fit(X, y, sample_weight=weight)

    losses_are_close(*fits_with_and_without_recording(monkeypatch, made, fit), rtol=5e-3)


@every_class
def test_recorded_steps_on_maps(cls, exact, made, monkeypatch):
    X, _ = data(cls, (5, 8, 8, 1), n=90)
    y = X[:, -1:, ..., 0] if cls is CNNLSTMRegressor else (X[:, -1:, ..., 0] > 0).astype(int)
    settings = {"target": "map", "max_epochs": 20, "batch_size": 16, "dropout": 0.0, **SMALL}
    losses_are_close(*fits_with_and_without_recording(monkeypatch, made, lambda: cls(**settings).fit(X, y)), rtol=5e-3)


class ReadsBack(torch.nn.Module):
    """A convolution that waits for the host, as a recording may not."""

    def __init__(self, n_channels, n_spatial):
        super().__init__()
        self.conv = torch.nn.Conv1d(n_channels, 4, 3, padding=1)

    def forward(self, X):
        X = self.conv(X)
        return X * (1.0 if float(X.detach().sum()) > -1e9 else 2.0)


def test_a_step_that_cannot_be_recorded_is_done_as_it_is(made, monkeypatch):
    X, y = data(CNNLSTMClassifier, (40, 2), n=90)
    settings = {"backbone": ReadsBack, "conv_bank": 0, "max_epochs": 20, "batch_size": 16, "dropout": 0.0}
    expected = CNNLSTMClassifier(random_state=0, **settings).fit(X, y)
    init = CNNLSTM.__init__

    def as_if_static(self, *args, **keywords):
        init(self, *args, **keywords)
        self.is_static = True

    with monkeypatch.context() as patch:
        patch.setattr(CNNLSTM, "__init__", as_if_static)
        with pytest.warns(RuntimeWarning, match="was not recorded"):
            model = CNNLSTMClassifier(random_state=0, **settings).fit(X, y)
    assert not made
    losses_are_close(model, expected, rtol=0.05)
    CNNLSTMClassifier(max_epochs=20, batch_size=16, random_state=0).fit(X, y)  # and the next one records again
    assert made


def test_threads_may_predict_while_steps_are_recorded(made):
    X, y = data(CNNLSTMClassifier, (40, 2), n=90)
    model = CNNLSTMClassifier(max_epochs=2, random_state=0).fit(X, y)
    expected, done, wrong = model.predict_proba(X), threading.Event(), []

    def ask():
        while not done.is_set():
            wrong.append(float(np.abs(model.predict_proba(X) - expected).max()))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(3):
            CNNLSTMClassifier(max_epochs=20, batch_size=16, random_state=0).fit(X, y)
    finally:
        done.set()
        thread.join()
    assert made
    assert max(wrong) < 1e-3


# -- the same bits, and nothing left behind


@every_shape
def test_deterministic_training_repeats_its_bits(shape):
    X, y = data(CNNLSTMClassifier, shape)
    settings = {"deterministic": True, "max_epochs": 20, "batch_size": 16, "random_state": 0}
    models = [CNNLSTMClassifier(**settings).fit(X, y) for _ in range(2)]
    assert np.array_equal(models[0].predict_proba(X), models[1].predict_proba(X))


def test_deterministic_training_of_maps():
    X, _ = data(CNNLSTMRegressor, (3, 16, 16, 1), n=12)
    CNNLSTMRegressor(target="map", deterministic=True, max_epochs=1, **SMALL).fit(X, X[:, -1:, ..., 0])


def test_torch_says_what_it_cannot_repeat():
    X, _ = data(CNNLSTMRegressor, (3, 16, 16, 16, 1), n=12)
    with pytest.raises(RuntimeError, match=r"max_pool3d.* does not have a deterministic implementation"):
        CNNLSTMRegressor(deterministic=True, max_epochs=1, random_state=0).fit(X, X[:, 0, 0, 0, 0, 0])


def test_random_states_and_switches_are_left_alone():
    def state():
        products, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        return products.fp32_precision, cudnn.allow_tf32, cudnn.benchmark, torch.are_deterministic_algorithms_enabled()

    X, y = data(CNNLSTMClassifier, (6, 8, 2))
    before, random_states = state(), (torch.cuda.get_rng_state(), torch.get_rng_state())
    CNNLSTMClassifier(max_epochs=40, deterministic=True, random_state=0).fit(X, y).predict(X)
    assert state() == before
    assert torch.equal(torch.cuda.get_rng_state(), random_states[0])
    assert torch.equal(torch.get_rng_state(), random_states[1])


def reserved():
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved()


@pytest.mark.parametrize("keeps_models", [False, True])
def test_memory_of_training_is_given_back(keeps_models, made):
    X, y = data(CNNLSTMClassifier, (2000, 20), n=200)  # 32 MB
    settings = {"conv_bank": 0, "max_epochs": 40, "batch_size": 32, **SMALL}
    models = [CNNLSTMClassifier(**settings).fit(X, y)]
    before = reserved()
    for _ in range(3):
        models.append(CNNLSTMClassifier(**settings).fit(X, y))
        if not keeps_models:
            models.pop()
    assert made
    assert reserved() < before + 2**25


def test_an_interrupted_fit_keeps_no_memory(made, monkeypatch):
    X, y = data(CNNLSTMClassifier, (2000, 20), n=200)
    settings = {"conv_bank": 0, "max_epochs": 40, "batch_size": 32, **SMALL}
    CNNLSTMClassifier(**settings).fit(X, y)
    before = reserved()

    def interrupt(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda.CUDAGraph, "replay", interrupt)
        with pytest.raises(KeyboardInterrupt) as caught:
            CNNLSTMClassifier(**settings).fit(X, y)
    assert caught.tb is not None  # as in a notebook, which keeps the last error, and with it data and gradients
    assert reserved() < before + 90 * 2**20  # 68 MB were seen, and 122 with a recording that is not closed
    CNNLSTMClassifier(**settings).fit(X, y)
    del caught
    assert reserved() < before + 2**24


# -- where the data are


def test_data_that_do_not_fit_stream_to_the_same_bits(tmp_path, monkeypatch):
    X, y = data(CNNLSTMClassifier, (40, 2))
    settings = {"deterministic": True, "batch_size": 16, "max_epochs": 3, **SMALL}
    resident = CNNLSTMClassifier(**settings).fit(X, y)
    np.save(tmp_path / "X.npy", X)
    monkeypatch.setattr(_training, "_RESIDENT_SHARE", 0.0)
    monkeypatch.setattr(_training, "_CONVERT_BYTES", 0)
    streamed = CNNLSTMClassifier(**settings).fit(np.load(tmp_path / "X.npy", mmap_mode="r"), y)
    assert np.array_equal(streamed.predict_proba(X), resident.predict_proba(X))


def test_integers_are_resident_as_they_are():
    X = np.arange(2 * 6 * 8 * 8, dtype=np.uint8).reshape(2, 6, 8, 8, 1)
    resident = _training._to_accelerator(X, np.array([1, 0, 1]), torch.device("cuda"))
    assert resident.dtype == torch.uint8
    assert np.array_equal(resident.cpu().numpy(), X[[1, 0, 1]])


def test_out_of_memory_is_survived_with_the_same_gradients():
    X, y = data(CNNLSTMClassifier, (128, 16, 16, 1), n=64)
    settings = {"conv_bank": 0, "batch_size": 64, "max_epochs": 40, "dropout": 0.0, "random_state": 0}
    roomy = CNNLSTMClassifier(**settings).fit(X, y)
    gc.collect()
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 200 * 2**20) / total)
    try:
        with pytest.warns(RuntimeWarning, match="Out of memory with 64 samples at once"):
            short = CNNLSTMClassifier(**settings).fit(X, y)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    np.testing.assert_allclose(short.history_["train_loss"][:5], roomy.history_["train_loss"][:5], rtol=0.05)
    CNNLSTMClassifier(**settings).fit(X, y)


# -- models that travel


def test_copies_and_pickles_predict_without_a_warning():
    X, y = data(CNNLSTMClassifier, (40, 2))
    model = CNNLSTMClassifier(max_epochs=2, random_state=0).fit(X, y)
    expected = model.predict_proba(X)
    for same in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_allclose(same.predict_proba(X), expected, atol=1e-3)
        assert next(same.net_.module_.parameters()).is_cuda
    with torch.inference_mode():
        copy.deepcopy(model.net_.module_)(torch.tensor(X).cuda())
    assert not any(t.is_cuda for t in model.net_.__getstate__()["module_"].state_dict().values())


def test_training_goes_on():
    X, y = data(CNNLSTMClassifier, (40, 2))
    model = CNNLSTMClassifier(max_epochs=2, warm_start=True, random_state=0).fit(X, y)
    model.fit(X, y)
    assert len(model.history_) == 4
    part = CNNLSTMClassifier(random_state=0, **{"conv_channels": (8,), "hidden_size": 8})
    for _ in range(3):
        part.partial_fit(X, y, classes=[0, 1])
    loaded = pickle.loads(pickle.dumps(part)).partial_fit(X, y)
    assert loaded.device_.type == "cuda"
    assert len(loaded.history_) == 4


# -- what users plug in


def test_callbacks_of_skorch_work():
    X, y = data(CNNLSTMClassifier, (40, 2))
    callbacks = [
        EpochScoring("accuracy", name="accuracy", lower_is_better=False),
        EpochScoring("accuracy", name="seen", on_train=True, lower_is_better=False),
        BatchScoring("accuracy", name="of_batches", lower_is_better=False),
        EarlyStopping("valid_loss", patience=10, load_best=True, sink=lambda text: None),
    ]
    model = CNNLSTMClassifier(net_callbacks=callbacks, max_epochs=4, **SMALL).fit(X, y, X_val=X, y_val=y)
    assert len(model.history_) == 4
    assert {"accuracy", "seen", "of_batches"} <= set(model.history_)


def test_early_stopping_puts_the_best_weights_back():
    X, y = data(CNNLSTMClassifier, (40, 2), n=120)
    model = CNNLSTMClassifier(early_stopping=True, max_epochs=6, **SMALL).fit(X, y)
    assert 1 <= model.best_epoch_ <= len(model.history_)


def test_grid_search_shares_the_device():
    X, y = data(CNNLSTMClassifier, (40, 2))
    search = GridSearchCV(CNNLSTMClassifier(max_epochs=1, **SMALL), {"lr": [1e-3, 1e-2]}, cv=2, n_jobs=2).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_threads_may_predict_at_once():
    X, y = data(CNNLSTMClassifier, (40, 2))
    model = pickle.loads(pickle.dumps(CNNLSTMClassifier(max_epochs=1, random_state=0).fit(X, y)))
    answers = [None] * 4

    def ask(i):
        answers[i] = model.predict_proba(X)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in answers:
        np.testing.assert_allclose(one, answers[0], atol=1e-6)


@every_shape
def test_inspection_works(shape):
    X, y = data(CNNLSTMClassifier, shape)
    model = CNNLSTMClassifier(max_epochs=1, random_state=0).fit(X, y)
    assert inspection.summary(model).notna().any(axis=None)
    assert inspection.attention_weights(model, X[:3]).shape[0] == 3
    pytest.importorskip("captum")
    for method in ("integrated_gradients", "occlusion"):
        assert inspection.attribute(model, X[:3], method=method).shape == X[:3].shape
