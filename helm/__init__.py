"""What deploys the service; Python is here only where dashboards are built."""
