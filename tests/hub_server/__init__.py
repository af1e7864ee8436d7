"""A model hub on loopback, in memory, that the real ``huggingface_hub`` client pushes to and pulls from.

``repositories`` is what a hub keeps, ``protocol`` what it answers, ``server`` the socket, ``fixtures`` what tests use.
"""

from .protocol import Reply, Request
from .repositories import HubState, Repository, StoredFile
from .server import HubServer

__all__ = ["HubServer", "HubState", "Reply", "Repository", "Request", "StoredFile"]
