"""The data sets that lie in the folder CNNLSTM_DATA: what is trained on, what is scored, and by what."""

import csv
import os
import sys
from pathlib import Path

import numpy as np
from sklearn.model_selection import GroupShuffleSplit, LeaveOneGroupOut, ShuffleSplit, StratifiedShuffleSplit

SERIES = [
    "ArrowHead",
    "BasicMotions",
    "CricketX",
    "DodgerLoopDay",
    "Earthquakes",
    "ECG200",
    "ERing",
    "FingerMovements",
    "GunPoint",
    "ItalyPowerDemand",
    "JapaneseVowels",
    "LargeKitchenAppliances",
    "OSULeaf",
    "PhalangesOutlinesCorrect",
    "PickupGestureWiimoteZ",
    "RacketSports",
    "SwedishLeaf",
]
OTHERS = [
    "UCI_HAR",
    "UT_Interaction_set1",
    "BeijingPM25Quality",
    "BeijingPollutionHourly",
    "CardanoSentiment",
    "Covid3Month",
    "ETTh1",
    "SST_Nino34",
]
LARGE = ["UCI_HAR", "UT_Interaction_set1", "BeijingPM25Quality", "BeijingPollutionHourly", "ETTh1"]
ORDERED = ["BeijingPM25Quality", "BeijingPollutionHourly", "ETTh1", "SST_Nino34"]  # in time, within each group
LEAVE_GROUPS_OUT = ["UT_Interaction_set1"]
METRICS = {"ETTh1": "MSE"}  # where it is not accuracy or RMSE, as published

# of the methods that have published scores on a set, those that stand beside ours
_COMMON = ("InceptionTime", "ROCKET", "FCN")
_PUBLISHED = {
    "UCI_HAR": ("CNN-LSTM (Keras tutorial)", "CNN on raw signals (Ronao & Cho 2016)", "MLSTM-FCN"),
    "UT_Interaction_set1": ("3D ConvNet singleNet_2048", "3D ConvNet fullNet_2048", "Raptis & Sigal 2013"),
    "BeijingPM25Quality": ("InceptionT", "XGBoost", "RotF"),
    "BeijingPollutionHourly": ("LSTM (Keras tutorial, 1 lag)",),
    "CardanoSentiment": ("InceptionT", "XGBoost", "ROCKET"),
    "Covid3Month": ("InceptionT", "XGBoost", "ROCKET"),
    "ETTh1": ("Informer", "S4"),
    "SST_Nino34": ("damped persistence",),
}


def splits(name, *, held_out=None):
    """Pairs (X, y) to train on and (X, y) to score, in turn; scores are those of all pairs together.

    The official split, or whole groups left out in turn where that is the protocol. With `held_out`, a number, the test
    part is left alone: a third of the training part is scored, a different one for each number. It is made of whole
    groups where the set has groups; it is the last third where samples follow each other in time.
    """
    with np.load(folder() / f"{name}.npz") as data:
        X, y, X_test, y_test = (data[key] for key in ("X_train", "y_train", "X_test", "y_test"))
        groups, groups_test = data.get("groups_train"), data.get("groups_test")
    if held_out is not None:
        rows, others = _held_out_third(name, y, groups, held_out)
        return [((X[rows], y[rows]), (X[others], y[others]))]
    if name in LEAVE_GROUPS_OUT:
        X, y, groups = (np.concatenate(pair) for pair in ((X, X_test), (y, y_test), (groups, groups_test)))
        parts = LeaveOneGroupOut().split(X, y, groups)
        return [((X[rows], y[rows]), (X[others], y[others])) for rows, others in parts]
    return [((X, y), (X_test, y_test))]


def _held_out_third(name, y, groups, number):
    if name in ORDERED:
        rows = np.arange(len(y))
        blocks = [rows] if groups is None else [rows[groups == group] for group in np.unique(groups)]
        ends = [len(block) * 2 // 3 for block in blocks]
        gap = 0 if y.ndim == 1 else y.shape[1] - 1  # targets that the last ones trained on would share with the first
        train = np.concatenate([block[: end - gap] for block, end in zip(blocks, ends, strict=True)])
        return train, np.concatenate([block[end:] for block, end in zip(blocks, ends, strict=True)])
    split = GroupShuffleSplit if groups is not None else ShuffleSplit if is_regression(y) else StratifiedShuffleSplit
    return next(split(1, test_size=1 / 3, random_state=number).split(y, y, groups))


def is_regression(y):
    return y.dtype.kind == "f"


def metric(name, y):
    return METRICS.get(name, "RMSE" if is_regression(y) else "accuracy")


def score(name, y, predictions):
    if not is_regression(y):
        return float((predictions == y).mean())
    error = ((predictions.astype(np.float64) - y) ** 2).mean()
    return float(error if metric(name, y) == "MSE" else np.sqrt(error))


def persistence(name, X):
    """What the last step says of the target, for the sets that forecast a variable of X; None for the others."""
    if name == "ETTh1":
        return np.repeat(X[:, -1, -1:], 24, axis=1)
    if name == "BeijingPollutionHourly":
        return X[:, -1, 0]
    if name == "SST_Nino34":  # 5S to 5N, 170W to 120W
        return np.nanmean(X[:, -1, 12:18, 33:59, 0], axis=(1, 2))
    return None


def published(name):
    """Scores that stand beside ours, by method, out of published.csv where it lies beside the sets."""
    file = folder() / "published.csv"
    if not file.exists():
        return {}
    with file.open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["dataset"] == name]
    rows = [row for row in rows if "resamples" not in row["metric"] and not row["metric"].startswith("MAE")]
    rows = [row for row in rows if "multivariate" not in row["metric"]]
    rows.sort(key=lambda row: "default" not in row["metric"])
    found = {row["method"]: row["value"] for row in reversed(rows)}
    return {method: found[method] for method in _PUBLISHED.get(name, _COMMON) if method in found}


def folder():
    if "CNNLSTM_DATA" not in os.environ:
        sys.exit("CNNLSTM_DATA is not set; expected the folder that holds the data sets.")
    return Path(os.environ["CNNLSTM_DATA"])
