"""CNN-LSTM estimators for data with space and time in it, as scikit-learn estimators."""

from ._estimators import CNNLSTMClassifier, CNNLSTMRegressor
from ._version import __version__

__all__ = ["CNNLSTMClassifier", "CNNLSTMRegressor", "__version__"]
