"""Data that stay where they are (HDF5, zarr, xarray, anything with shape, dtype and rows) and are read as needed."""

import pickle
import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_cnnlstm import CNNLSTMClassifier, CNNLSTMRegressor, _sequences
from sklearn_cnnlstm._sequences import Rows

SHAPE = (20, 3)
SMALL = {"conv_channels": (4,), "hidden_size": 4, "batch_size": 16, "max_epochs": 2, "random_state": 0, "device": "cpu"}

every_class = pytest.mark.parametrize("cls", [CNNLSTMClassifier, CNNLSTMRegressor])


class Disk:
    """Rows as h5py gives them: an integer, a slice, or indices that grow and are each there once; notes its reads."""

    def __init__(self, X):
        self.X = X
        self.shape, self.dtype = X.shape, X.dtype
        self.reads = []

    def __getitem__(self, key):
        if not isinstance(key, slice):
            assert key.ndim == 1
            assert (np.diff(key) > 0).all(), "indices must grow"
        rows = self.X[key]
        self.reads.append(len(rows))
        return rows


def as_disk(X, folder):
    return Disk(X)


def as_h5py(X, folder):
    h5py = pytest.importorskip("h5py")
    return h5py.File(folder / "X.h5", "w").create_dataset("X", data=X)


def as_compressed_h5py(X, folder):
    h5py = pytest.importorskip("h5py")
    return h5py.File(folder / "X.h5", "w").create_dataset("X", data=X, chunks=(8, *X.shape[1:]), compression="gzip")


def as_zarr(X, folder):
    zarr = pytest.importorskip("zarr")
    array = zarr.open(str(folder / "X.zarr"), mode="w", shape=X.shape, dtype=X.dtype, chunks=(8, *X.shape[1:]))
    array[:] = X
    return array


def as_xarray(X, folder):
    xarray = pytest.importorskip("xarray")
    return xarray.DataArray(X, dims=list("abcdef")[: X.ndim])


def as_dask(X, folder):
    return pytest.importorskip("dask.array").from_array(X, chunks=(8, *X.shape[1:]))


def as_dask_in_xarray(X, folder):
    pytest.importorskip("dask")
    return as_xarray(X, folder).chunk({"a": 8})


FORMS = [as_disk, as_h5py, as_compressed_h5py, as_zarr, as_xarray, as_dask, as_dask_in_xarray]

every_form = pytest.mark.parametrize("form", FORMS)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 10 of the samples below, so that they count as larger than memory."""
    monkeypatch.setattr(_sequences, "_CHUNK_BYTES", 8 * 10 * 20 * 3)


def make_data(cls, shape=SHAPE, n=90, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, *shape))
    level = rng.permutation(np.linspace(-1, 1, n))
    X += level.reshape(-1, *[1] * len(shape))
    return X, (level > 0).astype(int) if cls is CNNLSTMClassifier else level


def answer(model, X):
    return model.predict_proba(X) if isinstance(model, CNNLSTMClassifier) else model.predict(X)


# -- rows


@pytest.mark.parametrize(
    "key",
    [
        slice(3, 60),
        slice(0, 0),
        slice(None, None, -1),
        np.array([5, 80, 2]),
        np.array([7, 7]),
        np.array([3, 5, 4, 5]),
        np.arange(90) % 7 == 0,
        -1,
    ],
)
@pytest.mark.parametrize("form", [as_disk, as_h5py])
def test_rows_are_numpys(form, key, tmp_path):
    X, _ = make_data(CNNLSTMClassifier)
    assert_array_equal(np.asarray(Rows(form(X, tmp_path))[key]), X[key])


def test_rows_of_rows_are_numpys():
    X, _ = make_data(CNNLSTMClassifier)
    order = np.random.default_rng(0).permutation(90)
    selected = Rows(Disk(X)).mapped(np.sin)[order][10:30][::3]
    assert selected.shape == (7, *SHAPE)
    assert_array_equal(np.asarray(selected), np.sin(X[order][10:30][::3]))


def test_rows_apart_are_read_alone_and_close_ones_as_a_slice():
    disk = Disk(np.zeros((90, *SHAPE)))
    np.asarray(Rows(disk)[np.array([0, 89])])
    np.asarray(Rows(disk)[np.array([0, 2, 3])])
    assert disk.reads == [2, 4]


# -- the same bits as from memory


@every_class
@every_form
def test_form_does_not_change_a_bit(cls, form, tmp_path):
    X, y = make_data(cls)
    expected = answer(cls(**SMALL).fit(X, y), X)
    stream = form(X, tmp_path)
    model = cls(**SMALL).fit(stream, y)
    assert_array_equal(answer(model, stream), expected)
    assert_array_equal(answer(model, X), expected)
    assert model.embed(stream).shape[0] == 90


@pytest.mark.parametrize("dtype", ["u1", "f2", "f4", ">f8", "?"])
@pytest.mark.parametrize("form", [as_disk, as_h5py])
def test_dtype_does_not_change_a_bit(form, dtype, tmp_path):
    X, y = make_data(CNNLSTMClassifier)
    X = (X > 0).astype(dtype)
    stream = form(X, tmp_path)
    expected = CNNLSTMClassifier(**SMALL).fit(X, y).predict_proba(X)
    assert_array_equal(CNNLSTMClassifier(**SMALL).fit(stream, y).predict_proba(stream), expected)


@pytest.mark.parametrize("settings", [{}, {"input_shape": (10, 6)}, {"input_shape": (6, 10), "layout": "NCT"}])
def test_flat_rows_unfold_as_they_are_read(settings):
    X, y = make_data(CNNLSTMClassifier)
    X = X.reshape(90, 60)
    expected = CNNLSTMClassifier(**settings, **SMALL).fit(X, y)
    model = CNNLSTMClassifier(**settings, **SMALL).fit(Disk(X), y)
    assert model.n_features_in_ == 60
    assert model.input_shape_ == expected.input_shape_
    assert_array_equal(model.predict_proba(Disk(X)), expected.predict_proba(X))


def test_layout_is_put_in_order_as_rows_are_read():
    X, y = make_data(CNNLSTMRegressor, (2, 3, 5, 4), n=30)
    expected = CNNLSTMRegressor(layout="NCTHW", **SMALL).fit(X, y)
    model = CNNLSTMRegressor(layout="NCTHW", **SMALL).fit(Disk(X), y)
    assert model.input_shape_ == (3, 5, 4, 2)
    assert_array_equal(model.predict(Disk(X)), expected.predict(X))


@pytest.mark.parametrize(
    ("cls", "scoring"), [(CNNLSTMClassifier, "loss"), (CNNLSTMClassifier, "neg_log_loss"), (CNNLSTMRegressor, "r2")]
)
def test_inner_split_and_validation_data_are_streams_too(cls, scoring):
    X, y = make_data(cls)
    X_val, y_val = make_data(cls, seed=1)
    weight = np.tile([1.0, 0.0, 2.0], 30)
    for validation in ({}, {"X_val": X_val, "y_val": y_val, "sample_weight_val": weight}):
        streams = validation | {name: Disk(value) for name, value in validation.items() if name == "X_val"}
        model = cls(**SMALL, early_stopping=True, scoring=scoring)
        expected = model.fit(X, y, weight, **validation).history_.drop(columns="seconds")
        assert model.fit(Disk(X), y, weight, **streams).history_.drop(columns="seconds").equals(expected)


@every_class
def test_partial_fit_reads_each_part(cls):
    X, y = make_data(cls)
    classes = {"classes": [0, 1]} if cls is CNNLSTMClassifier else {}
    from_memory, from_disk = cls(**SMALL), cls(**SMALL)
    for part in (slice(0, 50), slice(50, 90)):
        from_memory.partial_fit(X[part], y[part], **classes)
        from_disk.partial_fit(Disk(X[part]), y[part], **classes)
    assert_array_equal(answer(from_disk, X), answer(from_memory, X))


@every_class
def test_warm_start_goes_on_with_a_stream(cls):
    X, y = make_data(cls)
    expected = answer(cls(warm_start=True, **SMALL).fit(X, y).fit(X, y), X)
    assert_array_equal(answer(cls(warm_start=True, **SMALL).fit(Disk(X), y).fit(Disk(X), y), X), expected)


def test_lone_row_is_doubled_without_asking_for_it_twice():
    X, y = make_data(CNNLSTMClassifier, n=33)
    model = CNNLSTMClassifier(**SMALL | {"batch_size": 1, "max_epochs": 1}).fit(Disk(X), y)
    assert np.isfinite(model.history_["train_loss"]).all()


# -- memory


@every_class
def test_no_read_is_larger_than_a_block_or_a_batch(cls, monkeypatch):
    monkeypatch.setattr("sklearn_cnnlstm._training._PASS_POSITIONS", 20 * 20)  # 20 samples
    monkeypatch.setattr("sklearn_cnnlstm._estimators._CALIBRATION_POSITIONS", 20 * 20)
    X, y = make_data(cls, n=200)
    scoring = "neg_log_loss" if cls is CNNLSTMClassifier else "r2"
    disk = Disk(X)
    model = cls(**SMALL, early_stopping=True, scoring=scoring, validation_fraction=0.3).fit(disk, y)
    assert max(disk.reads) <= 32  # a batch of 16 or a pass of 20, read as a slice where its rows lie close
    disk.reads.clear()
    model.predict(disk)
    assert max(disk.reads) == 20
    assert sum(disk.reads) == 200


class Film:
    """Frames that are made when they are read."""

    shape, dtype = (400, 4, 64, 64, 1), np.dtype(np.uint8)

    def __getitem__(self, key):
        rows = np.arange(self.shape[0])[key]
        return np.full((len(rows), *self.shape[1:]), rows.reshape(-1, 1, 1, 1, 1) % 250, dtype=np.uint8)


def test_memory_stays_below_the_data(monkeypatch):
    monkeypatch.setattr(_sequences, "_CHUNK_BYTES", 2**19)
    monkeypatch.setattr("sklearn_cnnlstm._training._PASS_PIXELS", 4 * 64 * 64 * 4)
    film = Film()
    y = np.arange(400) % 250 > 120
    model = CNNLSTMClassifier(
        **SMALL | {"max_epochs": 1, "batch_size": 8, "pool_size": 8, "conv_bank": 0}, kernel_size=1
    )
    tracemalloc.start()
    model.fit(film, y).predict(film)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < np.prod(film.shape) / 2


def test_small_streams_are_arrays(monkeypatch):
    monkeypatch.setattr(_sequences, "_CHUNK_BYTES", 2**20)
    X, y = make_data(CNNLSTMClassifier)
    disk = Disk(X)
    CNNLSTMClassifier(**SMALL).fit(disk, y)
    assert disk.reads == [90]


def test_pickle_holds_no_stream():
    X, y = make_data(CNNLSTMClassifier)
    assert b"Disk" not in pickle.dumps(CNNLSTMClassifier(**SMALL, early_stopping=True).fit(Disk(X), y))


# -- what cannot be


@every_class
@pytest.mark.parametrize(("value", "word"), [(np.inf, "infinity"), (1e300, "too large for dtype")])
def test_bad_values_are_found_as_rows_are_read(cls, value, word):
    X, y = make_data(cls)
    model = cls(**SMALL).fit(X, y)
    expected, before = answer(model, X), dict(vars(model))
    bad = X.copy()
    bad[71, 3, 1] = value
    for call in (lambda: model.fit(Disk(bad), y), lambda: model.partial_fit(Disk(bad), y)):
        with pytest.raises(ValueError, match=word):
            call()
        assert vars(model) == before
        assert_array_equal(answer(model, X), expected)
    with pytest.raises(ValueError, match=word):
        model.predict(Disk(bad))


@every_class
def test_streams_of_another_shape_are_refused_before_they_are_read(cls):
    X, y = make_data(cls)
    model = cls(**SMALL).fit(X, y)
    disk = Disk(np.zeros((90, 20, 4)))
    with pytest.raises(ValueError, match=f"X has 4 channels, but {cls.__name__} was fitted with 3"):
        model.predict(disk)
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[90, 89\]"):
        model.fit(disk, y[1:])
    assert disk.reads == []


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros((0, 20, 3)), r"0 sample\(s\)"),
        (np.zeros((90, 20, 3), dtype=complex), "Complex data not supported"),
        (np.full((90, 20, 3), "a"), "not compatible with arrays of bytes/strings"),
        (np.full((90, 20, 3), "a", dtype=object), "could not convert string to float"),
        (np.zeros((90, 2, 2, 2, 2, 2, 2, 2)), "X has 8 dimensions"),
    ],
)
def test_streams_that_cannot_be_are_refused_as_arrays_are(X, message, monkeypatch):
    monkeypatch.setattr(_sequences, "_CHUNK_BYTES", -1)  # even an empty one is a stream
    y = np.arange(len(X)) % 2
    for given in (X, Disk(X)):
        with pytest.raises(ValueError, match=message):
            CNNLSTMClassifier(**SMALL).fit(given, y)


def test_error_of_the_disk_is_the_callers():
    class Broken(Disk):
        def __getitem__(self, key):
            if len(self.reads) > 20:
                raise OSError("the disk is gone")
            return super().__getitem__(key)

    X, y = make_data(CNNLSTMClassifier)
    model = CNNLSTMClassifier(**SMALL | {"max_epochs": 20})
    with pytest.raises(OSError, match="the disk is gone"):
        model.fit(Broken(X), y)
    assert not hasattr(model, "net_")


# -- in scikit-learn


def as_memmap(X, folder):
    np.save(folder / "X.npy", X)
    return np.load(folder / "X.npy", mmap_mode="r")


@pytest.mark.parametrize("form", [as_memmap, as_h5py, as_xarray, as_dask])
def test_search_over_unshuffled_folds(form, tmp_path):
    X, y = make_data(CNNLSTMClassifier)
    grid, cv = {"lr": [1e-3, 1e-2]}, StratifiedKFold(2)
    expected = GridSearchCV(CNNLSTMClassifier(**SMALL), grid, cv=cv, scoring="neg_log_loss").fit(X, y)
    search = GridSearchCV(CNNLSTMClassifier(**SMALL), grid, cv=cv, scoring="neg_log_loss", error_score="raise")
    stream = form(X, tmp_path)
    search.fit(stream, y)
    assert search.cv_results_["mean_test_score"].tolist() == expected.cv_results_["mean_test_score"].tolist()
    assert_array_equal(search.predict_proba(stream), expected.predict_proba(X))


@pytest.mark.parametrize("form", [as_memmap, as_xarray, as_dask])
def test_cross_validation_over_shuffled_folds(form, tmp_path):
    X, y = make_data(CNNLSTMClassifier)
    cv = StratifiedKFold(2, shuffle=True, random_state=0)
    expected = cross_val_score(CNNLSTMClassifier(**SMALL), X, y, cv=cv, scoring="neg_log_loss")
    scores = cross_val_score(CNNLSTMClassifier(**SMALL), form(X, tmp_path), y, cv=cv, scoring="neg_log_loss")
    assert scores.tolist() == expected.tolist()


class Blocks(Disk):
    """As dask reads: a slice per axis."""

    ndim = 3

    def __getitem__(self, key):
        return super().__getitem__(key[0])[:, *key[1:]]


def test_splits_of_xarray_are_not_read_before_they_are_used():
    xarray, dask_array = pytest.importorskip("xarray"), pytest.importorskip("dask.array")
    X, y = make_data(CNNLSTMClassifier)
    disk = Blocks(X)
    lazy = xarray.DataArray(dask_array.from_array(disk, chunks=(10, -1, -1)), dims=["n", "t", "c"])
    cross_val_score(CNNLSTMClassifier(**SMALL), lazy, y, cv=StratifiedKFold(2, shuffle=True, random_state=0))
    assert max(disk.reads) <= 10


def test_pipeline_hands_the_stream_on():
    X, y = make_data(CNNLSTMClassifier)
    disk = Disk(X)
    model = make_pipeline(FunctionTransformer(), CNNLSTMClassifier(**SMALL)).fit(disk, y)
    assert disk.reads[0] == 10  # a block: the whole was not read before
    assert_array_equal(model.predict_proba(disk), CNNLSTMClassifier(**SMALL).fit(X, y).predict_proba(X))
