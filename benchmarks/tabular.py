"""Is a table in good hands with estimators made for sequences?

Five-fold cross-validation on the data sets that come with scikit-learn: defaults against MLPClassifier and
MLPRegressor, both on standardised columns and on the table as it is.
"""

import argparse
import time
import warnings
from collections import defaultdict

import numpy as np
import report
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_cnnlstm import CNNLSTMClassifier, CNNLSTMRegressor

SETS = {
    "breast_cancer": load_breast_cancer,
    "diabetes": load_diabetes,
    "digits": load_digits,
    "iris": load_iris,
    "wine": load_wine,
}


def main(arguments=None):
    options = _parser().parse_args(arguments)
    rows = [compare(name, options.seeds) for name in options.sets]
    report.publish(rows, options.out)


def compare(name, n_seeds):
    X, y = SETS[name](return_X_y=True)
    is_regression = name == "diabetes"
    scores, seconds = defaultdict(list), defaultdict(list)
    for seed in range(n_seeds):
        ours = (CNNLSTMRegressor if is_regression else CNNLSTMClassifier)(random_state=seed)
        mlp = (MLPRegressor if is_regression else MLPClassifier)(max_iter=1000, random_state=seed)
        models = {model: make_pipeline(StandardScaler(), est) for model, est in (("ours", ours), ("MLP", mlp))}
        models |= {"ours, as it is": ours, "MLP, as it is": mlp}
        folds = (KFold if is_regression else StratifiedKFold)(5, shuffle=True, random_state=seed)
        for model, estimator in models.items():
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # an MLP's
                scores[model].append(cross_val_score(estimator, X, y, cv=folds).mean())
            seconds[model].append((time.perf_counter() - start) / 5)
    means = {model: np.mean(values) for model, values in scores.items()}
    row = {"set": name, "score": "R2" if is_regression else "accuracy", "seeds": n_seeds}
    row |= {model: f"{means[model]:.4f} +- {np.std(scores[model]):.4f}" for model in scores}
    row["ours - MLP"] = f"{means['ours'] - means['MLP']:+.4f}"
    return row | {f"fit of {model}, s": f"{np.median(seconds[model]):.1f}" for model in ("ours", "MLP")}


def _parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS), metavar="SET", help="data sets")
    parser.add_argument("--seeds", type=int, default=3, help="cross-validations (default: 3)")
    parser.add_argument("--out", metavar="FILE.json", help="write the table here")
    return parser


if __name__ == "__main__":
    main()
