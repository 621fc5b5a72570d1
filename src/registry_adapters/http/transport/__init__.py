"""The HTTP transport: connections, TLS, proxies, and the in-process transport for WSGI applications."""
