"""Small networks, and how they are asked, for tests that care about neither."""

import pytest
from sklearn.base import is_classifier

from sklearn_cnnlstm import CNNLSTMClassifier, CNNLSTMRegressor

SMALL = {"conv_channels": (4, 4), "hidden_size": 4, "batch_size": 8, "max_epochs": 2, "random_state": 0}

every_class = pytest.mark.parametrize("cls", [CNNLSTMClassifier, CNNLSTMRegressor])


def over_frames(frames):
    """What is inside a step of 3-D, 4-D, 5-D and 6-D X."""
    return pytest.mark.parametrize("frame", frames, ids=lambda frame: f"{len(frame) + 2}d")


def make(cls, **params):
    return cls(**SMALL | params)


def answer(model, X):
    return model.predict_proba(X) if is_classifier(model) else model.predict(X)
