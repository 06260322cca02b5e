"""A typed client of the HTTP API, synchronous and asynchronous."""

from recsys.serving.client.client import AsyncClient, Client
from recsys.serving.client.policy import ApiError, RetryBudget

__all__ = ["ApiError", "AsyncClient", "Client", "RetryBudget"]
