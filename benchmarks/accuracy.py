"""How accurate are the estimators with nothing set?

Default estimators on official splits of the data sets in the folder CNNLSTM_DATA, a fit per seed, beside published
scores and beside peers that are fitted on the spot: scikit-learn's, and aeon's if it is installed. Each fit writes a
JSON file into the folder `--results`, with versions and commit, so that a run can stop and go on; the table is made of
all files there. Our answers lie beside it as .npz: the mean of those of all seeds is what a voting ensemble answers.

`--validate` leaves the test parts alone: it holds out a third of the training part, which is what choices are to be
made on. `--quick` does so on three small sets. Each of our scores on a test part is noted in recipe.md.
"""

import argparse
import datetime
import json
import sys
import time
import warnings
from pathlib import Path

import data_sets
import numpy as np
import peers
import report
from sklearn.exceptions import ConvergenceWarning

from sklearn_cnnlstm import CNNLSTMClassifier, CNNLSTMRegressor

OURS = "CNN-LSTM"
QUICK = ["GunPoint", "ECG200", "RacketSports"]
RECIPE = Path(__file__).with_name("recipe.md")


def main(arguments=None):
    options = _parser().parse_args(arguments)
    folder = Path(options.results)
    folder.mkdir(parents=True, exist_ok=True)
    if options.quick:  # whether the script works is no reason to look at test parts
        options.validate, options.sets, options.models, options.seeds = True, QUICK, [OURS, *peers.QUICK], 1
    if not options.report:
        for name in options.sets:
            for model in options.models:
                run(name, model, folder, options)
    results = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    kind = "validation" if options.validate else "test"
    results = [result for result in results if result["part"] == kind and result["set"] in options.sets]
    series, others = tables(results, folder if options.vote else None)
    if not (series or others):
        sys.exit("No results yet.")
    if series and others:
        print("\n" + report.markdown(others))
    commits = sorted({result["commit"] for result in results if result["model"] == OURS})
    report.publish(series or others, options.out, others=others, commits_of_ours=commits)
    print("commits of our scores:", *commits)


def run(name, model, folder, options):
    """Fit each seed whose file is not there yet."""
    n_seeds = options.seeds or (3 if name in data_sets.LARGE else 5)
    for seed in range(n_seeds if model in (OURS, *peers.WITH_SEED) else 1):
        held_out = (0 if options.vote else seed) if options.validate else None
        file = folder / f"{name}_{model.replace(' ', '-')}_{seed}{_suffix(held_out)}.json"
        if file.exists():
            continue
        try:
            result, answers = measure(name, model, seed, held_out=held_out)
        except ValueError as error:  # what the model does not take
            print(f"{name:26s} {model} left out: {error}")
            return
        if result is None:
            return
        if model == OURS:
            np.savez_compressed(file.with_suffix(".npz"), **answers)
        if model == OURS and held_out is None:
            note_look(name, seed, result["score"])
        file.write_text(json.dumps(result) + "\n")
        about = f"{result['metric']} {result['score']:.4f}  {result['fit_seconds']:.1f} s"
        print(f"{name:26s} {model:22s} seed {seed}  {about}", flush=True)


def measure(name, model, seed, *, held_out):
    """Score and seconds of a model, and the answers; seconds are those of one fit where there are several."""
    fit_seconds, predictions, outputs, truth = [], [], [], []
    for (X, y), (X_test, y_test) in data_sets.splits(name, held_out=held_out):
        if model == OURS:
            estimator = (CNNLSTMRegressor if data_sets.is_regression(y) else CNNLSTMClassifier)(random_state=seed)
        else:
            estimator = peers.make_peer(model, name, X, y, seed)
            if estimator is None:
                return None, None
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # an MLP's, whose defaults are its own
            estimator.fit(X, y)
        fit_seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
        predictions.append(estimator.predict(X_test))
        predict_seconds = time.perf_counter() - start
        truth.append(y_test)
        if model == OURS and not data_sets.is_regression(y):
            outputs.append(estimator.predict_proba(X_test))
    predictions, truth = np.concatenate(predictions), np.concatenate(truth)
    result = {
        "set": name,
        "model": model,
        "seed": seed,
        "part": "test" if held_out is None else "validation",
        "held_out": held_out,
        "metric": data_sets.metric(name, truth),
        "score": data_sets.score(name, truth, predictions),
        "fit_seconds": float(np.mean(fit_seconds)),
        "predict_seconds": predict_seconds,
    }
    answers = {"outputs": np.concatenate(outputs) if outputs else predictions, "y": truth}
    return result | report.circumstances(), answers


def note_look(name, seed, score):
    """Note it in the recipe: a test part that was looked at can no longer judge what is chosen after."""
    heading = "## Looks at test parts by accuracy.py"
    text = RECIPE.read_text().rstrip("\n")
    if heading not in text:
        text += f"\n\n{heading}\n"
    look = f"{score:.4f} (seed {seed})"
    of_set = f"commit {report.commit()}: {name} "
    if of_set in text.splitlines()[-1]:  # the other seeds
        text += f", {look}"
    else:
        when = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d, %H:%M UTC")
        text += f"\n- {when}, {of_set}{look}"
    RECIPE.write_text(text + "\n")


def vote(name, folder, *, validate):
    """What the mean of the answers of all seeds scores: scikit-learn's VotingClassifier (soft) or VotingRegressor."""
    of_seeds = [file for file in folder.glob(f"{name}_{OURS}_*.npz") if ("held-out" in file.name) == validate]
    if validate:
        of_seeds = [file for file in of_seeds if file.stem.endswith(_suffix(0))]
    if len(of_seeds) < 2:
        return ""
    parts = [np.load(file) for file in sorted(of_seeds)]
    y, mean = parts[0]["y"], np.mean([part["outputs"] for part in parts], axis=0)
    predictions = mean if data_sets.is_regression(y) else mean.argmax(axis=1)
    return f"{data_sets.score(name, y, predictions):.4f}"


def tables(results, folder_of_votes):
    """A row per set, the UCR/UEA sets apart: means and deviations over seeds, seconds, peers, published scores."""
    names = [name for name in [*data_sets.SERIES, *data_sets.OTHERS] if any(r["set"] == name for r in results)]
    run_peers = [peer for peer in [*peers.SKLEARN, *peers.AEON] if any(r["model"] == peer for r in results)]
    rows = {name: _row(name, results, run_peers, folder_of_votes) for name in names}
    series = [rows[name] for name in names if name in data_sets.SERIES]
    others = [rows[name] for name in names if name not in data_sets.SERIES]
    for row in series:
        row |= {"InceptionTime": "", "ROCKET": "", "FCN": ""} | data_sets.published(row["set"])
        row.pop("metric")
    for row in others:
        row["published"] = ", ".join(f"{method} {value}" for method, value in data_sets.published(row["set"]).items())
    for rows in (series, others):
        for peer in [peer for peer in run_peers if rows and not any(row[peer] for row in rows)]:
            for row in rows:
                row.pop(peer)
    if series:
        series.append(_means(series))
    return series, others


def _row(name, results, run_peers, folder_of_votes):
    def of(model):
        found = [result for result in results if result["set"] == name and result["model"] == model]
        return [r for r in found if folder_of_votes is None or r["held_out"] in (None, 0)]

    ours = of(OURS)
    scores = [result["score"] for result in ours]
    any_result = next(result for result in results if result["set"] == name)
    row = {"set": name, "metric": any_result["metric"], "ours": _mean(scores)}
    row |= {"sd": f"{np.std(scores):.4f}" if scores else "", "seeds": len(scores)}
    if folder_of_votes is not None:
        row["vote"] = vote(name, folder_of_votes, validate=any_result["part"] == "validation")
    row["fit, s"] = f"{np.median([result['fit_seconds'] for result in ours]):.1f}" if ours else ""
    return row | {peer: _mean([result["score"] for result in of(peer)]) for peer in run_peers}


def _mean(scores):
    return f"{np.mean(scores):.4f}" if scores else ""


def _means(rows):
    """Means of the columns that have a score for each set, and the median of the seconds."""
    last = dict.fromkeys(rows[0], "") | {"set": f"mean of {len(rows)}"}
    for column in set(last) - {"set", "seeds", "sd", "fit, s"}:
        if all(row[column] for row in rows):
            last[column] = f"{np.mean([float(row[column]) for row in rows]):.4f}"
    seconds = [float(row["fit, s"]) for row in rows if row["fit, s"]]
    if seconds:
        last["fit, s"] = f"median {np.median(seconds):.1f}"
    return last


def _suffix(held_out):
    return "" if held_out is None else f"_held-out-{held_out}"


def _parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everything = [*data_sets.SERIES, *data_sets.OTHERS]
    models = [OURS, *peers.SKLEARN, *peers.AEON]
    parser.add_argument("--sets", nargs="+", default=everything, choices=everything, metavar="SET", help="data sets")
    parser.add_argument(
        "--models",
        nargs="+",
        default=[OURS, *peers.installed()],
        choices=models,
        metavar="MODEL",
        help="of " + ", ".join(models) + " (default: all that are installed)",
    )
    parser.add_argument("--seeds", type=int, help="fits per set (default: 5, and 3 of large sets)")
    parser.add_argument("--validate", action="store_true", help="score a third of the training part instead")
    parser.add_argument("--quick", action="store_true", help="three small sets, one seed, as --validate")
    parser.add_argument(
        "--vote",
        action="store_true",
        help="also what the mean of all seeds' answers scores; with --validate all seeds get the same third",
    )
    parser.add_argument("--report", action="store_true", help="fit nothing: the table of what lies in --results")
    parser.add_argument("--results", default="accuracy-results", metavar="FOLDER", help="a file per fit goes there")
    parser.add_argument("--out", metavar="FILE.json", help="write the table here")
    return parser


if __name__ == "__main__":
    main()
