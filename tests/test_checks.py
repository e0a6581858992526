"""The scikit-learn contract: its own checks on 2-D X, their mirror on 3-D to 6-D X, weights, hard shapes."""

import copy
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import skorch
import torch
from numpy.testing import assert_allclose, assert_array_equal, assert_equal
from scipy.sparse import csr_array
from sklearn.base import clone, is_classifier
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.utils import check_random_state, get_tags
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_param_validation,
    parametrize_with_checks,
)

from sklearn_cnnlstm import CNNLSTMClassifier, CNNLSTMRegressor

SHAPES = [(6, 2), (3, 4, 2), (3, 4, 4, 1), (2, 4, 4, 4, 1)]  # of one sample: 3-D, 4-D, 5-D and 6-D X
SMALL = {"conv_channels": (4,), "hidden_size": 4, "batch_size": 4, "max_epochs": 2, "random_state": 0, "device": "cpu"}
FULL_BATCH = {"conv_channels": (), "conv_bank": 0, "dropout": 0, "batch_size": 1000, "max_epochs": 8, "lr": 0.01}
BATCHES = [(33, 32), (9, 4), (3, 2), (12, 1), (12, 1000)]  # n_samples, batch_size

every_class = pytest.mark.parametrize("cls", [CNNLSTMClassifier, CNNLSTMRegressor])
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{len(shape) + 1}d")


def make(cls, **params):
    return cls(**SMALL | params)


def make_data(cls, shape, n=12, seed=0):
    """Noise whose level tells the target; two classes or numbers."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, *shape))
    level = rng.permutation(np.linspace(-1, 1, n))
    X += level.reshape(-1, *[1] * len(shape))
    return X, (level > 0).astype(int) if cls is CNNLSTMClassifier else level


def answer(model, X):
    return model.predict_proba(X) if is_classifier(model) else model.predict(X)


def fitted_attributes_are_the_same(model, before):
    return vars(model).keys() == before.keys() and all(vars(model)[name] is before[name] for name in before)


# -- scikit-learn's checks


@parametrize_with_checks(
    [CNNLSTMClassifier(), CNNLSTMRegressor()],
    expected_failed_checks=lambda estimator: {
        "check_sample_weight_equivalence_on_dense_data": (
            "weights equal repeated rows to 1e-7 only without mini-batches, batch norm and float32; scikit-learn "
            "excuses it for 32 of its own estimators, and the tests of weights below show it where it can hold"
        )
    },
)
def test_sklearn_check(estimator, check):
    check(estimator)


@every_class
def test_no_tag_asks_the_checks_for_mercy(cls):
    tags = get_tags(cls())
    assert not tags.non_deterministic
    assert not tags.no_validation
    assert not tags._skip_test
    assert not (tags.classifier_tags or tags.regressor_tags).poor_score


@every_class
@pytest.mark.parametrize("early_stopping", [False, True])
def test_columns_of_a_dataframe_are_held_to_their_names(cls, early_stopping):
    check_dataframe_column_names_consistency(cls.__name__, make(cls, batch_size=64, early_stopping=early_stopping))


@every_class
def test_every_parameter_is_validated(cls):
    check_param_validation(cls.__name__, cls())


# -- the mirror: parameters and repetition


@every_class
@every_shape
def test_fit_leaves_parameters_and_clone_keeps_them(cls, shape):
    model = make(cls)
    before = joblib.hash(model.get_params())
    model.fit(*make_data(cls, shape))
    assert joblib.hash(model.get_params()) == before
    copied = clone(model)
    assert joblib.hash(copied.get_params()) == before
    assert not hasattr(copied, "net_")


@every_class
@every_shape
def test_fitted_attributes_end_with_an_underscore(cls, shape):
    model = make(cls)
    public = {name for name in vars(model.fit(*make_data(cls, shape))) if not name.startswith("_")}
    assert {name for name in public if not name.endswith("_")} == set(model.get_params())
    assert model.n_features_in_ == shape[-1]
    assert model.input_shape_ == shape


@every_class
@every_shape
def test_same_random_state_gives_the_same_bits_in_a_second_fit(cls, shape):
    X, y = make_data(cls, shape)
    model = make(cls).fit(X, y)
    first = answer(model, X)
    assert_array_equal(answer(model.fit(X, y), X), first)
    assert_array_equal(answer(make(cls).fit(X, y), X), first)


@every_class
@every_shape
def test_other_random_state_gives_another_network(cls, shape):
    X, y = make_data(cls, shape)
    models = [make(cls, random_state=seed).fit(X, y) for seed in (0, 1)]
    assert not np.allclose(*(model.embed(X) for model in models), atol=1e-4)
    learned = [make(cls, random_state=seed, conv_bank=0).fit(X, y) for seed in (0, 1)]  # no readout that fits y exactly
    assert not np.allclose(*(answer(model, X) for model in learned), atol=1e-4)


@every_class
@every_shape
def test_random_state_of_the_caller_is_left_alone(cls, shape):
    X, y = make_data(cls, shape)
    of_numpy = check_random_state(None)  # which all code shares that seeds nothing
    numpy_state, torch_state = of_numpy.get_state(legacy=False)["state"], torch.get_rng_state()
    make(cls).fit(X, y).predict(X)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert_equal(of_numpy.get_state(legacy=False)["state"], numpy_state)


@every_class
@every_shape
def test_without_random_state_numpy_seed_alone_decides(cls, shape):
    X, y = make_data(cls, shape)
    model = make(cls, random_state=None, conv_bank=0)
    torch_state = torch.get_rng_state()
    check_random_state(None).seed(0)
    first = answer(model.fit(X, y), X)
    assert not np.array_equal(answer(model.fit(X, y), X), first)
    check_random_state(None).seed(0)
    assert_array_equal(answer(model.fit(X, y), X), first)
    assert torch.equal(torch.get_rng_state(), torch_state)


# -- the mirror: prediction


@every_class
@every_shape
def test_predict_before_fit_is_refused(cls, shape):
    with pytest.raises(NotFittedError, match=f"This {cls.__name__} instance is not fitted yet"):
        make(cls).predict(make_data(cls, shape)[0])


@every_shape
def test_classifier_answers_agree_with_each_other(shape):
    X, y = make_data(CNNLSTMClassifier, shape)
    model = make(CNNLSTMClassifier).fit(X, y)
    probability = model.predict_proba(X)
    assert_allclose(probability.sum(axis=1), 1, rtol=1e-6)
    assert_allclose(np.exp(model.predict_log_proba(X)), probability, rtol=1e-5)
    assert_array_equal(model.predict(X), probability.argmax(axis=1))
    assert_array_equal(model.predict(X), model.decision_function(X) > 0)


@every_class
@every_shape
def test_order_of_samples_does_not_change_predictions(cls, shape):
    X, y = make_data(cls, shape)
    order = np.random.default_rng(1).permutation(len(X))
    model = make(cls, conv_bank=0).fit(X, y)
    assert_array_equal(answer(model, X[order]), answer(model, X)[order])
    model = make(cls).fit(X, y)  # the sum over thousands of frozen features is rounded by place in the batch
    assert_allclose(answer(model, X[order]), answer(model, X)[order], rtol=1e-5, atol=1e-6)


@every_class
@every_shape
def test_samples_are_predicted_one_by_one_as_together(cls, shape):
    X, y = make_data(cls, shape)
    model = make(cls).fit(X, y)
    together = answer(model, X)
    assert_allclose(np.concatenate([answer(model, X[[i]]) for i in range(len(X))]), together, rtol=1e-4, atol=1e-6)
    assert_allclose(answer(model, X[3:8]), together[3:8], rtol=1e-4, atol=1e-6)


def through_pickle(model, folder):
    return pickle.loads(pickle.dumps(model))


def through_joblib(model, folder):
    joblib.dump(model, folder / "model")
    return joblib.load(folder / "model")


def through_joblib_memmap(model, folder):
    joblib.dump(model, folder / "model")
    return joblib.load(folder / "model", mmap_mode="r")


def through_deepcopy(model, folder):
    return copy.deepcopy(model)


@every_class
@every_shape
@pytest.mark.parametrize("way", [through_pickle, through_joblib, through_joblib_memmap, through_deepcopy])
def test_copy_predicts_the_same(cls, shape, way, tmp_path):
    X, y = make_data(cls, shape)
    model = make(cls).fit(X, y)
    assert_array_equal(answer(way(model, tmp_path), X), answer(model, X))


class Pickles(skorch.callbacks.Callback):
    def __init__(self, sizes):
        self.sizes = sizes

    def on_epoch_end(self, net, **kwargs):
        self.sizes.append(len(pickle.dumps(net)))


@every_class
@pytest.mark.parametrize("conv_bank", [0, 10])
def test_pickle_holds_neither_data_nor_optimizer(cls, conv_bank):
    """After a fit, and amid one."""
    sizes = []
    X, y = make_data(cls, (40, 50), n=200)  # 3.2 MB, of which a bank's regressor holds out a sixth
    model = cls(max_epochs=2, conv_bank=conv_bank, net_callbacks=[Pickles(sizes)], random_state=0).fit(X, y)
    weights = sum(4 * values.numel() for values in model.net_.module_.state_dict().values())
    assert len(sizes) == 2
    for size in (len(pickle.dumps(model)), *sizes):
        assert size < weights + 50_000 < 2 * weights  # Adam's state is twice as large as the weights


@every_class
@every_shape
def test_other_number_of_channels_is_refused(cls, shape):
    X, y = make_data(cls, shape)
    model = make(cls).fit(X, y)
    X = np.concatenate([X, X, X], axis=-1)
    with pytest.raises(ValueError, match=f"X has {3 * shape[-1]} channels, but {cls.__name__} was fitted with"):
        model.predict(X)
    with pytest.raises(ValueError, match=f"X has {3 * shape[-1]} channels, but {cls.__name__} was fitted with"):
        model.partial_fit(X, y)


@every_class
@pytest.mark.parametrize("shape", SHAPES[1:], ids=lambda shape: f"{len(shape) + 1}d")
def test_other_space_is_refused(cls, shape):
    X, y = make_data(cls, shape)
    model = make(cls).fit(X, y)
    with pytest.raises(ValueError, match=rf"X has spatial shape \({shape[1] - 1},.*fitted with \({shape[1]},"):
        model.predict(X[:, :, 1:])


@every_class
@every_shape
def test_other_number_of_axes_is_refused(cls, shape):
    X, y = make_data(cls, shape)
    model = make(cls).fit(X, y)
    for other in (X[..., 0], X[..., np.newaxis], X.reshape(len(X), -1)):
        with pytest.raises(ValueError, match=rf"X has {other.ndim} dimensions, but .* fitted with X of {X.ndim}"):
            model.predict(other)


@every_class
@every_shape
@pytest.mark.parametrize("n_timesteps", [1, 11])
def test_other_number_of_steps_is_accepted(cls, shape, n_timesteps):
    model = make(cls).fit(*make_data(cls, shape))
    X, y = make_data(cls, (n_timesteps, *shape[1:]))
    assert model.predict(X).shape == y.shape
    assert np.isfinite(answer(model, X)).all()


# -- the mirror: what X may be


@every_class
@every_shape
@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "i4", "i1", "u1", "u2", "?", ">f8", ">f4", ">f2", ">i2"])
def test_dtype_does_not_change_predictions(cls, shape, dtype):
    X, y = make_data(cls, shape)
    X = (X > 0).astype(np.float64)  # the same in every dtype
    expected = answer(make(cls).fit(X, y), X)
    model = make(cls).fit(X.astype(dtype), y)
    assert_allclose(answer(model, X.astype(dtype)), expected, rtol=1e-4, atol=1e-5)
    assert_allclose(answer(model, X), expected, rtol=1e-4, atol=1e-5)


@every_class
@every_shape
def test_uint8_frames_give_what_their_floats_give(cls, shape):
    X, y = make_data(cls, shape)
    X = np.clip(128 + 40 * X, 0, 255).astype(np.uint8)
    expected = answer(make(cls).fit(X.astype(np.float64), y), X.astype(np.float64))
    assert_allclose(answer(make(cls).fit(X, y), X), expected, rtol=1e-4, atol=1e-5)


def read_only(X, folder):
    X = X.copy()
    X.setflags(write=False)
    return X


def memory_mapped(X, folder):
    np.save(folder / "X.npy", X)
    return np.load(folder / "X.npy", mmap_mode="r")


def fortran_ordered(X, folder):
    return np.asfortranarray(X)


def strided(X, folder):
    return np.repeat(np.repeat(X, 2, axis=0), 2, axis=-1)[::2, ..., ::2]


def reversed_in_memory(X, folder):
    return X[::-1, ::-1].copy()[::-1, ::-1]


def as_tensor(X, folder):
    return torch.from_numpy(X)


def as_tensor_with_gradient(X, folder):
    return torch.from_numpy(X).requires_grad_()


def list_of_arrays(X, folder):
    return list(X)


def nested_lists(X, folder):
    return X.tolist()


def array_of_arrays(X, folder):
    samples = np.empty(len(X), dtype=object)
    samples[:] = list(X)
    return samples


def series_of_arrays(X, folder):
    return pd.Series(list(X), index=range(1, len(X) + 1))


FORMS = [
    read_only,
    memory_mapped,
    fortran_ordered,
    strided,
    reversed_in_memory,
    as_tensor,
    as_tensor_with_gradient,
    list_of_arrays,
    nested_lists,
    array_of_arrays,
    series_of_arrays,
]


@every_class
@every_shape
@pytest.mark.parametrize("form", FORMS)
def test_form_of_X_does_not_change_a_bit(cls, shape, form, tmp_path):
    X, y = make_data(cls, shape)
    expected = answer(make(cls).fit(X, y), X)
    given = form(X, tmp_path)
    assert_array_equal(answer(make(cls).fit(given, y), given), expected)


@every_class
@every_shape
@pytest.mark.parametrize("dtype", ["f4", "f8", "u1"])
def test_what_users_pass_is_not_changed(cls, shape, dtype):
    X, y = make_data(cls, shape)
    X, weight = X.astype(dtype), np.linspace(0, 1, len(X))
    given = X.copy(), y.copy(), weight.copy()
    make(cls).fit(*given).predict(given[0])
    assert_array_equal(given[0], X)
    assert_array_equal(given[1], y)
    assert_array_equal(given[2], weight)


@every_class
@every_shape
@pytest.mark.parametrize("missing", ["mask", "ffill", "error"])
@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinity_is_refused(cls, shape, missing, value):
    X, y = make_data(cls, shape)
    model = make(cls, missing=missing).fit(X, y)
    X.flat[-1] = value
    for call in (lambda: model.fit(X, y), lambda: model.partial_fit(X, y), lambda: model.predict(X)):
        with pytest.raises(ValueError, match="Input X contains infinity"):
            call()


@every_class
@every_shape
def test_nan_is_refused_if_asked_to(cls, shape):
    X, y = make_data(cls, shape)
    model = make(cls, missing="error").fit(X, y)
    X.flat[-1] = np.nan
    for call in (lambda: model.fit(X, y), lambda: model.partial_fit(X, y), lambda: model.predict(X)):
        with pytest.raises(ValueError, match="Input X contains NaN"):
            call()


@every_class
def test_values_beyond_float32_are_refused(cls):
    X, y = make_data(cls, (6, 2))
    model = make(cls).fit(X, y)
    X[7, 3, 1] = 1e300
    with pytest.raises(ValueError, match="too large for dtype"):
        make(cls).fit(X, y)
    with pytest.raises(ValueError, match="too large for dtype"):
        model.predict(X)


@every_class
@every_shape
def test_list_with_an_odd_sample_is_refused_and_the_sample_named(cls, shape):
    X, y = make_data(cls, shape)
    odd = [*X[:7], X[7][..., :0], *X[8:]]
    with pytest.raises(ValueError, match="sample 7 has shape"):
        make(cls).fit(odd, y)
    with pytest.raises(ValueError, match="sample 7 has shape"):
        make(cls).fit(X, y).predict(odd)


@every_class
@every_shape
def test_complex_X_is_refused(cls, shape):
    X, y = make_data(cls, shape)
    with pytest.raises(ValueError, match="Complex data not supported"):
        make(cls).fit(X + 1j, y)
    with pytest.raises(ValueError, match="Complex data not supported"):
        make(cls).fit(X, y).predict(X + 1j)


@every_class
@every_shape
def test_text_is_refused(cls, shape):
    X, y = make_data(cls, shape)
    with pytest.raises(ValueError, match="not compatible with arrays of bytes/strings"):
        make(cls).fit(np.full(X.shape, "a"), y)
    with pytest.raises(ValueError, match="could not convert string to float"):
        make(cls).fit(np.full(X.shape, "a", dtype=object), y)


@every_class
def test_sparse_X_is_a_type_error(cls):
    X, y = make_data(cls, (6, 2))
    flat = X.reshape(len(X), -1)
    model = make(cls, input_shape=(6, 2))
    with pytest.raises(TypeError, match="Sparse data was passed"):
        model.fit(csr_array(flat), y)
    with pytest.raises(TypeError, match="Sparse data was passed"):
        model.fit(flat, y).predict(csr_array(flat))


@every_class
@every_shape
def test_no_samples_are_refused(cls, shape):
    X, y = make_data(cls, shape)
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        make(cls).fit(X[:0], y[:0])
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        make(cls).fit(X, y).predict(X[:0])


@every_class
@every_shape
def test_empty_axis_is_refused(cls, shape):
    X, y = make_data(cls, shape)
    for axis in range(1, X.ndim):
        with pytest.raises(ValueError, match="X has an empty axis in shape"):
            make(cls).fit(X.take([], axis=axis), y)
    with pytest.raises(ValueError, match="X has no time steps"):
        make(cls).fit(X, y).predict(X[:, :0])


@every_class
def test_too_few_or_too_many_axes_are_refused(cls):
    X, y = make_data(cls, SHAPES[-1])
    with pytest.raises(ValueError, match="X has 7 dimensions"):
        make(cls).fit(X[..., np.newaxis], y)
    with pytest.raises(ValueError, match="Reshape your data"):
        make(cls).fit(X[:, 0, 0, 0, 0, 0], y)
    with pytest.raises(ValueError, match="Expected 2D array, got scalar array"):
        make(cls).fit(1.0, y)


@every_class
@pytest.mark.parametrize(
    ("layout", "shape"),
    [("NCT", (6, 2)), ("NTCS", (3, 4, 2)), ("NTCHW", (3, 4, 5, 2)), ("NCTHW", (3, 4, 5, 2)), ("NCTDHW", SHAPES[-1])],
)
def test_layout_gives_the_bits_of_the_canonical_order(cls, layout, shape):
    X, y = make_data(cls, shape)
    order = {3: "NTC", 4: "NTSC", 5: "NTHWC", 6: "NTDHWC"}[X.ndim]
    given = np.ascontiguousarray(np.einsum(f"{order}->{layout}", X))
    expected = answer(make(cls).fit(X, y), X)
    model = make(cls, layout=layout).fit(given, y)
    assert_array_equal(answer(model, given), expected)
    assert model.n_features_in_ == shape[-1]
    flat = make(cls, layout=layout, input_shape=given.shape[1:]).fit(given.reshape(len(X), -1), y)
    assert_array_equal(answer(flat, given.reshape(len(X), -1)), expected)


@every_class
@every_shape
def test_input_shape_gives_flat_X_the_bits_of_its_own_shape(cls, shape):
    X, y = make_data(cls, shape)
    flat = X.reshape(len(X), -1)
    model = make(cls, input_shape=shape).fit(flat, y)
    assert_array_equal(answer(model, flat), answer(make(cls).fit(X, y), X))
    assert model.n_features_in_ == flat.shape[1]
    assert model.input_shape_ == shape


@every_class
@every_shape
def test_flat_X_of_another_width_is_refused(cls, shape):
    X, y = make_data(cls, shape)
    flat = X.reshape(len(X), -1)
    model = make(cls, input_shape=shape).fit(flat, y)
    with pytest.raises(ValueError, match=f"X has {flat.shape[1] - 1} features, but {cls.__name__} is expecting"):
        model.predict(flat[:, 1:])


# -- the mirror: y


@every_shape
@pytest.mark.parametrize("dtype", [str, object, bool, float, "u1"])
def test_labels_come_back_as_they_were(shape, dtype):
    X, code = make_data(CNNLSTMClassifier, shape)
    names = np.array(["no", "yes"] if dtype in (str, object) else [0, 1]).astype(dtype)
    model = make(CNNLSTMClassifier).fit(X, names[code])
    assert_array_equal(model.classes_, names)
    assert model.classes_.dtype == names.dtype
    assert model.predict(X).dtype == names.dtype
    coded = make(CNNLSTMClassifier).fit(X, code)
    assert_array_equal(model.predict(X), names[coded.predict(X)])
    assert_array_equal(model.predict_proba(X), coded.predict_proba(X))


@every_shape
def test_column_of_labels_is_ravelled_with_a_warning(shape):
    X, y = make_data(CNNLSTMClassifier, shape)
    expected = make(CNNLSTMClassifier).fit(X, y).predict(X)
    with pytest.warns(DataConversionWarning, match="A column-vector y was passed when a 1d array was expected"):
        model = make(CNNLSTMClassifier).fit(X, y[:, np.newaxis])
    assert_array_equal(model.predict(X), expected)


@every_shape
@pytest.mark.parametrize("target_shape", [(), (1,), (3,), (2, 3), (2, 1, 3)])
def test_numbers_come_back_in_their_shape(shape, target_shape):
    X, y = make_data(CNNLSTMRegressor, shape)
    y = np.multiply.outer(y, np.ones(target_shape))
    prediction = make(CNNLSTMRegressor).fit(X, y).predict(X)
    assert prediction.shape == y.shape
    assert prediction.dtype == y.dtype


@every_shape
def test_column_of_numbers_is_predicted_as_the_1d_array(shape):
    X, y = make_data(CNNLSTMRegressor, shape)
    column = make(CNNLSTMRegressor).fit(X, y[:, np.newaxis]).predict(X)
    assert_array_equal(column[:, 0], make(CNNLSTMRegressor).fit(X, y).predict(X))


@every_shape
@pytest.mark.parametrize("y_dtype", [np.float16, np.float32, np.float64, np.int32, bool])
def test_dtype_of_numbers_does_not_change_predictions(shape, y_dtype):
    X, y = make_data(CNNLSTMRegressor, shape)
    y = (y > 0).astype(y_dtype)
    prediction = make(CNNLSTMRegressor).fit(X, y).predict(X)
    assert prediction.dtype == (y_dtype if y_dtype is np.float64 else np.float32)
    assert_allclose(prediction, make(CNNLSTMRegressor).fit(X, y.astype(np.float64)).predict(X), rtol=1e-6)


@every_shape
def test_indicator_matrix_comes_back_as_one(shape):
    X, y = make_data(CNNLSTMClassifier, shape)
    Y = np.column_stack([y, 1 - y, y])
    model = make(CNNLSTMClassifier).fit(X, Y)
    assert model.predict(X).shape == model.predict_proba(X).shape == Y.shape
    assert_array_equal(model.predict(X), model.predict_proba(X) > 0.5)


@every_class
@every_shape
def test_missing_y_is_refused(cls, shape):
    X, _ = make_data(cls, shape)
    with pytest.raises(ValueError, match="requires y to be passed, but the target y is None"):
        make(cls).fit(X, None)


@every_class
@every_shape
def test_y_of_another_length_is_refused(cls, shape):
    X, y = make_data(cls, shape)
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[12, 11\]"):
        make(cls).fit(X, y[1:])


@every_class
@every_shape
def test_nan_in_y_is_refused(cls, shape):
    X, y = make_data(cls, shape)
    y = y.astype(float)
    y[3] = np.nan
    with pytest.raises(ValueError, match="Input y contains NaN"):
        make(cls).fit(X, y)


@every_shape
def test_numbers_are_refused_as_labels(shape):
    X, y = make_data(CNNLSTMRegressor, shape)
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        make(CNNLSTMClassifier).fit(X, y)


# -- the mirror: side effects


@every_class
@every_shape
def test_failing_second_fit_leaves_the_estimator_as_it_was(cls, shape):
    X, y = make_data(cls, shape)
    model = make(cls).fit(X, y)
    before, expected = dict(vars(model)), answer(model, X)
    other = np.ones((len(X), *shape[:-1], shape[-1] + 1))  # accepted, and its channels noted, before y is looked at
    for bad in ((other, y[1:]), (other, y, -np.ones(len(y))), (X[..., 0, np.newaxis], None), (X.reshape(12, -1), None)):
        with pytest.raises(ValueError, match=r"inconsistent|negative|the target y is None"):
            model.fit(*bad)
        assert fitted_attributes_are_the_same(model, before)
    assert_array_equal(answer(model, X), expected)


class Stumbles(skorch.callbacks.Callback):
    def on_epoch_end(self, net, **kwargs):
        raise ArithmeticError("stumbled")


@every_class
@every_shape
def test_fit_that_fails_in_training_leaves_the_estimator_as_it_was(cls, shape):
    X, y = make_data(cls, shape)
    model = make(cls).fit(X, y)
    expected = answer(model, X)
    model.set_params(net_callbacks=[Stumbles()])
    before = dict(vars(model))
    with pytest.raises(ArithmeticError, match="stumbled"):
        model.fit(X[..., :1, :] if X.ndim > 3 else X[:, :2], y)
    assert fitted_attributes_are_the_same(model, before)
    assert_array_equal(answer(model, X), expected)


@every_class
@every_shape
def test_nothing_is_printed_and_no_file_written(cls, shape, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X, y = make_data(cls, shape)
    make(cls, early_stopping=True, validation_fraction=0.25).fit(X, y).predict(X)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


# -- weights


@every_class
@every_shape
def test_weights_that_cannot_be_are_refused(cls, shape):
    X, y = make_data(cls, shape)
    weight = np.ones(len(X))
    with pytest.raises(ValueError, match=r"sample_weight.shape == \(11,\), expected \(12,\)"):
        make(cls).fit(X, y, weight[1:])
    with pytest.raises(ValueError, match="Sample weights must be 1D array or scalar"):
        make(cls).fit(X, y, weight[:, np.newaxis])
    with pytest.raises(ValueError, match="sample_weight has negative values, the least -1"):
        make(cls).fit(X, y, weight - 2 * (weight.cumsum() == 5))
    with pytest.raises(ValueError, match=r"[wW]eight.* at least one non-zero number"):
        make(cls).fit(X, y, 0 * weight)
    with pytest.raises(ValueError, match="Input sample_weight contains NaN"):
        make(cls).fit(X, y, weight * np.nan)


@every_class
@every_shape
@pytest.mark.parametrize("early_stopping", [False, True])
def test_rows_of_weight_zero_are_as_absent_to_the_bit(cls, shape, early_stopping):
    X, y = make_data(cls, shape, n=24)
    weight = np.tile([1.0, 0.0, 3.0, 0.5], 6)
    said = weight > 0
    model = make(cls, early_stopping=early_stopping, validation_fraction=0.25)
    expected = answer(model.fit(X[said], y[said], weight[said]), X)
    assert_array_equal(answer(model.fit(X, y, weight), X), expected)


def test_rows_of_weight_zero_are_not_counted_in_balanced_weights():
    X, y = make_data(CNNLSTMClassifier, (6, 2), n=24)
    weight = np.where((y == 0) & (np.arange(24) % 3 > 0), 0.0, 1.0)
    said = weight > 0
    model = make(CNNLSTMClassifier, class_weight="balanced")
    expected = answer(model.fit(X[said], y[said]), X)
    assert_array_equal(answer(model.fit(X, y, weight), X), expected)


def test_class_weights_are_read_by_name_where_some_classes_are_absent():
    X, _ = make_data(CNNLSTMClassifier, (6, 2), n=24)
    y = np.array(["a", "b", "c"])[np.arange(24) % 3]
    some = y != "c"
    model = make(CNNLSTMClassifier, class_weight={"a": 2, "c": 3})  # b: 1
    model.fit(X, y, X_val=X[some], y_val=y[some])
    weight = np.where(y[some] == "a", 2.0, 1.0)
    log_p = np.log(model.predict_proba(X[some]))
    smooth = 0.9 * log_p[np.arange(len(log_p)), (y[some] == "b").astype(int)] + 0.1 * log_p.mean(axis=1)
    assert_allclose(model.history_["valid_loss"].min(), -np.average(smooth, weights=weight), rtol=1e-4)
    model = make(CNNLSTMClassifier, class_weight={"a": 2, "c": 3})
    assert model.partial_fit(X[some], y[some], classes=["a", "b", "c"]).predict_proba(X).shape == (24, 3)


@every_class
def test_inner_split_finds_a_validation_part_with_weight(cls):
    X, y = make_data(cls, (6, 2), n=40)
    weight = np.zeros(40)
    weight[::2] = 1
    for seed in range(10):
        model = make(cls, early_stopping=True, validation_fraction=0.2, random_state=seed).fit(X, y, weight)
        assert np.isfinite(model.history_["valid_loss"]).all()


@every_class
@every_shape
def test_only_ratios_of_weights_matter(cls, shape):
    X, y = make_data(cls, shape)
    weight = np.linspace(0.5, 2, len(X))
    expected = answer(make(cls, conv_bank=0).fit(X, y, weight), X)
    assert_allclose(answer(make(cls, conv_bank=0).fit(X, y, 1000 * weight), X), expected, rtol=1e-3, atol=1e-4)
    assert not np.allclose(answer(make(cls, conv_bank=0).fit(X, y), X), expected, rtol=1e-3, atol=1e-4)


@every_class
@every_shape
def test_equal_weights_are_as_none(cls, shape):
    X, y = make_data(cls, shape)
    expected = answer(make(cls).fit(X, y), X)
    assert_allclose(answer(make(cls).fit(X, y, np.full(len(X), 2.0)), X), expected, rtol=1e-3, atol=1e-4)


@every_class
@pytest.mark.parametrize("shape", [(5,), *SHAPES], ids=lambda shape: f"{len(shape) + 1}d")
def test_integer_weights_are_as_repeated_rows_in_full_batches_without_batch_norm(cls, shape):
    X, y = make_data(cls, shape, n=20, seed=1)
    weight = np.random.default_rng(1).integers(0, 4, size=20)
    model = make(cls, **FULL_BATCH)
    unweighted = answer(model.fit(X, y), X)
    repeated = answer(model.fit(X.repeat(weight, axis=0), y.repeat(weight)), X)
    weighted = answer(model.fit(X, y, weight), X)
    assert_allclose(weighted, repeated, rtol=1e-4, atol=1e-5)
    assert np.abs(weighted - unweighted).max() > 0.01


# -- hard shapes


@every_shape
def test_one_class_is_predicted_always(shape):
    X, _ = make_data(CNNLSTMClassifier, shape)
    model = make(CNNLSTMClassifier).fit(X, np.full(len(X), "only"))
    assert_array_equal(model.predict(X), np.full(len(X), "only"))
    assert_array_equal(model.predict_proba(X), np.ones((len(X), 1)))
    assert model.decision_function(X).shape == (len(X),)


@every_class
@pytest.mark.parametrize("shape", [(5,), *SHAPES], ids=lambda shape: f"{len(shape) + 1}d")
def test_one_sample_trains(cls, shape):
    X, y = make_data(cls, shape, n=1)
    model = make(cls).fit(X, y)
    assert model.predict(X).shape == (1,)
    assert np.isfinite(answer(model, X)).all()


@every_shape
def test_constant_target_is_predicted_near_its_value(shape):
    X, _ = make_data(CNNLSTMRegressor, shape)
    prediction = make(CNNLSTMRegressor, max_epochs=20, lr=0.01).fit(X, np.full(len(X), 1e4)).predict(X)
    assert_allclose(prediction, 1e4, atol=2)


@every_class
def test_constant_channel_neither_divides_by_zero_nor_hides_the_others(cls):
    X, y = make_data(cls, (6, 2), n=40)
    X[..., 1] = 7.0
    assert make(cls, max_epochs=20, lr=0.02).fit(X, y).score(X, y) > 0.5


@every_class
@pytest.mark.parametrize("shape", [(5,), *SHAPES], ids=lambda shape: f"{len(shape) + 1}d")
@pytest.mark.parametrize(("n", "batch_size"), BATCHES)
def test_every_batch_size_trains(cls, shape, n, batch_size):
    X, y = make_data(cls, shape, n=n)
    model = make(cls, batch_size=batch_size).fit(X, y)
    assert np.isfinite(model.history_["train_loss"]).all()
    assert np.isfinite(answer(model, X)).all()


@every_class
@pytest.mark.parametrize("n_axes", range(2, 7))
@pytest.mark.parametrize(("n", "batch_size"), BATCHES)
def test_one_feature_trains_at_every_batch_size(cls, n_axes, n, batch_size):
    X, y = make_data(cls, (1,) * (n_axes - 1), n=n)
    model = make(cls, batch_size=batch_size).fit(X, y)
    assert np.isfinite(model.history_["train_loss"]).all()
    assert np.isfinite(answer(model, X)).all()
