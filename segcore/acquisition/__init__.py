"""Published files to an unpacked tree: archives, transfers, accounts, unpacking."""

from segcore.acquisition.archives import Archive
from segcore.acquisition.bringing import bring
from segcore.acquisition.watch import NOBODY, Listener

__all__ = ["NOBODY", "Archive", "Listener", "bring"]
