"""The recommender: encoder, collaborative models, recall, ranker, bundle, registry, evaluation."""

__version__ = "0.1.0"
