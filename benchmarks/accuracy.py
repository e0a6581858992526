"""How accurate are the estimators with nothing set?

Default estimators on official splits of the data sets in the folder CNNLSTM_DATA, a fit per seed. Each fit writes a
JSON file into the folder `--results`, with versions and commit, so that a run can stop and go on; the table is made of
all files there. `--validate` leaves the test parts alone: it holds out a third of the training part (whole groups where
the set has groups), which is what choices are to be made on. `--quick` does so on three small sets.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import report
from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit, StratifiedShuffleSplit

from sklearn_cnnlstm import CNNLSTMClassifier, CNNLSTMRegressor

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
OTHERS = ["UCI_HAR", "BeijingPM25Quality", "BeijingPollutionHourly", "CardanoSentiment", "Covid3Month", "ETTh1"]
QUICK = ["GunPoint", "ECG200", "RacketSports"]
PEERS = ("InceptionTime", "ROCKET", "FCN")  # whose published accuracies stand beside ours


def main():
    options = _parser().parse_args()
    options.validate |= options.quick  # whether the script works is no reason to look at test parts
    if "CNNLSTM_DATA" not in os.environ:
        sys.exit("CNNLSTM_DATA is not set; expected the folder that holds the data sets.")
    folder = Path(options.results)
    folder.mkdir(parents=True, exist_ok=True)
    for name in QUICK if options.quick else options.sets:
        for seed in range(1 if options.quick else options.seeds):
            file = folder / f"{name}-{seed}{'-validation' if options.validate else ''}.json"
            if not file.exists():
                try:
                    result = measure(name, seed, validate=options.validate)
                except ValueError as error:  # what the estimators do not take yet
                    print(f"{name:26s} left out: {error}")
                    break
                file.write_text(json.dumps(result) + "\n")
                print(
                    f"{name:26s} seed {seed}  {result['metric']} {result['score']:.4f}  {result['fit_seconds']:.1f} s"
                )
    kind = "validation" if options.validate else "test"
    results = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    rows = table([result for result in results if result["part"] == kind])
    report.publish(rows, options.out)


def measure(name, seed, *, validate):
    """Score and seconds of one fit."""
    with np.load(data_folder() / f"{name}.npz") as data:
        X, y, X_test, y_test = (data[key] for key in ("X_train", "y_train", "X_test", "y_test"))
        groups = data.get("groups_train")
    is_regression = y.dtype.kind == "f"
    if validate:
        rows, others = held_out_third(X, y, groups, seed, is_regression=is_regression)
        X, y, X_test, y_test = X[rows], y[rows], X[others], y[others]
    estimator = (CNNLSTMRegressor if is_regression else CNNLSTMClassifier)(random_state=seed)
    start = time.perf_counter()
    estimator.fit(X, y)
    fitted = time.perf_counter()
    predictions = estimator.predict(X_test)
    return {
        "set": name,
        "seed": seed,
        "part": "validation" if validate else "test",
        "metric": "RMSE" if is_regression else "accuracy",
        "score": float(rmse(y_test, predictions) if is_regression else (predictions == y_test).mean()),
        "fit_seconds": fitted - start,
        "predict_seconds": time.perf_counter() - fitted,
        "commit": commit(),
    } | report.circumstances()


def held_out_third(X, y, groups, seed, *, is_regression):
    split = GroupShuffleSplit if groups is not None else ShuffleSplit if is_regression else StratifiedShuffleSplit
    return next(split(1, test_size=1 / 3, random_state=seed).split(X, y, groups))


def rmse(y, predictions):
    return np.sqrt(((y - predictions) ** 2).mean())


def table(results):
    """A row per set: mean and standard deviation over seeds, seconds, published values."""
    published = read_published()
    rows = []
    for name in dict.fromkeys(result["set"] for result in results):
        of_set = [result for result in results if result["set"] == name]
        scores = [result["score"] for result in of_set]
        rows.append(
            {
                "set": name,
                "metric": of_set[0]["metric"],
                "ours": f"{np.mean(scores):.4f}",
                "sd": f"{np.std(scores):.4f}",
                "seeds": len(scores),
                "fit, s": f"{np.median([result['fit_seconds'] for result in of_set]):.1f}",
            }
            | {peer: published.get((name, peer), "") for peer in PEERS}
        )
    means = [float(row["ours"]) for row in rows if row["set"] in SERIES]
    if means:
        empty = dict.fromkeys(rows[0], "")
        rows.append(empty | {"set": f"mean of {len(means)} UCR/UEA sets", "ours": f"{np.mean(means):.4f}"})
    return rows


def read_published():
    """(set, method) -> accuracy on the default split, where published.csv lies beside the sets."""
    file = data_folder() / "published.csv"
    if not file.exists():
        return {}
    with file.open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["metric"].startswith("accuracy")]
    default = [row for row in rows if "default" in row["metric"]]
    return {(row["dataset"], row["method"]): row["value"] for row in reversed(default)}


def data_folder():
    return Path(os.environ["CNNLSTM_DATA"])


def commit():
    shown = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return shown.stdout.strip()


def _parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=[*SERIES, *OTHERS], help="names of data sets")
    parser.add_argument("--seeds", type=int, default=5, help="fits per set (default: 5)")
    parser.add_argument("--validate", action="store_true", help="score a third of the training part instead")
    parser.add_argument("--quick", action="store_true", help="three small sets, one seed, as --validate")
    parser.add_argument("--results", default="accuracy-results", metavar="FOLDER", help="a file per fit goes there")
    parser.add_argument("--out", metavar="FILE.json", help="write the table here")
    return parser


if __name__ == "__main__":
    main()
