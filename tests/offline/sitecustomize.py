"""No network but this machine's own: Python runs this file at its start in every process that the tests start.

The tests' process runs it too (`conftest.py`). Who tries to reach another machine gets an OSError, and a line with the
name of the test in the file that COP_TRIED names. Chromium and the sockets of C++ (torch.distributed) are not seen.
"""

import errno
import os
import socket
import sys

OWN = {"", "localhost", "0.0.0.0", "::", "::1", socket.gethostname()}


def forbid(event: str, args: tuple) -> None:
    """An audit hook: refuses names and addresses of other machines."""
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        where = args[1][0] if isinstance(args[1], tuple) else None  # others are sockets of the file system
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        where = args[0]
    else:
        return
    where = where.decode() if isinstance(where, bytes) else where
    if where is None or where in OWN or where.startswith("127."):
        return
    with open(os.environ["COP_TRIED"], "a") as file:
        file.write(f"{where} in {os.environ.get('PYTEST_CURRENT_TEST', 'no test')}\n")
    raise OSError(errno.ENETUNREACH, f"tests have no network, and {where} was asked for")


if "COP_TRIED" in os.environ:
    sys.addaudithook(forbid)
