-- The event log has the database `recsys`, which the image makes; MLflow keeps its tables apart.
CREATE DATABASE mlflow;
