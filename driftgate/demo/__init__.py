"""The demo: an example application and gateway around a real ``driftgate up``, watched until a rollback is verified."""
