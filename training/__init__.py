"""Offline: prepare data, train the backbone, adapters and fusion, evaluate, and export what the service reads."""
