"""Look into a fitted estimator: how it was trained, what it is made of, what it looked at."""

from ._attribution import attention_weights, attribute
from ._attribution_display import AttributionDisplay
from ._diagnosis import diagnose
from ._history import TrainingHistoryDisplay
from ._importance import SpatiotemporalImportanceDisplay, spatiotemporal_importance
from ._summary import summary

__all__ = [
    "AttributionDisplay",
    "SpatiotemporalImportanceDisplay",
    "TrainingHistoryDisplay",
    "attention_weights",
    "attribute",
    "diagnose",
    "spatiotemporal_importance",
    "summary",
]
