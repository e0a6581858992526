"""What all tests share: threads that do not fight for the cores, the device, and the folder of real data."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from sklearn_cnnlstm import _training

os.environ["MPLBACKEND"] = "Agg"  # figures without a screen, also where there is one

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def on_the_cpu(request, monkeypatch):
    """Where there is an accelerator, the tests marked gpu alone use it: others compare bits, and do so anywhere."""
    if "gpu" not in request.keywords:
        monkeypatch.setattr(_training, "_is_available", lambda device: device.type == "cpu")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # for other processes


@pytest.fixture
def load_data():
    """A function name -> arrays of a real data set; skips the test where there are none."""
    folder = os.environ.get("CNNLSTM_DATA")

    def load(name):
        if folder is None:
            pytest.skip("the environment variable CNNLSTM_DATA names no folder of data sets")
        path = Path(folder) / f"{name}.npz"
        if not path.exists():
            pytest.skip(f"{path} is missing")
        with np.load(path) as data:
            return {key: data[key] for key in data}

    return load
