"""What stands beside the estimators: scikit-learn's on flattened samples, aeon's if it is installed, persistence."""

import importlib.util

import data_sets
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import RidgeClassifierCV, RidgeCV
from sklearn.multioutput import MultiOutputRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

QUICK = ["dummy", "persistence", "ridge"]
SKLEARN = [*QUICK, "MLP", "HistGradientBoosting", "HistGradientBoosting of the change"]
AEON = ["MiniRocket", "Hydra"]
WITH_SEED = ["MLP", *AEON]  # the others answer the same for every seed

_MOST_VALUES = 5000  # of a sample; larger ones are read as principal components
_PENALTIES = np.logspace(-3, 5, 17)


def installed():
    return [*SKLEARN, *(AEON if importlib.util.find_spec("aeon") else [])]


def make_peer(peer, name, X, y, seed):
    """An estimator for samples like X (n, time, *space, channel) of the set `name`, None if it is not made for them."""
    regression = data_sets.is_regression(y)
    forecasts = data_sets.persistence(name, X[:1]) is not None
    if peer == "dummy":
        return _flat(DummyRegressor() if regression else DummyClassifier(), X)
    if peer == "persistence":
        no_change = DummyRegressor(strategy="constant", constant=0.0 if y.ndim == 1 else np.zeros(y.shape[1]))
        return Change(no_change, name) if forecasts else None
    if peer == "ridge":
        return _flat(RidgeCV(_PENALTIES) if regression else RidgeClassifierCV(_PENALTIES), X)
    if peer == "MLP":
        return _flat((MLPRegressor if regression else MLPClassifier)(max_iter=1000, random_state=seed), X)
    if peer.startswith("HistGradientBoosting"):
        boosting = _flat((HistGradientBoostingRegressor if regression else HistGradientBoostingClassifier)(), X)
        boosting = MultiOutputRegressor(boosting) if y.ndim == 2 else boosting
        if peer == "HistGradientBoosting":
            return boosting
        return Change(boosting, name) if forecasts else None
    if X.ndim != 3 or y.ndim > 1 or X.shape[1] < 9:
        return None
    return _aeons(peer, X.shape[1:], regression, seed)


class Change(BaseEstimator):
    """An estimator of the change from the last step."""

    def __init__(self, estimator, name):
        self.estimator = estimator
        self.name = name

    def fit(self, X, y):
        self.estimator.fit(X, y - data_sets.persistence(self.name, X))
        return self

    def predict(self, X):
        start = data_sets.persistence(self.name, X)
        return start + self.estimator.predict(X).reshape(start.shape)


def _flat(estimator, X):
    reduce = [PCA(20, random_state=0)] if X[0].size > _MOST_VALUES else []
    return make_pipeline(FunctionTransformer(_flattened), _imputer(), *reduce, StandardScaler(), estimator)


def _flattened(X):
    return X.reshape(len(X), -1).astype(np.float32)


def _imputer():
    """NaN, and padding, become the mean of the other training samples at that place."""
    return SimpleImputer(keep_empty_features=True)


def _aeons(peer, shape, regression, seed):
    """One of aeon's, which take (n, channel, time) without NaN."""
    if regression:
        from aeon.regression.convolution_based import HydraRegressor as Hydra
        from aeon.regression.convolution_based import MiniRocketRegressor as MiniRocket
    else:
        from aeon.classification.convolution_based import HydraClassifier as Hydra
        from aeon.classification.convolution_based import MiniRocketClassifier as MiniRocket
    kind = {"MiniRocket": MiniRocket, "Hydra": Hydra}[peer]
    to_series = FunctionTransformer(_channels_first, kw_args={"shape": shape})
    return make_pipeline(FunctionTransformer(_flattened), _imputer(), to_series, kind(random_state=seed))


def _channels_first(X, shape):
    return np.ascontiguousarray(X.reshape(-1, *shape).swapaxes(1, 2))
