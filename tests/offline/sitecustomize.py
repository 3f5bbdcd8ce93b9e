"""On the PYTHONPATH of lessons that tests start: any use of the network ends the process."""

import os
import socket
import sys


def refuse(*args, **kwargs):
    """Leave at once, so that no lesson can catch it and go on."""
    print(f"the network was used: {args}", file=sys.stderr)
    os._exit(99)


socket.getaddrinfo = refuse
socket.create_connection = refuse
