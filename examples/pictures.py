"""What do the pictures of `sklearn_cnnlstm.inspection` look like on real data?

    CNNLSTM_DATA=folder python examples/pictures.py [docs/images]

reads UCI_HAR.npz, RacketSports.npz, GunPoint.npz and UT_Interaction_set1.npz there; a minute on one core.
"""

import os
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.model_selection import GroupKFold, cross_validate

from sklearn_cnnlstm import CNNLSTMClassifier
from sklearn_cnnlstm.inspection import AttributionDisplay, SpatiotemporalImportanceDisplay, TrainingHistoryDisplay

WATCH = [f"{sensor} {axis}" for sensor in ("acceleration", "rotation") for axis in "xyz"]
SMALL = {"conv_channels": (16, 24, 32), "hidden_size": 24, "random_state": 0}


def load(name):
    with np.load(Path(os.environ["CNNLSTM_DATA"]) / f"{name}.npz") as data:
        return {key: data[key] for key in data}


def history():
    """Three folds of a cross-validation that leaves whole persons out, on every third window of UCI HAR."""
    data = load("UCI_HAR")
    X, y, groups = (data[name][::3] for name in ("X_train", "y_train", "groups_train"))
    model = CNNLSTMClassifier(**SMALL, early_stopping=True, scoring="accuracy")
    folds = cross_validate(model, X, y, groups=groups, cv=GroupKFold(3), return_estimator=True)["estimator"]
    return TrainingHistoryDisplay.from_estimator(folds)


def rackets():
    """A network that tells strokes of badminton and squash apart, and the strokes that it has not seen."""
    data = load("RacketSports")
    names = np.char.replace(data["class_names"], "_", " ")
    model = CNNLSTMClassifier(**SMALL, max_epochs=40).fit(data["X_train"], names[data["y_train"]])
    return model, data["X_test"], names[data["y_test"]]


def importance():
    model, X, y = rackets()
    return SpatiotemporalImportanceDisplay.from_estimator(
        model, X, y, n_repeats=10, random_state=0, channel_names=WATCH
    )


def attribution():
    model, X, y = rackets()
    sample = np.flatnonzero((model.predict(X) == y) & (y == "Badminton Smash"))[0]
    return AttributionDisplay.from_estimator(model, X, sample=sample, channel_names=WATCH)


def attribution_univariate():
    data = load("GunPoint")
    names = np.array(["gun", "point"])
    model = CNNLSTMClassifier(**SMALL, max_epochs=40).fit(data["X_train"], names[data["y_train"]])
    sample = np.flatnonzero(names[data["y_test"]] == "gun")[1]
    return AttributionDisplay.from_estimator(model, data["X_test"], sample=sample, channel_names=["height of the hand"])


def frames():
    data = load("UT_Interaction_set1")
    X, y = data["X_train"][:, ::2], data["class_names"][data["y_train"]]
    model = CNNLSTMClassifier(**SMALL, max_epochs=25).fit(X, y)
    sample = np.flatnonzero((model.predict(X) == y) & (y == "kicking"))[0]
    return AttributionDisplay.from_estimator(model, X, sample=sample, method="occlusion", window=(2, 8, 8, 3))


def save(figure, path):
    """A PNG of 256 colours, which is small."""
    figure.savefig(path, dpi=110)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    plt.close(figure)


def main():
    if "CNNLSTM_DATA" not in os.environ:
        sys.exit("CNNLSTM_DATA is not set; expected the folder that holds UCI_HAR.npz and the other sets.")
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images")
    folder.mkdir(parents=True, exist_ok=True)
    for picture in (history, importance, attribution, attribution_univariate, frames):
        save(picture().figure_, folder / f"{picture.__name__}.png")
        print(folder / f"{picture.__name__}.png")


if __name__ == "__main__":
    main()
