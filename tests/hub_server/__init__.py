"""A model hub on loopback, in memory, that the real ``huggingface_hub`` client pushes to and pulls from.

``repositories`` is what a hub keeps, ``messages`` and ``protocol`` how it answers, ``server`` the socket, ``fixtures``
what tests use.
"""

from hub_server.messages import Reply, Request
from hub_server.repositories import HubState, Repository, StoredFile
from hub_server.server import HubServer

__all__ = ["HubServer", "HubState", "Reply", "Repository", "Request", "StoredFile"]
