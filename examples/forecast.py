"""How well does a CNN-LSTM forecast Beijing's PM2.5 from a day of air and weather, against persistence and ridge?

    CNNLSTM_DATA=folder python examples/forecast.py

reads BeijingPollutionHourly.npz there (UCI's Beijing PM2.5 data: hourly values of 2010 to 2014).
"""

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import Ridge
from sklearn.model_selection import TimeSeriesSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_cnnlstm import CNNLSTMRegressor
from sklearn_cnnlstm.preprocessing import sliding_windows

TARGET = "pollution_pm2.5"


def to_table(data):
    """The series with an hour per row; the direction of the wind, a code, becomes a column per direction."""
    table = pd.DataFrame(data["series"], index=pd.to_datetime(data["time"]), columns=data["feature_names"])
    return pd.get_dummies(table, columns=["wnd_dir_code"], dtype=np.float32)


def forecast(table, lead, *, n_splits=2):
    """What each method says `lead` hours ahead, out of the 24 hours up to then; a row per hour that is forecast."""
    X, y, hour = sliding_windows(table, window=24, gap=lead - 1, target=TARGET)
    lags = X.reshape(len(X), -1)
    now = X[:, -1, table.columns.get_loc(TARGET)]
    change = y - now  # easier to learn than the level; to ridge, which sees `now`, it is the same
    parts = []
    # `lead - 1` windows between training and test: their targets are not known yet when the first test window ends
    for train, test in TimeSeriesSplit(n_splits, gap=lead - 1).split(X):
        ridge = make_pipeline(StandardScaler(), Ridge(100.0)).fit(lags[train], change[train])
        # overlapping windows are much alike, so few passes over them do
        network = CNNLSTMRegressor(max_epochs=4, random_state=0).fit(X[train], change[train])
        answers = {
            "persistence": now[test],
            "ridge on lags": now[test] + ridge.predict(lags[test]),
            "CNNLSTMRegressor": now[test] + network.predict(X[test]),
        }
        parts.append(pd.DataFrame(answers, index=hour[test]))
    return pd.concat(parts)


def errors(forecasts, truth):
    """Mean absolute and root mean squared error of each column, over the hours that were forecast."""
    error = forecasts.sub(truth.loc[forecasts.index], axis=0)
    return pd.DataFrame({"MAE": error.abs().mean(), "RMSE": np.sqrt((error**2).mean())})


def main():
    if "CNNLSTM_DATA" not in os.environ:
        sys.exit("CNNLSTM_DATA is not set; expected the folder that holds BeijingPollutionHourly.npz.")
    with np.load(Path(os.environ["CNNLSTM_DATA"]) / "BeijingPollutionHourly.npz") as data:
        table = to_table(data)
    for lead in (1, 6, 24):
        print(f"PM2.5 {lead} h ahead, ug/m3")
        print(errors(forecast(table, lead), table[TARGET]).to_string(float_format="%.1f"), end="\n\n")


if __name__ == "__main__":
    main()
