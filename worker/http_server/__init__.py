"""Serve an ASGI application on a port, in a background thread or in the foreground.

server       the server, its thread and its socket
connections  how many connections there may be, and for how long one may keep others waiting
"""

from worker.http_server.server import bind_socket, create_server, serve_in_background

__all__ = ["bind_socket", "create_server", "serve_in_background"]
