"""Look into a fitted estimator: how it was trained, what it is made of, what it looked at."""

from ._history import TrainingHistoryDisplay
from ._importance import SpatiotemporalImportanceDisplay, spatiotemporal_importance
from ._summary import summary

__all__ = ["SpatiotemporalImportanceDisplay", "TrainingHistoryDisplay", "spatiotemporal_importance", "summary"]
