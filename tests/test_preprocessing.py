"""Tables, long series and transformers of 2-D X come to sequences as a loop by hand would bring them."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import issparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, TimeSeriesSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    MinMaxScaler,
    OneHotEncoder,
    PolynomialFeatures,
    StandardScaler,
)
from sklearn.utils import get_tags

from sklearn_cnnlstm import CNNLSTMClassifier, CNNLSTMRegressor
from sklearn_cnnlstm.preprocessing import TimeDistributed, sequences_from_frame, sliding_windows

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = {"conv_channels": (8,), "hidden_size": 8, "batch_size": 16, "max_epochs": 3, "lr": 0.02, "random_state": 0}


# -- sequences_from_frame ------------------------------------------------------------------------------------------


def long_table(lengths=(3, 3), seed=0):
    """A table of samples "s0", "s1", ... of given lengths: sample, t, x, z, and site and label of each sample."""
    rng = np.random.default_rng(seed)
    rows = [
        {"sample": f"s{i}", "t": t, "x": rng.normal(), "z": rng.normal(), "site": i // 2, "label": "ab"[i % 2]}
        for i, length in enumerate(lengths)
        for t in range(length)
    ]
    return pd.DataFrame(rows)


COLUMNS = {"sample": "sample", "time": "t", "target": "label", "groups": "site"}


def test_samples_of_one_length_become_an_array_as_in_a_loop_over_groups():
    df = long_table([4, 4, 4])
    X, y, groups, ids = sequences_from_frame(df, **COLUMNS)
    assert_array_equal(X, np.stack([part[["x", "z"]].to_numpy() for _, part in df.groupby("sample")]))
    assert y.tolist() == ["a", "b", "a"]
    assert groups.tolist() == [0, 0, 1]
    assert ids.tolist() == ["s0", "s1", "s2"]


def test_samples_of_several_lengths_become_a_list():
    df = long_table([4, 1, 3])
    X, y, _, _ = sequences_from_frame(df, **COLUMNS)
    for sample, (_, part) in zip(X, df.groupby("sample"), strict=True):
        assert_array_equal(sample, part[["x", "z"]])
    assert y.tolist() == ["a", "b", "a"]


def test_interleaved_rows_are_sorted_to_their_samples_in_order_of_appearance():
    df = long_table([100, 100]).sort_values(["t", "sample"], ascending=[True, False], ignore_index=True)
    X, y, _, ids = sequences_from_frame(df, **COLUMNS)
    assert ids.tolist() == ["s1", "s0"]
    assert y.tolist() == ["b", "a"]
    assert_array_equal(X[0], df.loc[df["sample"] == "s1", ["x", "z"]])


@pytest.mark.parametrize("lengths", [[3, 3], [3, 2]])
def test_panel_with_a_multiindex_gives_what_the_long_table_gives(lengths):
    df = long_table(lengths)
    panel = df.set_index(["sample", "t"])
    X, y, groups, ids = sequences_from_frame(panel, target="label", groups="site")
    expected = sequences_from_frame(df, **COLUMNS)
    for got, want in zip([*X, y, groups, ids], [*expected[0], *expected[1:]], strict=True):
        assert_array_equal(got, want)


def test_several_columns_may_name_a_sample():
    df = long_table([2, 2, 2, 2]).assign(run=lambda df: df["sample"].str[1].astype(int) % 2)
    X, _, _, ids = sequences_from_frame(df.drop(columns="sample"), sample=["site", "run"], time="t", target="label")
    assert ids.tolist() == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert_array_equal(X, df[["x", "z"]].to_numpy().reshape(4, 2, 2))


def test_dates_order_the_steps():
    df = long_table([3, 2])
    df["t"] = pd.to_datetime(df["t"], unit="D").dt.tz_localize("Europe/Berlin")
    X, _, _, _ = sequences_from_frame(df, **COLUMNS)
    assert [len(sample) for sample in X] == [3, 2]
    df.loc[1, "t"] = df.loc[0, "t"]
    with pytest.raises(ValueError, match=r"Time in 't' goes from 1970-01-01 .* to 1970-01-01 .* in sample 's0'"):
        sequences_from_frame(df, **COLUMNS)


def test_unsorted_time_is_named_with_its_sample():
    df = long_table([3, 3]).iloc[[0, 1, 2, 3, 5, 4]]
    with pytest.raises(ValueError, match=r"Time in 't' goes from 2 to 1 in sample 's1'; expected .* increase strictly"):
        sequences_from_frame(df, **COLUMNS)


def test_panel_with_a_time_twice_is_refused():
    panel = long_table([3, 3]).assign(t=[0, 1, 1, 0, 1, 2]).set_index(["sample", "t"])
    with pytest.raises(ValueError, match="Time in the index goes from 1 to 1 in sample 's0'"):
        sequences_from_frame(panel, target="label")


def test_without_time_rows_are_steps_in_their_order():
    df = long_table([3, 3]).iloc[[2, 0, 1, 3, 5, 4]].drop(columns="t")
    X, _, _, _ = sequences_from_frame(df, sample="sample", target="label", groups="site")
    assert_array_equal(X.reshape(-1, 2), df[["x", "z"]])


def test_target_that_varies_within_a_sample_is_refused():
    df = long_table([3, 3])
    df.loc[4, "label"] = "c"
    with pytest.raises(ValueError, match=r"target='label' varies in sample 's1', from b to c; .* per_step=True"):
        sequences_from_frame(df, **COLUMNS)


def test_group_that_varies_within_a_sample_is_refused():
    df = long_table([3, 3])
    df.loc[4, "site"] = 7
    with pytest.raises(ValueError, match="groups='site' varies in sample 's1', from 0 to 7; expected one value"):
        sequences_from_frame(df, **COLUMNS)


def test_target_missing_throughout_a_sample_is_one_value():
    df = long_table([2, 2]).assign(label=[np.nan, np.nan, 1.0, 1.0])
    assert_array_equal(sequences_from_frame(df, **COLUMNS)[1], [np.nan, 1.0])


def test_several_targets_become_columns_of_y():
    df = long_table([2, 2]).assign(p=[1.0, 1.0, 2.0, 2.0], q=[3, 3, 4, 4])
    df = df.drop(columns=["label", "site"])
    X, y, groups, _ = sequences_from_frame(df, sample="sample", time="t", target=["p", "q"])
    assert y.tolist() == [[1, 3], [2, 4]]
    assert X.shape == (2, 2, 2)
    assert groups is None


def test_target_per_step_has_the_shape_of_the_steps():
    df = long_table([3, 3]).assign(label=np.arange(6.0))
    assert sequences_from_frame(df, **COLUMNS, per_step=True)[1].tolist() == [[0, 1, 2], [3, 4, 5]]
    df = long_table([1, 3]).assign(label=np.arange(4.0))
    assert [part.tolist() for part in sequences_from_frame(df, **COLUMNS, per_step=True)[1]] == [[0], [1, 2, 3]]
    _, y, _, _ = sequences_from_frame(df, **COLUMNS | {"target": ["label", "site"], "groups": None}, per_step=True)
    assert y[1].tolist() == [[1, 0], [2, 0], [3, 0]]


def test_missing_values_of_every_kind_stay_nan():
    df = long_table([2, 2]).assign(x=pd.array([1, None, 3, 4], dtype="Int64"), z=[np.nan, 1, 2, 3])
    X, _, _, _ = sequences_from_frame(df, **COLUMNS)
    assert_array_equal(X, [[[1, np.nan], [np.nan, 1]], [[3, 2], [4, 3]]])


@pytest.mark.parametrize(("dtype", "expected"), [(np.float32, np.float32), (bool, np.float64), ("Float32", np.float64)])
def test_float32_is_kept_and_the_rest_is_float64(dtype, expected):
    df = long_table([2, 2]).astype({"x": dtype, "z": dtype})
    assert sequences_from_frame(df, **COLUMNS)[0].dtype == expected


def test_columns_without_numbers_are_named():
    df = long_table([2, 2]).assign(city=["Ulm"] * 4, kind=pd.Categorical([1, 2, 1, 2]), day=pd.Timestamp(0))
    with pytest.raises(ValueError, match=r"'city' \(str\w*|object\), 'kind' \(category\), 'day' \(datetime64\[.*\]\);"):
        sequences_from_frame(df, **COLUMNS)


def test_row_without_a_sample_or_a_time_is_refused():
    df = long_table([2, 2])
    with pytest.raises(ValueError, match="Row 3 of df names no sample"):
        sequences_from_frame(df.assign(sample=["a", "a", "b", None]), **COLUMNS)
    days = df.assign(day=[1, 1, 2, np.nan])
    for sample in (["sample", "day"], ["day"]):
        with pytest.raises(ValueError, match="Row 3 of df names no sample"):
            sequences_from_frame(days, **COLUMNS | {"sample": sample})
    with pytest.raises(ValueError, match="Row 2 of df has no time in 't'"):
        sequences_from_frame(df.assign(t=[0, 1, np.nan, 1]), **COLUMNS)


def test_unknown_columns_are_named():
    with pytest.raises(ValueError, match=r"df has no columns \['when', 'class'\]; expected names out of \['sample',"):
        sequences_from_frame(long_table(), sample="sample", time="when", target="class")


def test_columns_of_one_name_are_refused():
    df = long_table()
    with pytest.raises(ValueError, match=r"df has columns \['x'\] more than once; expected unique names"):
        sequences_from_frame(pd.concat([df, df[["x"]]], axis=1), **COLUMNS)


def test_table_without_channels_is_refused():
    with pytest.raises(ValueError, match="expected at least one channel"):
        sequences_from_frame(long_table()[["sample", "t"]], sample="sample", time="t")


def test_table_that_is_no_panel_needs_a_sample_column():
    with pytest.raises(ValueError, match="sample is None and the index of df has 1 levels"):
        sequences_from_frame(long_table(), time="t")


def test_what_is_no_frame_or_empty_is_refused():
    with pytest.raises(TypeError, match="df is a ndarray; expected a pandas DataFrame"):
        sequences_from_frame(np.zeros((3, 2)), sample=0)
    with pytest.raises(ValueError, match=r"df has shape \(0, 6\); expected at least one row"):
        sequences_from_frame(long_table().iloc[:0], **COLUMNS)


def test_frame_to_cross_validated_groups():
    df = long_table([6] * 24).assign(x=lambda df: df["x"] + 3 * (df["label"] == "b"))
    X, y, groups, _ = sequences_from_frame(df, **COLUMNS)
    scores = cross_val_score(CNNLSTMClassifier(**SMALL | {"max_epochs": 15}), X, y, groups=groups, cv=GroupKFold(2))
    assert scores.min() > 0.8


# -- columns of a DataFrame X --------------------------------------------------------------------------------------


def test_wide_frame_keeps_its_feature_names():
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 6))).add_prefix("hour")
    model = CNNLSTMRegressor(**SMALL).fit(frame, frame["hour0"])
    assert model.feature_names_in_.tolist() == [f"hour{i}" for i in range(6)]
    assert_array_equal(model.predict(frame), model.predict(frame.copy()))


@pytest.mark.parametrize("column", [["u", "v"] * 10, pd.Categorical([0, 1] * 10), pd.date_range("2020", periods=20)])
def test_estimators_name_columns_without_numbers(column):
    frame = pd.DataFrame({"a": np.arange(20.0), "odd one": column})
    with pytest.raises(ValueError, match=r"X has columns that are not numeric: 'odd one' \(.*\); expected numbers"):
        CNNLSTMRegressor(**SMALL).fit(frame, frame["a"])
    model = CNNLSTMRegressor(**SMALL | {"max_epochs": 1}).fit(frame.assign(**{"odd one": 1.0}), frame["a"])
    with pytest.raises(ValueError, match="'odd one'"):
        model.predict(frame)


def test_objects_that_are_numbers_are_numbers():
    frame = pd.DataFrame({"a": np.arange(20.0), "b": np.arange(20.0)})
    model = CNNLSTMRegressor(**SMALL).fit(frame, frame["a"])
    assert_array_equal(model.predict(frame.astype(object)), model.predict(frame))


# -- sliding_windows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 4])
@pytest.mark.parametrize("horizon", [1, 3])
@pytest.mark.parametrize("stride", [1, 2, 5])
@pytest.mark.parametrize("gap", [0, 2])
@pytest.mark.parametrize(("n_channels", "target"), [(1, None), (3, None), (3, 1), (3, [2, 0])])
def test_windows_are_those_of_a_loop(window, horizon, stride, gap, n_channels, target):
    series = np.random.default_rng(0).normal(size=(23, n_channels))
    X, y, index = sliding_windows(series, window, horizon, stride, gap, target)
    columns = list(range(n_channels)) if target is None else np.atleast_1d(target)
    windows, targets, rows = [], [], []
    for start in range(0, 23, stride):
        first = start + window + gap
        if first + horizon <= 23:
            windows.append(series[start : start + window])
            targets.append(series[first : first + horizon, columns])
            rows.append(range(first, first + horizon))
    targets = np.array(targets)
    if len(columns) == 1:
        targets = targets[:, 0, 0] if horizon == 1 else targets[..., 0]
    assert_array_equal(X, windows)
    assert_array_equal(y, targets)
    assert_array_equal(index, np.array(rows)[:, 0] if horizon == 1 else rows)


def test_shortest_series_gives_one_window():
    X, y, index = sliding_windows(np.arange(7.0), window=4, horizon=2, gap=1)
    assert X.shape == (1, 4, 1)
    assert y.tolist() == [[5, 6]]
    assert index.tolist() == [[5, 6]]


def test_series_shorter_than_a_window_and_its_target_is_refused():
    with pytest.raises(ValueError, match=r"series has 6 rows; expected at least .* = 4 \+ 1 \+ 2 = 7"):
        sliding_windows(np.arange(6.0), window=4, horizon=2, gap=1)


@pytest.mark.parametrize(
    ("series", "target"),
    [
        (np.zeros(10**6), None),
        (np.zeros((10**6, 3), dtype=np.float32), 1),
        (pd.DataFrame(np.zeros((10**6, 2)), columns=["a", "b"]), "b"),
    ],
    ids=["1-D", "2-D", "frame"],
)
def test_a_million_rows_are_not_copied(series, target):
    X, y, _ = sliding_windows(series, window=1000, horizon=100, target=target)
    assert X.shape[:2] == (10**6 - 1099, 1000)
    for view in (X, y):
        assert np.shares_memory(view, np.asarray(series))
        assert not view.flags.writeable


def test_index_carries_each_forecast_back_to_its_time():
    hours = pd.date_range("2024-03-01", periods=50, freq="h", tz="UTC", name="hour")
    table = pd.DataFrame({"a": np.arange(50.0), "b": np.arange(50)}, index=hours)
    _, y, index = sliding_windows(table, window=6, stride=4, gap=2, target="a")
    assert_array_equal(pd.Series(y, index=index), table["a"].loc[index])
    assert index.name == "hour"
    _, y, index = sliding_windows(table, window=6, horizon=3, target="a")
    for step in range(3):
        assert_array_equal(table["a"].loc[index[:, step]], y[:, step])


def test_series_of_pandas_is_one_channel():
    series = pd.Series([1.0, 2.0, 4.0, 8.0], index=[10, 11, 12, 13])
    X, y, index = sliding_windows(series, window=2)
    assert X.tolist() == [[[1], [2]], [[2], [4]]]
    assert y.tolist() == [4, 8]
    assert index.tolist() == [12, 13]


def test_target_of_its_own_is_read_from_its_rows():
    series = np.random.default_rng(0).normal(size=(20, 3))
    own = np.arange(20) * 10
    X, y, index = sliding_windows(series, window=5, gap=1, target=own)
    assert X.shape == (14, 5, 3)
    assert_array_equal(y, own[index])
    assert_array_equal(sliding_windows(series, window=5, gap=1, target=np.c_[own, own])[1][:, 0, 1], y)


def test_target_of_its_own_must_fit_the_series():
    table = pd.DataFrame({"a": np.arange(20.0)})
    with pytest.raises(ValueError, match="target has 19 rows and series 20; expected as many"):
        sliding_windows(table, window=5, target=np.zeros(19))
    with pytest.raises(ValueError, match="target and series have different indexes"):
        sliding_windows(table, window=5, target=table["a"].set_axis(np.arange(20) + 1))
    with pytest.raises(ValueError, match="The index of target goes from 1 to 0 in row 1"):
        sliding_windows(table, window=5, target=table["a"].set_axis([1, 0, *range(2, 20)]))


@pytest.mark.parametrize("target", ["c", ["a", "c"], 0, []])
def test_target_must_be_columns_of_the_series(target):
    with pytest.raises(ValueError, match=r"expected columns, each found once, out of \['a', 'b'\]"):
        sliding_windows(pd.DataFrame(np.zeros((9, 2)), columns=["a", "b"]), window=2, target=target)


def test_missing_values_of_pandas_are_nan():
    X, y, _ = sliding_windows(pd.Series([1, None, 3], dtype="Int64"), window=2)
    assert_array_equal(X, [[[1], [np.nan]]])
    assert y.tolist() == [3]


@pytest.mark.parametrize(("labels", "message"), [([0, 2, 1, 3], "from 2 to 1 in row 2"), ([0, 1, 1, 2], "from 1 to 1")])
def test_unsorted_or_duplicate_labels_are_refused(labels, message):
    with pytest.raises(ValueError, match=f"The index of series goes {message}.*; expected labels that increase"):
        sliding_windows(pd.Series(np.arange(4.0), index=labels), window=2)


def test_panel_is_refused():
    with pytest.raises(ValueError, match="The index of series has 2 levels; expected one series"):
        sliding_windows(long_table([5, 5]).set_index(["sample", "t"])[["x"]], window=2)


@pytest.mark.parametrize(
    ("name", "value"), [("window", 0), ("window", 2.5), ("horizon", 0), ("stride", 0), ("gap", -1), ("stride", True)]
)
def test_counts_of_steps_are_checked(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}; expected an integer of at least [01]"):
        sliding_windows(np.zeros(20), **{"window": 3} | {name: value})


def test_series_without_numbers_is_refused():
    with pytest.raises(ValueError, match=r"series has columns that are not numeric: 'sample' \(.*\), 'label'"):
        sliding_windows(long_table(), window=2)
    with pytest.raises(ValueError, match=r"series has shape \(2, 3, 4\) and dtype float64; expected numbers of shape"):
        sliding_windows(np.zeros((2, 3, 4)), window=2)
    with pytest.raises(ValueError, match=r"series has shape \(2, 1\) and dtype <U1"):
        sliding_windows(["a", "b"], window=1)


@pytest.mark.parametrize("horizon", [1, 3])
def test_estimator_fits_and_searches_on_views_and_leaves_them_alone(horizon):
    series = np.sin(np.arange(100) / 4)
    before = series.copy()
    X, y, _ = sliding_windows(series, window=12, horizon=horizon)
    cv = TimeSeriesSplit(2, gap=horizon - 1)
    search = GridSearchCV(
        CNNLSTMRegressor(**SMALL | {"max_epochs": 20, "conv_bank": 0}), {"lr": [1e-5, 0.02]}, cv=cv
    ).fit(X, y)
    assert search.best_params_ == {"lr": 0.02}
    assert search.predict(X).shape == y.shape
    assert search.best_estimator_.score(X, y) > 0.9
    assert_array_equal(series, before)


@pytest.mark.slow
def test_forecast_of_real_pollution_beats_persistence(load_data):
    example = SimpleNamespace(**runpy.run_path(str(EXAMPLES / "forecast.py")))
    table = example.to_table(load_data("BeijingPollutionHourly")).iloc[: 2 * 8760]  # two years
    forecasts = example.forecast(table, lead=6)
    assert forecasts.index.is_unique
    assert_array_equal(forecasts["persistence"], table[example.TARGET].shift(6).loc[forecasts.index])
    rmse = example.errors(forecasts, table[example.TARGET])["RMSE"]
    assert rmse["CNNLSTMRegressor"] < 0.95 * rmse["persistence"]
    assert rmse["CNNLSTMRegressor"] < 1.05 * rmse["ridge on lags"]


# -- TimeDistributed -----------------------------------------------------------------------------------------------


SHAPES = {3: (7, 5, 4), 4: (7, 5, 3, 2), 5: (4, 5, 3, 2, 2), 6: (4, 3, 2, 2, 2, 2)}


def sequences(n_axes, seed=0):
    return np.random.default_rng(seed).normal(3, 2, size=SHAPES[n_axes])


def per_step(transformer, samples, y=None):
    """What scikit-learn makes of a table of all steps, and of each step of each sample by itself."""
    table = np.array([step.ravel() for sample in samples for step in sample])
    fitted = clone(transformer).fit(table, y)
    return [np.array([np.asarray(fitted.transform(step.reshape(1, -1)))[0] for step in sample]) for sample in samples]


@pytest.mark.parametrize("n_axes", [3, 4, 5, 6])
@pytest.mark.parametrize(
    "transformer",
    [StandardScaler(), PCA(2), MinMaxScaler(), PolynomialFeatures(2), FunctionTransformer(np.tanh), Binarizer()],
    ids=lambda transformer: type(transformer).__name__,
)
def test_every_step_is_transformed_as_by_a_loop(transformer, n_axes):
    X = sequences(n_axes)
    got = TimeDistributed(transformer).fit_transform(X)
    expected = np.array(per_step(transformer, X))
    assert_allclose(got.reshape(expected.shape), expected, atol=1e-10)
    keeps_width = expected.shape[-1] == np.prod(X.shape[2:])
    assert got.shape == (X.shape if keeps_width else expected.shape)


@pytest.mark.parametrize("transformer", [StandardScaler(), PCA(2)], ids=["shape kept", "new width"])
def test_ragged_samples_are_transformed_as_by_a_loop(transformer):
    samples = [sequences(4)[i, :length] for i, length in enumerate([5, 1, 3])]
    got = TimeDistributed(transformer).fit_transform(samples)
    assert isinstance(got, list)
    for ours, theirs, sample in zip(got, per_step(transformer, samples), samples, strict=True):
        assert_allclose(ours.reshape(theirs.shape), theirs, atol=1e-10)
        assert ours.shape == (sample.shape if isinstance(transformer, StandardScaler) else (len(sample), 2))


@pytest.mark.parametrize("lengths", [[5, 1, 3], [4, 4, 4]])
def test_object_array_of_samples_gives_an_object_array(lengths):
    samples = [sequences(3)[i, :length] for i, length in enumerate(lengths)]
    X = np.empty(3, dtype=object)
    for i, sample in enumerate(samples):
        X[i] = sample
    got = TimeDistributed(StandardScaler()).fit_transform(X)
    assert got.dtype == object
    assert got.shape == (3,)
    for ours, theirs in zip(got, TimeDistributed(StandardScaler()).fit_transform(samples), strict=True):
        assert_array_equal(ours, theirs)


@pytest.mark.parametrize("transformer", [StandardScaler(), PCA(2)], ids=["shape kept", "new width"])
def test_padding_is_kept_out_of_fit_and_stays_nan(transformer):
    X, lengths = sequences(4), [5, 1, 3, 5, 2, 4, 5]
    samples = [sample[:length] for sample, length in zip(X, lengths, strict=True)]
    for sample, length in zip(X, lengths, strict=True):
        sample[length:] = np.nan
    got = TimeDistributed(transformer).fit_transform(X)
    expected = TimeDistributed(transformer).fit_transform(samples)
    for ours, theirs, length in zip(got, expected, lengths, strict=True):
        assert_array_equal(ours[:length], theirs)
        assert np.isnan(ours[length:]).all()


def test_padding_beside_integers_is_nan():
    X = np.array([[[1.0], [2.0]], [[1.0], [np.nan]]])
    ordinal = FunctionTransformer(lambda rows: rows.astype(int))
    assert_array_equal(TimeDistributed(ordinal).fit_transform(X), X)


def test_gaps_inside_a_sample_are_imputed_and_the_padding_is_not():
    X = sequences(3)
    X[0, 1, 2] = X[1, 2, :] = np.nan
    X[2, 3:] = np.nan
    X[2, 2, 0] = X[3, 4, 1] = np.nan  # in the last valid step
    got = TimeDistributed(SimpleImputer()).fit_transform(X)
    means = np.nanmean(X.reshape(-1, 4), axis=0)
    expected = np.where(np.isnan(X), means, X)
    expected[2, 3:] = np.nan
    assert_allclose(got, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_the_transformers(dtype):
    X = sequences(4).astype(dtype)
    X[0, 3:] = np.nan
    assert TimeDistributed(StandardScaler()).fit_transform(X).dtype == dtype
    assert TimeDistributed(PCA(2)).fit_transform(X).dtype == dtype


def test_samples_keep_their_answers_in_other_company_and_length():
    X = sequences(5)
    scaler = TimeDistributed(StandardScaler()).fit(X)
    assert_array_equal(scaler.transform(X[2:3, :2]), scaler.transform(X)[2:3, :2])


@pytest.mark.parametrize("transformer", [StandardScaler(), PCA()], ids=["StandardScaler", "PCA"])
def test_inverse_transform_gives_x_back(transformer):
    X = sequences(5)
    X[1, 3:] = np.nan
    model = TimeDistributed(transformer).fit(X)
    assert_allclose(model.inverse_transform(model.transform(X)), X)
    samples = list(X[1:, :3])
    for sample, back in zip(samples, model.inverse_transform(model.transform(samples)), strict=True):
        assert_allclose(back, sample)


def test_inverse_of_a_projection_has_the_shape_of_x():
    X = sequences(5)
    model = TimeDistributed(PCA(3)).fit(X)
    table = X.reshape(-1, 12)
    pca = PCA(3).fit(table)
    expected = pca.inverse_transform(pca.transform(table)).reshape(X.shape)
    assert_allclose(model.inverse_transform(model.transform(X)), expected)


def test_methods_are_those_of_the_transformer():
    assert not hasattr(TimeDistributed(PolynomialFeatures()), "inverse_transform")
    assert not hasattr(TimeDistributed(FunctionTransformer()), "get_feature_names_out")
    assert hasattr(TimeDistributed(PCA()), "inverse_transform")


def test_feature_names_are_the_transformers():
    model = TimeDistributed(PolynomialFeatures(2, include_bias=False)).fit(sequences(3)[..., :2])
    assert model.get_feature_names_out().tolist() == ["x0", "x1", "x0^2", "x0 x1", "x1^2"]
    assert model.get_feature_names_out(["u", "v"]).tolist() == ["u", "v", "u^2", "u v", "v^2"]


@pytest.mark.parametrize("transformer", [SelectKBest(k=1), LinearDiscriminantAnalysis()], ids=["KBest", "LDA"])
@pytest.mark.parametrize("padded", [False, True])
def test_transformer_gets_the_y_of_the_sample_for_each_step(transformer, padded):
    X, y = sequences(3), np.arange(7) % 2
    X[y == 1, :, 2] += 5
    samples = [sample[: 3 if padded else 5] for sample in X]
    if padded:
        X[:, 3:] = np.nan
    expected = per_step(transformer, samples, np.repeat(y, len(samples[0])))
    got = TimeDistributed(transformer).fit(X, y).transform(X)
    assert_allclose(got[:, : len(samples[0])], expected)


@pytest.mark.parametrize("shape", [(), (5,), (2, 2)])
def test_y_of_other_shapes_stays_out(shape):
    X = sequences(3)
    with pytest.raises(ValueError, match="requires y to be passed"):
        TimeDistributed(SelectKBest(k=1)).fit(X, np.zeros((7, *shape)) if shape else None)


def test_ragged_y_of_steps_stays_out():
    X = sequences(3)
    ragged_y = [np.zeros(length) for length in (1, 2, 3, 4, 5, 1, 2)]
    assert TimeDistributed(StandardScaler()).fit_transform(X, ragged_y).shape == X.shape


def test_y_must_be_as_long_as_x():
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        TimeDistributed(SelectKBest(k=1)).fit(sequences(3), np.zeros(6))


def test_sparse_output_becomes_dense():
    X = np.random.default_rng(0).integers(0, 3, size=(6, 4, 1))
    got = TimeDistributed(OneHotEncoder()).fit_transform(X)
    assert not issparse(got)
    assert_array_equal(got, np.eye(3)[X[..., 0]])


def test_output_is_an_array_whatever_the_configuration():
    X = sequences(3)
    with config_context(transform_output="pandas"):
        got = TimeDistributed(StandardScaler()).fit_transform(X)
    assert_array_equal(got, TimeDistributed(StandardScaler()).fit_transform(X))
    framed = TimeDistributed(StandardScaler().set_output(transform="pandas")).fit_transform(X)
    assert_array_equal(framed, got)


@pytest.mark.parametrize("X", [np.zeros((4, 3)), np.zeros(4), np.zeros((2, 0, 3)), np.zeros((1,) * 7)])
def test_x_of_other_dimensions_is_refused(X):
    with pytest.raises(ValueError, match=r"X has shape \(.*\); expected 3 to 6 dimensions"):
        TimeDistributed(StandardScaler()).fit(X)


def test_table_is_refused_as_a_frame_too():
    with pytest.raises(ValueError, match=r"X has shape \(6, 6\); expected 3 to 6 dimensions"):
        TimeDistributed(StandardScaler()).fit(long_table())


def test_odd_sample_of_ragged_x_is_named():
    with pytest.raises(ValueError, match=r"Sample 1 of X has steps of shape \(2,\) and sample 0 of \(3,\)"):
        TimeDistributed(StandardScaler()).fit([np.zeros((4, 3)), np.zeros((4, 2))])
    with pytest.raises(ValueError, match=r"Sample 1 of X has shape \(4,\); expected \(n_timesteps, ..., n_channels\)"):
        TimeDistributed(StandardScaler()).fit([np.zeros((4, 3)), np.zeros(4)])
    with pytest.raises(ValueError, match="X is an empty list"):
        TimeDistributed(StandardScaler()).fit([])


def test_steps_of_another_shape_are_refused():
    model = TimeDistributed(StandardScaler()).fit(sequences(4))
    with pytest.raises(ValueError, match=r"X has steps of shape \(4,\), but TimeDistributed was fitted with \(3, 2\)"):
        model.transform(sequences(3))


def test_what_transforms_nothing_is_refused():
    with pytest.raises(TypeError, match=r"transformer=Ridge\(\) has no method transform"):
        TimeDistributed(Ridge()).fit(sequences(3))


def test_transformer_must_keep_the_rows():
    halves = FunctionTransformer(lambda rows: rows[::2])
    with pytest.raises(ValueError, match=r"The transformer made \(18, 4\) of 35 rows; expected 2 dimensions"):
        TimeDistributed(halves).fit_transform(sequences(3))


def test_transform_before_fit_is_refused():
    with pytest.raises(NotFittedError, match="This TimeDistributed instance is not fitted yet"):
        TimeDistributed(StandardScaler()).transform(sequences(3))


def test_failed_fit_leaves_what_was_fitted():
    X = sequences(3)
    model = TimeDistributed(PCA(2)).fit(X)
    expected = model.transform(X)
    with pytest.raises(ValueError, match="n_components=2"):
        model.fit(X[..., :1])
    assert_array_equal(model.transform(X), expected)


def test_parameters_nest_and_clone():
    model = TimeDistributed(PCA(2)).set_params(transformer__n_components=3)
    assert model.get_params()["transformer__n_components"] == 3
    copy = clone(model.fit(sequences(3)))
    assert copy.transformer is not model.transformer
    assert not hasattr(copy, "transformer_")
    assert repr(copy) == "TimeDistributed(transformer=PCA(n_components=3))"


def test_tags_say_what_x_may_be():
    tags = get_tags(TimeDistributed(SimpleImputer()))
    assert not tags.input_tags.two_d_array
    assert tags.input_tags.three_d_array
    assert tags.input_tags.allow_nan
    assert not get_tags(TimeDistributed(PCA())).input_tags.allow_nan
    assert get_tags(TimeDistributed(LinearDiscriminantAnalysis())).target_tags.required


def test_x_is_not_written_to():
    X = sequences(4)
    X.flags.writeable = False
    TimeDistributed(StandardScaler()).fit_transform(X)


def test_pipeline_tunes_the_transformer_inside():
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    X = rng.normal(scale=3, size=(60, 5, 6))
    X[..., 1] = rng.normal(scale=0.5, size=(60, 5)) + 2 * y[:, np.newaxis]  # what matters varies least
    model = make_pipeline(TimeDistributed(PCA(1)), CNNLSTMClassifier(**SMALL | {"max_epochs": 10}))
    search = GridSearchCV(model, {"timedistributed__transformer__n_components": [1, 6]}, cv=2).fit(X, y)
    assert search.best_params_ == {"timedistributed__transformer__n_components": 6}
    assert search.best_estimator_[-1].n_features_in_ == 6


def test_pipeline_reads_each_step_through_columns_of_its_own():
    X, y = sequences(5), np.arange(4) % 2
    forest = TimeDistributed(make_pipeline(StandardScaler(), PCA(3)))
    model = make_pipeline(forest, CNNLSTMClassifier(**SMALL | {"max_epochs": 1})).fit(X, y)
    assert model[-1].input_shape_ == (5, 3)
