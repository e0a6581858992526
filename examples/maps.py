"""How well does a CNN-LSTM forecast next month's sea-surface temperature, against persistence and climatology?

    CNNLSTM_DATA=folder python examples/maps.py

reads SST_Nino34.npz there (monthly anomalies of the tropical Pacific, 1970 to 2003; land is NaN).
"""

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from sklearn_cnnlstm import CNNLSTMRegressor

WINDOW = 12  # months that are looked back


def to_samples(series):
    """Maps of twelve months (sample, month, latitude, longitude, 1) as views, and the map of the next month."""
    windows = np.lib.stride_tricks.sliding_window_view(series, WINDOW, axis=0)[:-1]
    return np.moveaxis(windows, -1, 1)[..., np.newaxis], series[WINDOW:]


def forecast(series, months, first_test, *, random_state=0):
    """What each method says of the months from `first_test` on, and what came."""
    X, y = to_samples(series)
    months = months[WINDOW:]
    test = months >= first_test
    calendar = months.month
    usual = np.stack([y[~test & (calendar == month)].mean(axis=0) for month in range(1, 13)])
    network = CNNLSTMRegressor(target="map", random_state=random_state).fit(X[~test], y[~test])
    return {
        "monthly climatology": usual[calendar[test] - 1],
        "persistence": X[test, -1, ..., 0],
        "CNNLSTMRegressor": network.predict(X[test]),
    }, y[test]


def errors(forecasts, truth):
    """Mean absolute and root mean squared error over the sea."""
    table = {}
    for name, maps in forecasts.items():
        error = maps - truth
        table[name] = {"MAE": np.nanmean(np.abs(error)), "RMSE": np.sqrt(np.nanmean(error**2))}
    return pd.DataFrame(table).T


def main():
    if "CNNLSTM_DATA" not in os.environ:
        sys.exit("CNNLSTM_DATA is not set; expected the folder that holds SST_Nino34.npz.")
    with np.load(Path(os.environ["CNNLSTM_DATA"]) / "SST_Nino34.npz") as data:
        series, months = data["series"], pd.PeriodIndex(data["time"], freq="M")
    for seed in range(3):
        forecasts, truth = forecast(series, months, pd.Period("1990-01", freq="M"), random_state=seed)
        print(f"sea-surface temperature of the next month, 1990-01 to 2003-03, K (random_state={seed})")
        print(errors(forecasts, truth).to_string(float_format="%.3f"), end="\n\n")


if __name__ == "__main__":
    main()
