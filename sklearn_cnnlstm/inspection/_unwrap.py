"""Which CNN-LSTM estimator is inside what the user passed?"""

from sklearn.utils.validation import check_is_fitted

from .._estimators import _BaseCNNLSTM


def unwrap(estimator, *, pipelines=True):
    """The fitted CNNLSTMClassifier or CNNLSTMRegressor inside searches and, where that does no harm, pipelines."""
    inner = estimator
    while not isinstance(inner, _BaseCNNLSTM):
        if hasattr(inner, "best_estimator_"):
            inner = inner.best_estimator_
        elif pipelines and hasattr(inner, "steps"):
            inner = inner.steps[-1][1]
        else:
            allowed = "a pipeline that ends in one, or a search over one" if pipelines else "or a search over one"
            hint = "" if pipelines else " (of a pipeline pass the last step, and X as the steps before it make it)"
            raise TypeError(
                f"estimator is {type(inner).__name__}; expected a fitted CNNLSTMClassifier or CNNLSTMRegressor, "
                f"{allowed}{hint}."
            )
    check_is_fitted(inner)
    return inner
