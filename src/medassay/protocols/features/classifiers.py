"""scikit-learn's classifiers on features: small grids of hyperparameters, among which validation images choose.

Source: Pedregosa et al., "Scikit-learn: Machine Learning in Python", JMLR 2011.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from medassay.core.errors import DataError
from medassay.metrics.classification import measure_classification

Name = Literal["logistic_regression", "svm", "random_forest", "knn"]
Settings = dict[str, Any]

CRITERION = "balanced_accuracy"  # on validation images; it needs decisions alone, which every classifier makes
TREES = 200
ITERATIONS = 2000  # of logistic regression, at most

NAMES: dict[Name, str] = {
    "logistic_regression": "logistic regression",
    "svm": "support vector machine",
    "random_forest": "random forest",
    "knn": "k nearest neighbours",
}
# From the simplest, the first of which wins where several are equally good, to the one that bends most to single images
GRIDS: dict[Name, list[Settings]] = {
    "logistic_regression": [{"C": c} for c in (0.001, 0.01, 0.1, 1.0, 10.0)],
    "svm": [
        *({"kernel": "linear", "C": c} for c in (0.001, 0.01, 0.1)),
        *({"kernel": "rbf", "C": c} for c in (0.1, 1.0, 10.0)),
    ],
    "random_forest": [{"max_depth": depth} for depth in (4, 8, None)],
    "knn": [{"n_neighbors": k} for k in (31, 11, 5, 1)],
}


@dataclass(frozen=True)
class LabelledFeatures:
    """Features ``(N, d) float32`` of some images and their labels ``(N,) int64``."""

    features: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> LabelledFeatures:
        return LabelledFeatures(self.features[index], self.labels[index])


@dataclass(frozen=True)
class Candidate:
    """Some hyperparameters, their score on validation images, and whether fitting ended by itself."""

    settings: Settings
    score: float
    converged: bool


@dataclass(frozen=True)
class Choice:
    """The candidates of one classifier in their order, the chosen one, and the fitted classifier."""

    candidates: list[Candidate]
    chosen: Candidate
    classifier: Any


def choose_classifier(
    name: Name,
    train: LabelledFeatures,
    val: LabelledFeatures,
    num_classes: int,
    *,
    standardise: bool = True,
    seed: int = 0,
) -> Choice:
    """Fits every candidate on ``train`` and takes the best on ``val``, among equally good ones the simplest.

    Args:
        name: Name of the classifier.
        train, val: Features to fit on, and to choose by.
        num_classes: Number of classes K.
        standardise: Whether to bring each feature to mean 0 and standard deviation 1 on ``train`` first.
        seed: Seed of the random forest.

    Raises:
        DataError: The training images are all of one class.
    """
    if len(set(train.labels.tolist())) < 2:
        raise DataError(
            f"the {len(train)} training images are all of one class, and a classifier needs two: give other images, or "
            "protocol.classifiers=[] for the features alone"
        )
    fitted: list[tuple[Candidate, Any]] = []
    for settings in list_settings(name, len(train)):
        classifier = make_classifier(name, settings, standardise=standardise, seed=seed)
        converged = _fit(name, classifier, train)
        measured = measure_classification(predict_probabilities(classifier, val.features, num_classes), val.labels)
        fitted.append((Candidate(settings, measured[CRITERION], converged), classifier))
    chosen, classifier = max(fitted, key=lambda one: one[0].score)
    return Choice([candidate for candidate, _ in fitted], chosen, classifier)


def list_settings(name: Name, images: int) -> list[Settings]:
    """The candidates for so many training images: more neighbours than these are left out."""
    return [settings for settings in GRIDS[name] if settings.get("n_neighbors", 1) <= images]


def describe_settings(settings: Settings) -> str:
    """Hyperparameters in words."""
    words = {"C": "C = {:g}", "kernel": "{} kernel", "max_depth": "depth {}", "n_neighbors": "k = {}"}
    return ", ".join("any depth" if value is None else words[name].format(value) for name, value in settings.items())


def make_classifier(name: Name, settings: Settings, *, standardise: bool, seed: int) -> Any:
    """A pipeline, not yet fitted; every class counts the same, however many images it has, but for k nearest neighbours."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    if name == "logistic_regression":
        classifier = LogisticRegression(max_iter=ITERATIONS, class_weight="balanced", **settings)
    elif name == "svm":
        classifier = SVC(class_weight="balanced", **settings)
    elif name == "random_forest":
        classifier = RandomForestClassifier(TREES, class_weight="balanced", random_state=seed, **settings)
    else:
        classifier = KNeighborsClassifier(**settings)
    return make_pipeline(*([StandardScaler()] if standardise else []), classifier)


def predict_probabilities(classifier: Any, features: Tensor, num_classes: int) -> Tensor:
    """``features (N, d) -> (N, K) float64``; the largest is the classifier's decision, 0 a class it was not fitted on.

    A support vector machine gives no probabilities: its decision values stand in for them, through a softmax. That changes
    no decision, and with two classes no ranking.
    """
    values = features.double().numpy()
    if hasattr(classifier, "predict_proba"):
        own = torch.from_numpy(classifier.predict_proba(values))
    else:
        scores = torch.from_numpy(classifier.decision_function(values))
        own = (scores if scores.ndim == 2 else torch.stack([torch.zeros_like(scores), scores], 1)).softmax(1)
    probabilities = torch.zeros(len(features), num_classes, dtype=torch.float64)
    probabilities[:, torch.from_numpy(classifier.classes_)] = own
    return probabilities


def _fit(name: Name, classifier: Any, train: LabelledFeatures) -> bool:
    """Fits, and says whether that ended by itself; of a logistic regression that did not, the report tells."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(train.features.double().numpy(), train.labels.numpy())
    return name != "logistic_regression" or int(classifier[-1].n_iter_.max()) < ITERATIONS
