"""Which CNN-LSTM estimator is inside what the user passed?"""

from sklearn.utils.validation import check_is_fitted

from .._estimators import _BaseCNNLSTM


def unwrap(estimator):
    """The fitted CNNLSTMClassifier or CNNLSTMRegressor at the end of pipelines and inside searches."""
    inner = estimator
    while not isinstance(inner, _BaseCNNLSTM):
        if hasattr(inner, "best_estimator_"):
            inner = inner.best_estimator_
        elif hasattr(inner, "steps"):
            inner = inner.steps[-1][1]
        else:
            raise TypeError(
                f"estimator is {estimator!r:.80}; expected a fitted CNNLSTMClassifier or CNNLSTMRegressor, a pipeline "
                "that ends in one, or a search over one."
            )
    check_is_fitted(inner)
    return inner
