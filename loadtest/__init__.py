"""Load on a running Espalier, by a stranger: HTTP, a catalogue file and nothing of ours.

Only `users`, `locustfile` and `dispatcher` import Locust or gevent; everything else is plain Python.
"""
