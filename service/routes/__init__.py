"""The HTTP routes: each reads a request, asks the service core, writes a reply."""
